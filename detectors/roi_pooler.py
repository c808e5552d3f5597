"""RoI features from the level that the FPN paper's rule names, at the declared scale of that level."""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, box_area, roi_align

from ..specs import FeatureSpec
from ..errors import InputError

CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4  # FPN paper, equation 1


def sample_positions(start: Tensor, size: Tensor, cells: int, ratio: int, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Where RoIAlign reads along one axis: indices and bilinear weights, K x cells x 2 * ratio, of K RoIs.

    `start` and `size` (K) are in cells of the feature map, whose side is `limit` (K x 1 x 1). The order of the arithmetic
    is that of torchvision's kernel, so that both read the same positions.
    """
    cell = (size / cells)[:, None, None]
    number = torch.arange(cells, device=start.device)[:, None]
    part = torch.arange(ratio, device=start.device) + 0.5
    position = start[:, None, None] + number * cell + part * cell / ratio
    outside = (position < -1) | (position > limit)
    low = torch.minimum(position.long().clamp(min=0), limit - 1)  # of NaN too, which goes on in the weights
    high = torch.minimum(low + 1, limit - 1)
    fraction = (position.clamp(min=0) - low) * (low < high)
    weights = torch.stack([1 - fraction, fraction], -1) * ~outside[..., None] / ratio
    return torch.stack([low, high], -1).flatten(2), weights.flatten(2)


def roi_align_by_rows(
    features: Sequence[Tensor], scales: Sequence[float], rois: Tensor, level: Tensor, cells: int, ratio: int, aligned: bool
) -> Tensor:
    """`torchvision.ops.roi_align` of every RoI on its own map, for the CPU, as weighted sums over rows of channels.

    A RoI cell is a sum of (2 * ratio)^2 pixels, each a contiguous row of channels in channels_last memory, which is an
    embedding bag: compiled, vectorised, and on all cores in both directions. torchvision's CPU kernel reads one channel
    at a time and runs backward on one core. One table of all maps' pixels leaves the RoIs in their order.

    Args:
        features: maps N x C x H x W of one width.
        scales: cells per input pixel of each map.
        rois: K x 5, the image's number and xyxy in input pixels.
        level: K, index of the map that each RoI is pooled from.
        cells, ratio, aligned: as `output_size`, `sampling_ratio` (above 0) and `aligned` of torchvision's.

    Returns K x C x cells x cells in channels_last memory, as the heads' convolutions want it.
    """
    def own(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=rois.device)[level]

    channels = features[0].shape[1]
    sizes = [(f.shape[-2], f.shape[-1]) for f in features]
    starts = list(accumulate((len(f) * h * w for f, (h, w) in zip(features, sizes)), initial=0))
    height, width = (own([size[axis] for size in sizes])[:, None, None] for axis in (0, 1))
    corners = rois[:, 1:] * own(scales).to(rois.dtype)[:, None] - (0.5 if aligned else 0.0)
    x1, y1, x2, y2 = corners.unbind(1)
    w, h = (x2 - x1, y2 - y1) if aligned else ((x2 - x1).clamp(min=1), (y2 - y1).clamp(min=1))
    rows, row_weights = sample_positions(y1, h, cells, ratio, height)
    columns, column_weights = sample_positions(x1, w, cells, ratio, width)
    image = rois[:, 0].long()[:, None, None]
    rows = own(starts[:-1])[:, None, None] + (image * height + rows) * width  # the pixel that the row starts with
    pixels = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    table = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, channels) for f in features])
    pooled = F.embedding_bag(pixels.flatten(3).flatten(0, 2), table, mode="sum",
                             per_sample_weights=weights.flatten(3).flatten(0, 2).to(table.dtype))  # fmt: skip
    return pooled.view(len(rois), cells, cells, channels).permute(0, 3, 1, 2)


class DeclaredRoIPooler(MultiScaleRoIAlign):
    """RoIAlign over levels chosen by `FeatureSpec.level`, with scale 1 / stride.

    Level k = floor(4 + log2(sqrt(area) / 224) + 1e-6), clamped to the levels present; where a level is absent (strides
    4, 16, 32) the next finer one serves. torchvision infers scales from the first batch and counts positions, which
    gives large RoIs all-zero features when a level is skipped.

    Args:
        feature_specs: the levels to pool from.
        output_size: cells a side.
        sampling_ratio: samples a cell side; 0 adapts to the RoI as detectron2 does.
        aligned: half-pixel correct RoIAlign (detectron2, mmdetection); False is torchvision's.
    """

    def __init__(self, feature_specs: Sequence[FeatureSpec], output_size: int, sampling_ratio: int, aligned: bool):
        super().__init__([spec.name for spec in feature_specs], output_size, sampling_ratio)
        levels = [spec.level for spec in feature_specs]
        if levels != sorted(set(levels)):
            raise InputError(f"RoI levels must be different and go from fine to coarse, not {levels}")
        self.levels = levels
        self.scales = [1 / spec.stride for spec in feature_specs]
        self.aligned = aligned

    def level_index(self, boxes: Tensor) -> Tensor:
        """Index into `feature_specs` for each of N x 4 float32 boxes in input pixels."""
        size = box_area(boxes).sqrt()
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / CANONICAL_SIZE) + 1e-6)
        present = torch.tensor(self.levels, device=boxes.device, dtype=level.dtype)
        level = level.clamp(self.levels[0], self.levels[-1])
        return torch.searchsorted(present, level, right=True) - 1

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """K x C x output_size x output_size for the K boxes of all images; boxes are xyxy in input pixels."""
        maps = [x[name] for name in self.featmap_names]
        images = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        rois = torch.cat([images, torch.cat(boxes)], dim=1).float()
        level = self.level_index(rois[:, 1:])
        features, cells = [feature.float() for feature in maps], self.output_size[0]
        if rois.device.type == "cpu" and self.sampling_ratio > 0:
            pooled = roi_align_by_rows(features, self.scales, rois, level, cells, self.sampling_ratio, self.aligned)
        else:
            chosen = [torch.where(level == index)[0] for index in range(len(maps))]
            pooled = torch.cat([roi_align(feature, rois[own], cells, scale, self.sampling_ratio, self.aligned)
                                for feature, own, scale in zip(features, chosen, self.scales)])  # fmt: skip
            pooled = pooled[torch.cat(chosen).argsort()]
        return pooled.to(maps[0].dtype)
