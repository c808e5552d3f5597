"""Configs that match torchvision's published detectors, and the conversion of their state-dict keys.

    detector = build_detector("torchvision:maskrcnn_resnet50_fpn")          # see torchvision_sources.py

Their classes are COCO's 91 category ids as labels: row 0 is the background (RoI heads) or unused (RetinaNet), and
eleven ids have no category. The COCO_V1 weights of the forms without "_v2" were trained with frozen norms of
`norm_eps=0.0`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from .class_lists import COCO_ROWS as CLASS_NAMES

CLASS_LAYERS = ("box_predictor.", "mask_fcn_logits.", "classification_head.cls_logits.")  # one or more rows per class
# The published files without "_v2" are older than torchvision 0.12, which put convolutions with what follows them into
# a Sequential; its modules rename these keys when they load.
KEY_PATTERNS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.", "neck."),
    (r"^(neck\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0."),
    (
        r"^(head\.(?:classification|regression)_head\.conv)\.(\d)\.(weight|bias)$",  # every second one is a ReLU
        lambda match: f"{match[1]}.{int(match[2]) // 2}.0.{match[3]}",
    ),
)

_RPN = dict(type="rpn", round_anchors=True, post_nms_top_n=(2000, 1000))
_ROI_HEADS = dict(type="standard", aligned=False, sampling_ratio=2)
_RCNN = dict(backbone=dict(type="resnet50"), neck=dict(type="fpn"), num_classes=90, rpn=_RPN, roi_heads=_ROI_HEADS)
_RCNN_V2 = _RCNN | dict(
    neck=dict(type="fpn", norm="batch"),
    rpn=_RPN | dict(conv_depth=2),
    roi_heads=_ROI_HEADS | dict(box_head_convs=(256,) * 4, norm="batch"),
)
_RETINANET = dict(
    type="retinanet",
    backbone=dict(type="resnet50", out_features=("c3", "c4", "c5")),
    num_classes=91,
    round_anchors=True,
    detections_per_img=300,
)
TORCHVISION_CONFIGS: dict[str, dict] = {
    "fasterrcnn_resnet50_fpn": _RCNN | dict(type="faster_rcnn"),
    "fasterrcnn_resnet50_fpn_v2": _RCNN_V2 | dict(type="faster_rcnn"),
    "maskrcnn_resnet50_fpn": _RCNN | dict(type="mask_rcnn"),
    "maskrcnn_resnet50_fpn_v2": _RCNN_V2 | dict(type="mask_rcnn"),
    "retinanet_resnet50_fpn": _RETINANET | dict(neck=dict(type="fpn", extra_levels="conv_on_output")),
    "retinanet_resnet50_fpn_v2": _RETINANET
    | dict(neck=dict(type="fpn", extra_levels="conv_on_input"), head_norm="group", box_loss="giou"),
}


def has_trained_norms(state: Iterable[str]) -> bool:
    """Return whether a torchvision detector is a "_v2": all its norms were trained, with an epsilon of 1e-5."""
    return any(re.search(r"conv\.\d\.1\.|inner_blocks\.0\.1\.", key) for key in state)


def convert_torchvision_detector(
    state: Mapping[str, Tensor], class_names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Return a torchvision detection state dict, of any version, under the keys of this package's detectors.

    Args:
        state: torchvision's state dict.
        class_names: classes of a dataset. If all of them are classes of COCO, the class layers keep the rows of these
            classes in this order; otherwise, and for None, they keep all rows.
    """
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in KEY_PATTERNS:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    if class_names is None or not set(class_names) <= set(CLASS_NAMES):
        return renamed
    return select_classes(renamed, [CLASS_NAMES.index(name) for name in class_names], len(CLASS_NAMES))


def export_torchvision_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of this package under the keys of torchvision's detectors (of torchvision 0.12 and later)."""
    prefixes = {"backbone.": "backbone.body.", "neck.": "backbone.fpn."}
    return {
        re.sub(r"^(?:backbone|neck)\.", lambda match: prefixes[match[0]], key): value for key, value in state.items()
    }


def select_classes(state: Mapping[str, Tensor], rows: Sequence[int], num_rows: int) -> dict[str, Tensor]:
    """Return a detector's state dict whose class layers keep some classes, in the order of `rows`.

    Layers that predict one box or mask for all classes stay as they are.

    Args:
        state: state dict under the keys of this package's detectors.
        rows: numbers of the classes in the layers; in R-CNN heads, row 0 is the background, which is kept besides.
        num_rows: number of classes in the layers, with the background if they have one.
    """
    selected = dict(state)
    for key, value in state.items():
        if "classification_head.cls_logits." in key:  # rows: anchor, class
            selected[key] = value.unflatten(0, (-1, num_rows))[:, rows].flatten(0, 1)
        elif any(layer in key for layer in CLASS_LAYERS) and len(value) == num_rows * (4 if "bbox_pred." in key else 1):
            selected[key] = value.unflatten(0, (num_rows, -1))[[0, *rows]].flatten(0, 1)
    return selected
