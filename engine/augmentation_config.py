"""Check the config keys on augmentation, and make them such that a saved config can be loaded again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data.augmentation import build_transforms, find_transform
from ..errors import InputError, shorten
from .detection_config import AugmentationConfig
from .schema import check_part


def name_callables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return config values with every callable in `transforms` as the name under which a saved config finds it again.

    Raises:
        InputError: a callable has no such name, as a lambda, a function in a function, or an instance.
    """
    transforms = values.get("transforms")
    if not isinstance(transforms, Sequence) or isinstance(transforms, str):
        return dict(values)
    named = [_named(entry, f"transforms[{number}]") for number, entry in enumerate(transforms)]
    return {**values, "transforms": named}


def _named(entry: Any, key: str) -> Any:
    if not callable(entry):
        return entry
    name = f"{getattr(entry, '__module__', '')}:{getattr(entry, '__qualname__', '')}"
    try:
        if find_transform(name) is entry:
            return {"type": name}
    except InputError:
        pass
    raise InputError(
        f"{key} cannot be saved with the run: {shorten(repr(entry))} is not a function or class of a module; define it "
        "in one, or give a dict with its type and arguments"
    )


def check_augmentation(config: AugmentationConfig, has_masks: bool) -> None:
    """Raise InputError unless the transforms can be built, and the model has the masks that copy-paste needs."""
    for number, entry in enumerate(config.transforms or ()):
        if "type" in entry:
            _check_arguments(find_transform(entry["type"]), entry, f"transforms[{number}]")
    build_transforms(config.transforms or ())
    if config.copy_paste and not has_masks:
        raise InputError(f"copy_paste={config.copy_paste:g} needs a model with masks; use model.type=mask_rcnn")


def _check_arguments(factory: Callable, entry: Mapping[str, Any], key: str) -> None:
    """Raise InputError for an argument of a wrong type; a list may stand for a tuple."""
    entry = {name: value for name, value in entry.items() if name != "transforms"}  # of Compose: dicts, built later
    try:
        check_part(factory, {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()}, key)
    except InputError:
        check_part(factory, entry, key)
