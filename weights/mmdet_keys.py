"""Names and order of the tensors of mmdetection's detectors."""

from collections.abc import Mapping
from typing import Any

from .detector_keys import (
    BACKGROUND_FIRST,
    REVERSED_CHANNELS,
    STEM_WEIGHTS,
    DetectorKeys,
    Reordering,
    rows_without_background,
)
from .key_maps import MMDET


def mmdet_keys(model: Mapping[str, Any], is_bgr: bool) -> DetectorKeys:
    """Return the names and the order of mmdetection's tensors for a detector.

    Args:
        model: config of the detector, as `mmdet_models.model_of` returns it.
        is_bgr: mmdetection's first convolution takes BGR images; ours always RGB.
    """
    modules = _pyramid(model) if model["neck"]["type"] == "fpn" else []
    reorderings: dict[str, Reordering] = dict.fromkeys(STEM_WEIGHTS, REVERSED_CHANNELS) if is_bgr else {}
    if model["type"] == "retinanet":
        modules += _retinanet_head()
    else:
        heads = model["roi_heads"]
        modules += [*_rpn(model["rpn"]["conv_depth"]), *_box_head(heads), *_mask_head(heads)]
        reorderings["roi_heads.box_predictor.cls_score."] = BACKGROUND_FIRST
        if not heads["class_agnostic_boxes"]:
            reorderings["roi_heads.box_predictor.bbox_pred."] = rows_without_background(4)
        if not heads["class_agnostic_masks"]:
            reorderings["roi_heads.mask_predictor.mask_fcn_logits."] = rows_without_background(1)
    return DetectorKeys(MMDET, {"backbone.": ("backbone.", "", "")}, modules, reorderings, ("data_preprocessor.",))


def _conv_module(theirs: str, ours: str) -> list[tuple[str, str]]:
    """Return the names of a convolution with a norm; mmdetection names the norm by its kind."""
    return [(f"{theirs}conv.", f"{ours}0."), (f"{theirs}bn.", f"{ours}1."), (f"{theirs}gn.", f"{ours}1.")]


def _pyramid(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    levels = model["backbone"]["out_features"]
    modules = []
    for index in range(len(levels)):
        modules += _conv_module(f"neck.lateral_convs.{index}.", f"neck.inner_blocks.{index}.")
        modules += _conv_module(f"neck.fpn_convs.{index}.", f"neck.layer_blocks.{index}.")
    for index in range(2):  # convolutions of P6 and P7
        level = int(levels[-1][1:]) + 1 + index
        modules.append((f"neck.fpn_convs.{len(levels) + index}.conv.", f"neck.extra_blocks.p{level}."))
    return modules


def _rpn(conv_depth: int) -> list[tuple[str, str]]:
    single = [("rpn_head.rpn_conv.", "rpn.head.conv.0.0.")]
    several = [(f"rpn_head.rpn_conv.{index}.conv.", f"rpn.head.conv.{index}.0.") for index in range(conv_depth)]
    predictors = [("rpn_head.rpn_cls.", "rpn.head.cls_logits."), ("rpn_head.rpn_reg.", "rpn.head.bbox_pred.")]
    return [*(single if conv_depth == 1 else several), *predictors]


def _box_head(heads: Mapping[str, Any]) -> list[tuple[str, str]]:
    theirs, ours = "roi_head.bbox_head.", "roi_heads."
    convs, fcs = len(heads["box_head_convs"]), heads["box_head_fcs"]
    modules = []
    for index in range(convs):
        modules += _conv_module(f"{theirs}shared_convs.{index}.", f"{ours}box_head.{index}.")
    is_plain = not convs and fcs == 2  # torchvision's TwoMLPHead
    for index in range(fcs):
        name = f"fc{index + 6}" if is_plain else convs + 1 + 2 * index  # after Flatten; a ReLU follows each
        modules.append((f"{theirs}shared_fcs.{index}.", f"{ours}box_head.{name}."))
    names = (("fc_cls", "cls_score"), ("fc_reg", "bbox_pred"))
    return [*modules, *((f"{theirs}{name}.", f"{ours}box_predictor.{our_name}.") for name, our_name in names)]


def _mask_head(heads: Mapping[str, Any]) -> list[tuple[str, str]]:
    theirs, ours = "roi_head.mask_head.", "roi_heads."
    modules = []
    for index in range(len(heads.get("mask_channels", ()))):
        modules += _conv_module(f"{theirs}convs.{index}.", f"{ours}mask_head.{index}.")
    names = (("upsample", "conv5_mask"), ("conv_logits", "mask_fcn_logits"))
    return [*modules, *((f"{theirs}{name}.", f"{ours}mask_predictor.{our_name}.") for name, our_name in names)]


def _retinanet_head() -> list[tuple[str, str]]:
    modules = []
    for theirs, ours in (("cls", "classification"), ("reg", "regression")):
        for index in range(4):
            modules += _conv_module(f"bbox_head.{theirs}_convs.{index}.", f"head.{ours}_head.conv.{index}.")
    predictors = (
        ("bbox_head.retina_cls.", "head.classification_head.cls_logits."),
        ("bbox_head.retina_reg.", "head.regression_head.bbox_reg."),
    )
    return [*modules, *predictors]
