"""Names to parts: three mmengine registries, and builders whose errors name the nearest known word.

A part is looked up by the `type` of its config; every other key is a constructor argument. Third parties add parts
with `@BACKBONES.register_module()` or through the entry-point groups `detbackbones.backbones`, `.necks`, `.detectors`
(an entry point named like the part, which loads the class or function to register).
"""

import functools
import inspect
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from importlib import metadata

from mmengine.registry import Registry

from .errors import InputError, did_you_mean

__all__ = [
    "BACKBONES", "NECKS", "DETECTORS", "build_backbone", "build_neck", "build_detector",
    "list_backbones", "list_necks", "list_detectors", "lookup", "check_arguments",
]  # fmt: skip

BACKBONES = Registry("backbone", scope="detbackbones", locations=["detbackbones.backbones"])
NECKS = Registry("neck", scope="detbackbones", locations=["detbackbones.necks"])
DETECTORS = Registry("detector", scope="detbackbones", locations=["detbackbones.detectors"])
_entry_points_loaded: set[str] = set()


def _load_members(registry: Registry) -> None:
    registry.import_from_location()
    if registry.name in _entry_points_loaded:
        return
    _entry_points_loaded.add(registry.name)
    for point in metadata.entry_points(group=f"detbackbones.{registry.name}s"):
        if point.name in registry.module_dict:
            raise InputError(f"entry point {point.value} wants the {registry.name} name {point.name!r}, which is taken")
        registry.register_module(name=point.name, module=point.load())


def lookup(registry: Registry, name: str):
    """The class or function registered as `name`; InputError with the nearest names where there is none.

    The backbone "timm:<model>" stands for `dict(type="timm", model="<model>")`.
    """
    _load_members(registry)
    if registry is BACKBONES and isinstance(name, str) and name.startswith("timm:"):
        return functools.partial(registry.module_dict["timm"], name.removeprefix("timm:"))
    found = registry.module_dict.get(name)
    if found is None:
        raise InputError(f"unknown {registry.name} {name!r}; {did_you_mean(str(name), registry.module_dict)}")
    return found


def accepted_arguments(factory) -> set[str] | None:
    """Keyword arguments of a class or function; those of its parents too where it hands on **kwargs. None: any."""
    names: set[str] = set()
    constructors = [c.__init__ for c in factory.__mro__ if "__init__" in vars(c)] if inspect.isclass(factory) else [factory]
    for constructor in constructors:
        parameters = inspect.signature(constructor).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None


def check_arguments(factory, arguments: Iterable[str], where: str) -> None:
    """InputError for the first of `arguments` that `factory` does not take; `where` says whose they are."""
    accepted = accepted_arguments(factory)
    for name in arguments:
        if accepted is not None and name not in accepted:
            raise InputError(f"{where} has no argument {name!r}; {did_you_mean(name, accepted)}")


def _build(registry: Registry, cfg: str | Mapping, **arguments):
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
    return factory(**arguments)


def build_backbone(cfg: str | Mapping, **overrides):
    """Build a backbone from its name or from `dict(type=name, ...)`; overrides replace arguments of the config.

    Raises InputError for an unknown name or argument.
    """
    return _build(BACKBONES, cfg, **overrides)


def build_neck(cfg: str | Mapping, feature_specs):
    """Build a neck on the features that `feature_specs` (a backbone's) declares. Raises InputError as build_backbone."""
    return _build(NECKS, cfg, feature_specs=feature_specs)


def build_detector(cfg: str | Mapping, **overrides):
    """Build a detector, its backbone and neck included. Raises InputError as build_backbone."""
    return _build(DETECTORS, cfg, **overrides)


def _list(registry: Registry, pattern: str) -> list[str]:
    _load_members(registry)
    if registry is BACKBONES and pattern.startswith("timm:"):
        import timm

        return [f"timm:{name}" for name in timm.list_models(pattern.removeprefix("timm:"))]
    return [name for name in registry.module_dict if fnmatchcase(name, pattern)]


def list_backbones(pattern: str = "*") -> list[str]:
    """Registered backbone names that match a shell pattern, in the order of registration; "timm:*" lists timm's."""
    return _list(BACKBONES, pattern)


def list_necks(pattern: str = "*") -> list[str]:
    """Registered neck names that match a shell pattern."""
    return _list(NECKS, pattern)


def list_detectors(pattern: str = "*") -> list[str]:
    """Registered detector names that match a shell pattern."""
    return _list(DETECTORS, pattern)
