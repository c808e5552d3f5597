"""Configs that match torchvision's published detectors, and the conversion of their state-dict keys.

    state = torch.load("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", weights_only=True)
    detector = build_detector(TORCHVISION_CONFIGS["maskrcnn_resnet50_fpn"])
    detector.load_state_dict(convert_torchvision_detector(state), strict=False)

Their classes are COCO's 91 category ids as labels: row 0 is the background (RoI heads) or unused (RetinaNet), and
eleven ids have no category. The COCO_V1 weights of the forms without "_v2" were trained with frozen norms of
`norm_eps=0.0`.
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

CLASS_NAMES = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])  # by row; "N/A" for unused ids
CLASS_LAYERS = ("box_predictor.", "mask_fcn_logits.", "classification_head.cls_logits.")  # one or more rows per class
KEY_PATTERNS = (
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.", "neck."),
    (r"^(neck\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),  # files from before torchvision 0.12
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


def is_torchvision_detector(state: Mapping) -> bool:
    """Return whether a state dict has the keys of a torchvision detector with an FPN."""
    return all(any(key.startswith(prefix) for key in state) for prefix in ("backbone.body.", "backbone.fpn."))


def convert_torchvision_detector(
    state: Mapping[str, Tensor], class_names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Return a torchvision detection state dict under the keys of this package's detectors.

    torchvision's heads rename older keys of their own when they load.

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


def select_classes(state: Mapping[str, Tensor], rows: Sequence[int], num_rows: int) -> dict[str, Tensor]:
    """Return a detector's state dict whose class layers keep some classes, in the order of `rows`.

    Args:
        state: state dict under the keys of this package's detectors.
        rows: numbers of the classes in the layers; in R-CNN heads, row 0 is the background, which is kept besides.
        num_rows: number of classes in the layers, with the background if they have one.
    """
    selected = dict(state)
    for key, value in state.items():
        if "classification_head.cls_logits." in key:  # rows: anchor, class
            selected[key] = value.unflatten(0, (-1, num_rows))[:, rows].flatten(0, 1)
        elif any(layer in key for layer in CLASS_LAYERS):  # rows: class, box coordinate (if any)
            selected[key] = value.unflatten(0, (num_rows, -1))[[0, *rows]].flatten(0, 1)
    return selected
