"""Fit the config of a detector to the weights that it starts from."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError, shorten
from .cards import FACTS, IMAGENET_MEAN, IMAGENET_STD, WeightCard, settle
from .detector_source import DetectorSource

SETTLED = tuple(name for name in FACTS if name != "channel_order")  # the weights are for RGB images here
DEFAULTS = {"stride_in_1x1": False, "norm_eps": 1e-5, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}  # of a backbone
# arguments that change what the heads' weights mean, but not their shapes
MEANINGS = {
    "rpn": ("anchor_sizes", "aspect_ratios", "anchor_offset", "round_anchors", "bbox_reg_weights"),
    "roi_heads": ("aligned", "bbox_reg_weights"),
    None: ("anchor_sizes", "aspect_ratios", "anchor_offset", "round_anchors", "bbox_reg_weights"),  # RetinaNet
}
ANCHOR_DEFAULTS = ("anchor_scale", "anchor_octaves")  # which decide anchor_sizes otherwise


def fit_config(model: Mapping[str, Any], source: DetectorSource) -> dict[str, Any]:
    """Return a detector's config with the arguments that the weights settle; those of heads only if they are not given.

    Args:
        model: config of the detector.
        source: where its weights come from. The config in a checkpoint of ours settles stride and epsilon, too.

    Raises:
        InputError: an argument of the backbone contradicts the weights.
    """
    fitted = dict(model)
    fitted["backbone"] = _fit_backbone(_part(model, "backbone"), source)
    for name, meanings in MEANINGS.items():
        theirs = source.model if name is None else _part(source.model, name)
        ours = fitted if name is None else _part(model, name)
        if theirs.get("type") != ours.get("type", theirs.get("type")):
            continue
        taken = {key: theirs[key] for key in meanings if key in theirs and key not in ours}
        if any(name in ours for name in ANCHOR_DEFAULTS):
            taken.pop("anchor_sizes", None)
        if name is None:
            fitted |= taken
        elif taken or name in model:
            fitted[name] = {key: theirs[key] for key in ("type",) if key in theirs} | ours | taken
    return fitted


def _own_card(source: DetectorSource) -> WeightCard:
    """Return what the config of a checkpoint of ours says; its mean and std are in the metadata."""
    backbone = _part(source.model, "backbone")
    return WeightCard(source.name, stride_in_1x1=backbone.get("stride_in_1x1"), norm_eps=backbone.get("norm_eps"))


def _part(model: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = model.get(name, {})
    return {"type": part} if isinstance(part, str) else dict(part) if isinstance(part, Mapping) else {}


def _fit_backbone(backbone: dict[str, Any], source: DetectorSource) -> dict[str, Any]:
    """Return the config of a backbone with what the weights settle. Raises InputError if it contradicts them."""
    for name, reason in (source.unclear or {}).items():
        if backbone.get(name) is None:
            raise InputError(f"{reason}; set {name} of the backbone to the right one")
    card = source.card or _own_card(source)
    settled = settle(card, {name: backbone.get(name) for name in SETTLED}, shorten(source.name))
    changed = {name: value for name, value in settled.items() if value is not None and value != DEFAULTS.get(name)}
    if {"mean", "std"} & changed.keys():  # they belong together
        changed |= {name: settled[name] for name in ("mean", "std")}
    return backbone | changed
