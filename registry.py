"""Registries of backbones, necks, heads, detectors, transforms and tasks; unknown names raise an error with close ones.

The `type` of a config names the part; every other key is a constructor argument. Third parties add parts with
`@BACKBONES.register_module()`, or through the entry-point groups `detbackbones.backbones`, `.necks`, `.detectors`, ...
(an entry point named like the part, which loads the class or function to register).
"""

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib import metadata
from typing import TYPE_CHECKING, Any

from mmengine.registry import Registry

from .errors import InputError, check_known, did_you_mean, shorten
from .specs import FeatureSpec

if TYPE_CHECKING:
    from .backbones.base import Backbone
    from .detectors.base import Detector
    from .necks.base import Neck


def _registry(name: str, *modules: str) -> Registry:
    return Registry(name, scope="detbackbones", locations=[f"detbackbones.{module}" for module in modules])


BACKBONES = _registry("backbone", "backbones.variants", "backbones.timm_backbone")
NECKS = _registry("neck", "necks.fpn", "necks.pafpn", "necks.identity")
PROPOSAL_GENERATORS = _registry("proposal_generator", "detectors.rpn")
ROI_HEADS = _registry("roi_heads", "detectors.roi_heads", "detectors.stage_roi_heads")
DETECTORS = _registry("detector", "detectors.rcnn", "detectors.retinanet")
PRETRAINED = "detbackbones.detectors.pretrained"  # module that builds a detector from its weights
TRANSFORMS = _registry("transform", "data.augmentation", "data.scale_jitter")
TASKS = _registry("task", "engine.detection")

Config = str | Mapping[str, Any]


def import_modules(names: str | Sequence[str]) -> None:
    """Import modules that register parts of your own. Modules in the working directory are found too.

    Raises:
        InputError: a module cannot be imported.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in [names] if isinstance(names, str) else names:
        try:
            importlib.import_module(name)
        except Exception as error:  # a module of the user's own may raise anything
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            raise InputError(f"imports: cannot import {name!r} ({reason})") from error


@functools.cache
def _load_members(registry: Registry) -> None:
    registry.import_from_location()
    for point in metadata.entry_points(group=f"detbackbones.{registry.name.removesuffix('s')}s"):
        if point.name in registry.module_dict:
            raise InputError(
                f"entry point {point.value} cannot take the {registry.name} name {point.name!r}, it is in use"
            )
        registry.register_module(name=point.name, module=point.load())


def lookup(registry: Registry, name: str) -> Callable[..., Any]:
    """Return the class or function registered as `name`.

    "<prefix>:<name>" stands for the first argument of a class with `list_names`, as "timm:resnet50" does.

    Raises:
        InputError: the name is unknown; the message has the nearest names.
    """
    _load_members(registry)
    name = str(name)
    prefix, colon, rest = name.partition(":")
    if colon and hasattr(registry.module_dict.get(prefix), "list_names"):
        return functools.partial(registry.module_dict[prefix], rest)
    check_known(registry.name, registry.module_dict, name)
    return registry.module_dict[name]


def accepted_arguments(factory: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Return the keyword arguments of a class or function by name, or None if it takes any.

    A constructor that passes on **kwargs takes those of its parent classes too; they come first.
    """
    arguments: dict[str, inspect.Parameter] = {}
    constructors: list[Callable[..., Any]] = [factory]
    if inspect.isclass(factory):
        constructors = [vars(cls)["__init__"] for cls in factory.__mro__ if "__init__" in vars(cls)]
    for constructor in constructors:
        parameters = inspect.signature(constructor).parameters.values()
        named = {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        arguments = named | arguments
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return {name: parameter for name, parameter in arguments.items() if name != "self"}
    return None


def accepts(factory: Callable[..., Any], name: str) -> bool:
    """Return whether a class or function takes the keyword argument `name`."""
    accepted = accepted_arguments(factory)
    return accepted is None or name in accepted


def check_arguments(factory: Callable[..., Any], names: Iterable[str], where: str) -> None:
    """Check that `factory` takes the arguments `names`; `where` is its name in the message.

    Raises:
        InputError: an argument is unknown.
    """
    accepted = accepted_arguments(factory)
    for name in names:
        if accepted is not None and name not in accepted:
            raise InputError(f"{where} has no argument {name!r}; {did_you_mean(name, accepted)}")


def build(registry: Registry, cfg: Any, **arguments: Any) -> Any:
    """Build a part from its name or config; a built part is returned as it is.

    Raises:
        InputError: a name or argument is unknown, an argument is missing, or `cfg` is none of these.
    """
    if isinstance(cfg, type) or not (isinstance(cfg, (str, Mapping)) or callable(cfg)):
        what = shorten(repr(cfg))
        raise InputError(f"{registry.name} must be a name, a dict with a 'type' or a built part, got {what}")
    if not isinstance(cfg, (str, Mapping)):
        return cfg
    arguments = ({"type": cfg} if isinstance(cfg, str) else dict(cfg)) | arguments
    if "type" not in arguments:
        raise InputError(f"{registry.name} config has no 'type': {arguments}")
    name = arguments.pop("type")
    factory = lookup(registry, name)
    check_arguments(factory, arguments, f"{registry.name} {name!r}")
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise InputError(f"{registry.name} {name!r}: {error}") from None
    part = factory(**arguments)
    # a model that is saved with the config of its own constructor
    if hasattr(part, "build_config") and part.build_config is None:
        part.build_config = {"type": name, **arguments}
    return part


def check_overrides(cfg: Any, overrides: Mapping[str, Any]) -> None:
    """Raise InputError if a part that is built already gets arguments, which would have no effect."""
    if overrides and callable(cfg):
        raise InputError(f"a built {type(cfg).__name__} takes no arguments, got {', '.join(overrides)}")


def build_backbone(cfg: "Config | Backbone", *, load_weights: bool = True, **overrides: Any) -> "Backbone":
    """Build a backbone from its name or from `dict(type=name, ...)`; a built backbone is returned as it is.

    Args:
        load_weights: False builds for the config's weights (norm, preprocessing) without reading them, because a
            checkpoint follows. A backbone without this argument is built as usual.
        overrides: arguments that replace those of the config.

    Raises:
        InputError: a name or argument is unknown, or an argument cannot be honoured.
    """
    check_overrides(cfg, overrides)
    if isinstance(cfg, (str, Mapping)) and not load_weights:
        name = cfg if isinstance(cfg, str) else cfg.get("type", "")
        if accepts(lookup(BACKBONES, name), "load_weights"):
            overrides["load_weights"] = False
    return build(BACKBONES, cfg, **overrides)


def build_neck(cfg: "Config | Neck", feature_specs: Sequence[FeatureSpec]) -> "Neck":
    """Build a neck for the features that `feature_specs` declares (a backbone's). Raises as `build_backbone`."""
    return build(NECKS, cfg, feature_specs=feature_specs)


def build_detector(
    cfg: "Config | Detector | None" = None, *, weights: str | None = None, **overrides: Any
) -> "Detector":
    """Build a detector with all its parts.

    Args:
        cfg: name or config; a built detector is returned as it is. None, or a source of weights such as
            "torchvision:maskrcnn_resnet50_fpn_v2", builds the detector that the weights were trained as.
        weights: where the detector starts, a run of ours or a detector of another library (see `read_detector`). Layers
            of another number of classes start anew. A config's key "weights" means the same.
        overrides: arguments that replace those of the config. A dict without "type", such as `backbone=dict(freeze=3)`,
            changes single arguments of a part of the detector that `weights` names.

    Raises:
        InputError: as `build_backbone`, or the weights do not fit.
    """
    if isinstance(cfg, Mapping) and weights is None and cfg.get("weights") is not None:
        weights = cfg["weights"]
        cfg = {key: value for key, value in cfg.items() if key != "weights"}
    if isinstance(cfg, str) and ":" in cfg and weights is None:
        weights, cfg = cfg, None
    if weights is not None:
        return importlib.import_module(PRETRAINED).build_pretrained(weights, cfg, **overrides)
    check_overrides(cfg, overrides)
    return build(DETECTORS, cfg, **overrides)


def _list(registry: Registry, pattern: str) -> list[str]:
    _load_members(registry)
    prefix, colon, rest = pattern.partition(":")
    if colon and hasattr(registry.module_dict.get(prefix), "list_names"):
        return [f"{prefix}:{name}" for name in registry.module_dict[prefix].list_names(rest)]
    return [name for name in registry.module_dict if fnmatchcase(name, pattern)]


def list_backbones(pattern: str = "*") -> list[str]:
    """Return the backbone names that match a shell pattern, in the order of registration; "timm:*" lists timm's."""
    return _list(BACKBONES, pattern)


def list_necks(pattern: str = "*") -> list[str]:
    """Return the neck names that match a shell pattern."""
    return _list(NECKS, pattern)


def list_detectors(pattern: str = "*") -> list[str]:
    """Return the detector names that match a shell pattern."""
    return _list(DETECTORS, pattern)
