"""Narrow detectors of every form, small enough for tests."""

from detbackbones import build_detector
from detbackbones.detectors.base import Detector

NARROW_FPN = dict(type="fpn", out_channels=32)
FORMS = {  # out_features of the backbone, neck
    "fpn": (None, NARROW_FPN),
    "pafpn": (None, dict(NARROW_FPN, type="pafpn")),
    "dc5": (("c5",), "identity"),
    "c4": (("c4", "c5"), "identity"),
    "single": (("c5",), dict(NARROW_FPN, extra_levels="none")),
}
RCNN_FORMS = ("fpn", "pafpn", "dc5", "c4")
RETINANET_FORMS = ("fpn", "pafpn", "single")
KINDS_AND_FORMS = [
    *((kind, form) for kind in ("faster_rcnn", "mask_rcnn") for form in RCNN_FORMS),
    *(("retinanet", form) for form in RETINANET_FORMS),
]


def detector_config(kind: str, form: str, backbone: str = "resnet18", rpn=None, roi_heads=None, **arguments) -> dict:
    """Return the config of a narrow detector.

    Args:
        kind: registered name of the detector.
        form: key of FORMS.
        backbone: registered name of the backbone.
        rpn, roi_heads: arguments that are added to the small parts.
        arguments: further arguments of the detector.
    """
    out_features, neck = FORMS[form]
    backbone_config = dict(type=backbone) if out_features is None else dict(type=backbone, out_features=out_features)
    cfg = dict(type=kind, backbone=backbone_config, neck=neck, num_classes=3)
    if kind != "retinanet":
        small_rpn = dict(type="rpn", pre_nms_top_n=(200, 100), post_nms_top_n=(50, 20))
        cfg |= dict(rpn=small_rpn | (rpn or {}), roi_heads=_small_roi_heads(kind, form) | (roi_heads or {}))
    return cfg | arguments


def _small_roi_heads(kind: str, form: str) -> dict:
    small = dict(batch_size_per_image=16, detections_per_img=10)
    if form == "c4":
        return dict(type="stage", stage="c5", **small)
    heads = dict(type="standard", box_head_dim=32, **small)
    return heads | dict(mask_channels=(16, 16), mask_dim=16) if kind == "mask_rcnn" else heads


def narrow_detector(kind: str, form: str, **arguments) -> Detector:
    """Build `detector_config(kind, form, **arguments)`."""
    return build_detector(detector_config(kind, form, **arguments))


def keep_all_scores(detector: Detector) -> Detector:
    """Make a detector keep detections of any score: random weights give low ones."""
    (detector if hasattr(detector, "score_thresh") else detector.roi_heads).score_thresh = 0.0
    return detector
