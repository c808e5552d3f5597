"""ONNX forms of the package's own operators, for the table that torch.onnx.export takes. Needs onnxscript."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import INT64, opset18

from ..layers import nms, roi_align  # noqa: F401  (they register the operators)

op: Any = opset18  # its annotations do not allow constants


def grouped_nms(boxes: Any, scores: Any, iou_threshold: float, score_threshold: float, max_per_group: int) -> Any:
    return op.NonMaxSuppression(boxes, scores, max_per_group, iou_threshold, score_threshold)


def roi_align_levels(
    features: Sequence[Any],
    scales: Sequence[float],
    rois: Any,
    level: Any,
    cells: int,
    ratio: int,
    aligned: bool,
) -> Any:
    image = op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=INT64.dtype)
    boxes = op.Slice(rois, [1], [5], [1])
    options: dict[str, Any] = {
        "coordinate_transformation_mode": "half_pixel" if aligned else "output_half_pixel",
        "output_height": cells,
        "output_width": cells,
        "sampling_ratio": ratio,
    }
    if len(features) == 1:
        return op.RoiAlign(features[0], boxes, image, spatial_scale=scales[0], **options)
    pooled, order = [], []
    for index, (feature, scale) in enumerate(zip(features, scales)):
        own = op.Reshape(op.NonZero(op.Equal(level, index)), [-1])
        pooled.append(
            op.RoiAlign(feature, op.Gather(boxes, own), op.Gather(image, own), spatial_scale=scale, **options)
        )
        order.append(own)
    positions = op.Concat(*order, axis=0)
    # position of every RoI among those that are sorted by level
    numbers = op.Range(0, op.Squeeze(op.Shape(positions), [0]), 1)
    return op.Gather(op.Concat(*pooled, axis=0), op.ScatterElements(positions, positions, numbers))


TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.detbackbones.grouped_nms.default: grouped_nms,
    torch.ops.detbackbones.roi_align_levels.default: roi_align_levels,
}
