"""The part of a detection config that is the model: a detector with its parts, each a type and its arguments."""

from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry

from ..errors import InputError
from ..registry import (
    BACKBONES,
    DETECTORS,
    NECKS,
    PROPOSAL_GENERATORS,
    ROI_HEADS,
    accepted_arguments,
    accepts,
    lookup,
)
from .console import plain_console
from .schema import check_part, describe_key, describe_part

PARTS: dict[str, Registry] = {
    "backbone": BACKBONES,
    "neck": NECKS,
    "rpn": PROPOSAL_GENERATORS,
    "roi_heads": ROI_HEADS,
}
DECIDED = {  # arguments that a config cannot set -> what decides them
    "num_classes": "the annotation file",
    "load_weights": "the engine",
    "feature_specs": "the part before it",
    "masks": "model.type",
}


def expand_detector(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return config values with every part of the model as a dict, also if it is left to the detector's default.

    A part whose type is overridden gets the new type and loses the arguments that the new type does not take. If the
    overrides remove the weights, `norm`, `freeze` and `channel_order` go too: the file chose them for these weights.
    """
    model = _expand_part(DETECTORS, "model", values.get("model"), None, overrides)
    if not isinstance(model, dict):
        return values
    arguments = accepted_arguments(lookup(DETECTORS, model["type"])) or {}
    for name in PARTS:
        if name in arguments:
            default = arguments[name].default if isinstance(arguments[name].default, str) else None
            model[name] = _expand_part(PARTS[name], f"model.{name}", model.get(name, default), default, overrides)
    if isinstance(model.get("backbone"), dict) and overrides.get("model.backbone.weights", "") is None:
        kept = {
            key: value for key, value in model["backbone"].items() if key not in ("norm", "freeze", "channel_order")
        }
        model["backbone"] = kept
    return values | {"model": model}


def check_detector(model: Mapping[str, Any]) -> None:
    """Raise InputError unless every part has a known type and arguments that it accepts."""
    _check_part(DETECTORS, model, "model")
    for name in PARTS:
        if name in model:
            _check_part(PARTS[name], model[name], f"model.{name}")


def describe_detector(model: Mapping[str, Any]) -> list[str]:
    """Return help texts on the arguments of every part."""
    parts = {"model": (DETECTORS, model)}
    parts |= {f"model.{name}": (PARTS[name], model[name]) for name in PARTS if name in model}
    texts = []
    for key, (registry, part) in parts.items():
        names = ", ".join(registry.module_dict)
        texts.append(describe_key(f"{key}.type", part["type"], str, f"One of {names}."))
        texts += describe_part(lookup(registry, part["type"]), part, key, {*DECIDED, *PARTS})
    return texts


def _expand_part(registry: Registry, key: str, part: Any, default: str | None, overrides: Mapping[str, Any]) -> Any:
    """Return the config of a part as a dict with a type, see `expand_detector`."""
    part = {"type": part} if isinstance(part, str) else part
    if not isinstance(part, Mapping):
        return part
    part = {"type": default, **part}
    new_type = overrides.get(f"{key}.type") or part["type"]
    if new_type != part["type"]:
        factory = lookup(registry, new_type)
        dropped = [name for name in part if name != "type" and not accepts(factory, name)]
        part = {name: part[name] for name in part if name not in dropped} | {"type": new_type}
        if dropped:
            plain_console().print(f"{key}: {new_type} does not take {', '.join(dropped)} of the config; left out")
    return part


def _check_part(registry: Registry, part: Any, key: str) -> None:
    """Raise InputError for a part without a known type, or with arguments that it does not accept."""
    if not isinstance(part, Mapping):
        raise InputError(f"config key {key} must be a name or a dict with a 'type', got {part!r:.80}")
    factory = lookup(registry, part["type"])
    for name in part:
        if name in DECIDED:
            raise InputError(f"config key {key}.{name} cannot be set: {DECIDED[name]} decides it")
    check_part(factory, part, key)
