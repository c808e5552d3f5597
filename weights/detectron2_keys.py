"""Names and order of the tensors of detectron2's detectors."""

from collections.abc import Mapping
from typing import Any

from .detector_keys import (
    BACKGROUND_FIRST,
    REVERSED_CHANNELS,
    STEM_WEIGHTS,
    DetectorKeys,
    Reordering,
    rows_without_background,
    swapped_anchors,
)
from .key_maps import DETECTRON2

CONSTANTS = ("pixel_mean", "pixel_std", "anchor_generator.", "proposal_generator.anchor_generator.")


def detectron2_keys(model: Mapping[str, Any], is_bgr: bool) -> DetectorKeys:
    """Return the names and the order of detectron2's tensors for a detector.

    Args:
        model: config of the detector, as `detector_settings` returns it.
        is_bgr: detectron2's first convolution takes BGR images; ours always RGB.
    """
    neck = model["neck"]
    has_pyramid = neck["type"] == "fpn"
    prefix = "backbone.bottom_up." if has_pyramid else "backbone."
    backbones = {prefix: ("backbone.", "", "")}
    modules = _pyramid(model) if has_pyramid else []
    reorderings = dict.fromkeys(STEM_WEIGHTS, REVERSED_CHANNELS) if is_bgr else {}
    if model["type"] == "retinanet":
        modules += _retinanet_head(model["head_norm"] is not None)
        reorderings |= _anchors(model, "head.classification_head.cls_logits.", "head.regression_head.bbox_reg.")
        return DetectorKeys(DETECTRON2, backbones, modules, reorderings, CONSTANTS)
    heads = model["roi_heads"]
    if heads["type"] == "stage":
        backbones["roi_heads.res5."] = ("roi_heads.stage.", "res5.", "layer4.")
    modules += [*_rpn(model["rpn"]["conv_depth"]), *_box_head(heads), *_mask_head(heads)]
    reorderings |= _anchors(model["rpn"], "rpn.head.cls_logits.", "rpn.head.bbox_pred.")
    reorderings["roi_heads.box_predictor.cls_score."] = BACKGROUND_FIRST
    if not heads["class_agnostic_boxes"]:
        reorderings["roi_heads.box_predictor.bbox_pred."] = rows_without_background(4)
    if not heads["class_agnostic_masks"]:
        reorderings["roi_heads.mask_predictor.mask_fcn_logits."] = rows_without_background(1)
    return DetectorKeys(DETECTRON2, backbones, modules, reorderings, CONSTANTS)


def _anchors(part: Mapping[str, Any], *layers: str) -> dict[str, Reordering]:
    sizes, ratios = len(part["anchor_sizes"][0]), len(part["aspect_ratios"])
    return dict.fromkeys(layers, swapped_anchors(sizes, ratios)) if min(sizes, ratios) > 1 else {}


def _pyramid(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    modules = []
    for index, level in enumerate(model["backbone"]["out_features"]):
        for theirs, ours in (("lateral", "inner"), ("output", "layer")):
            name, block = f"backbone.fpn_{theirs}{level[1:]}.", f"neck.{ours}_blocks.{index}."
            modules += [(f"{name}norm.", f"{block}1."), (name, f"{block}0.")]
    deepest = int(model["backbone"]["out_features"][-1][1:])
    return modules + [
        (f"backbone.top_block.p{level}.", f"neck.extra_blocks.p{level}.") for level in (deepest + 1, deepest + 2)
    ]


def _rpn(conv_depth: int) -> list[tuple[str, str]]:
    head, ours = "proposal_generator.rpn_head.", "rpn.head."
    single = [(f"{head}conv.", f"{ours}conv.0.0.")]
    convs = single if conv_depth == 1 else [(f"{head}conv.conv{i}.", f"{ours}conv.{i}.0.") for i in range(conv_depth)]
    return [*convs, (f"{head}objectness_logits.", f"{ours}cls_logits."), (f"{head}anchor_deltas.", f"{ours}bbox_pred.")]


def _box_head(heads: Mapping[str, Any]) -> list[tuple[str, str]]:
    predictor = [(f"roi_heads.box_predictor.{name}.",) * 2 for name in ("cls_score", "bbox_pred")]
    if heads["type"] == "stage":
        return predictor
    convs, fcs = len(heads["box_head_convs"]), heads["box_head_fcs"]
    modules = []
    for index in range(convs):
        theirs, ours = f"roi_heads.box_head.conv{index + 1}.", f"roi_heads.box_head.{index}."
        modules += [(f"{theirs}norm.", f"{ours}1."), (theirs, f"{ours}0.")]
    is_plain = not convs and fcs == 2  # torchvision's TwoMLPHead
    for index in range(fcs):
        name = f"fc{index + 6}" if is_plain else convs + 1 + 2 * index  # after Flatten; a ReLU follows each
        modules.append((f"roi_heads.box_head.fc{index + 1}.", f"roi_heads.box_head.{name}."))
    return modules + predictor


def _mask_head(heads: Mapping[str, Any]) -> list[tuple[str, str]]:
    theirs, predictor = "roi_heads.mask_head.", "roi_heads.mask_predictor."
    modules = []
    for index in range(len(heads.get("mask_channels", ()))):
        conv, ours = f"{theirs}mask_fcn{index + 1}.", f"roi_heads.mask_head.{index}."
        modules += [(f"{conv}norm.", f"{ours}1."), (conv, f"{ours}0.")]
    return [
        *modules,
        (f"{theirs}deconv.", f"{predictor}conv5_mask."),
        (f"{theirs}predictor.", f"{predictor}mask_fcn_logits."),
    ]


def _retinanet_head(has_norm: bool) -> list[tuple[str, str]]:
    step = 3 if has_norm else 2  # convolution, norm, ReLU
    modules = []
    for theirs, ours in (("cls", "classification"), ("bbox", "regression")):
        for index in range(4):
            block = f"head.{ours}_head.conv.{index}."
            modules.append((f"head.{theirs}_subnet.{index * step}.", f"{block}0."))
            if has_norm:
                modules.append((f"head.{theirs}_subnet.{index * step + 1}.", f"{block}1."))
    return [
        *modules,
        ("head.cls_score.", "head.classification_head.cls_logits."),
        ("head.bbox_pred.", "head.regression_head.bbox_reg."),
    ]
