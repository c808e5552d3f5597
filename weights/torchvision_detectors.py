"""torchvision's published detection weights: what to build for them, and their keys.

    state = torch.load("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", weights_only=True)
    detector = build_detector(TORCHVISION_FORMS["maskrcnn_resnet50_fpn"])
    detector.load_state_dict(torchvision_state(state), strict=False)

Their classes are COCO's 91 category ids as labels: row 0 is the background (RoI heads) or unused (RetinaNet) and eleven
ids stand for nothing. Weights named COCO_V1 of the first forms were trained with frozen norm layers of `norm_eps=0.0`.
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

CLASSES = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])  # names by row, "N/A" where there is none
KEYS = (
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.", "neck."),
    (r"^(neck\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),  # files from before torchvision 0.12
)
CLASS_LAYERS = ("box_predictor.", "mask_fcn_logits.", "classification_head.cls_logits.")  # rows by class

_RCNN = dict(backbone=dict(type="resnet50"), num_classes=90, round_anchors=True, roi_aligned=False, roi_sampling_ratio=2,
             rpn_post_nms_top_n=(2000, 1000))  # fmt: skip
_RCNN_V2 = dict(_RCNN, neck=dict(type="fpn", norm="batch"), rpn_conv_depth=2, box_head_convs=(256,) * 4, head_norm="batch")
_RETINANET = dict(type="retinanet", backbone=dict(type="resnet50", out_features=("c3", "c4", "c5")), num_classes=91,
                  round_anchors=True, detections_per_img=300)  # fmt: skip
TORCHVISION_FORMS = {
    "fasterrcnn_resnet50_fpn": dict(_RCNN, type="faster_rcnn"),
    "fasterrcnn_resnet50_fpn_v2": dict(_RCNN_V2, type="faster_rcnn"),
    "maskrcnn_resnet50_fpn": dict(_RCNN, type="mask_rcnn"),
    "maskrcnn_resnet50_fpn_v2": dict(_RCNN_V2, type="mask_rcnn"),
    "retinanet_resnet50_fpn": dict(_RETINANET, neck=dict(type="fpn", extra_levels="p6p7_on_p5")),
    "retinanet_resnet50_fpn_v2": dict(_RETINANET, neck=dict(type="fpn", extra_levels="p6p7_on_c5"), head_norm="group",
                                      box_loss="giou"),
}


def is_torchvision_state(state: Mapping) -> bool:
    """Whether these are the keys of one of torchvision's detectors on a pyramid."""
    return any(key.startswith("backbone.body.") for key in state) and any(key.startswith("backbone.fpn.") for key in state)


def torchvision_state(state: Mapping[str, Tensor], class_names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """A torchvision detection state dict under the keys of this package's detectors.

    The heads rename older keys of their own when they load.

    Args:
        state: torchvision's.
        class_names: the classes of a data set. Where all are COCO's, the rows of the class layers are theirs, in this
            order; otherwise, and for None, all rows stay.
    """
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in KEYS:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    if class_names is None or not set(class_names) <= set(CLASSES):
        return renamed
    rows = [CLASSES.index(name) for name in class_names]
    for key, value in renamed.items():
        if "classification_head.cls_logits." in key:
            renamed[key] = value.unflatten(0, (-1, len(CLASSES)))[:, rows].flatten(0, 1)
        elif any(layer in key for layer in CLASS_LAYERS):
            renamed[key] = value.unflatten(0, (len(CLASSES), -1))[[0, *rows]].flatten(0, 1)
    return renamed
