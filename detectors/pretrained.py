"""Build a detector from the weights that it starts from, see `weights.detector_sources`."""

import warnings
from collections.abc import Mapping
from typing import Any

from ..backbones.preprocess import Preprocess
from ..errors import InputError, shorten
from ..registry import DETECTORS, Config, accepted_arguments, build, import_modules, lookup
from ..weights.detector_fit import fit_config
from ..weights.detector_source import DetectorSource
from ..weights.detector_sources import read_detector
from ..weights.loading import fine_tune
from ..weights.torchvision_detectors import CLASS_LAYERS
from .base import Detector


def build_pretrained(weights: str, cfg: Config | None = None, load_weights: bool = True, **overrides: Any) -> Detector:
    """Build a detector and load the weights of a source; see `build_detector`.

    Args:
        weights: see `read_detector`.
        cfg: config of the detector; None for the one that the weights were trained as.
        load_weights: False only builds it, because a checkpoint follows.
        overrides: arguments that replace those of the config.

    Raises:
        InputError: the source or an argument cannot be used, or they do not fit each other.
    """
    source = read_detector(weights)
    import_modules(source.imports)
    return build_from_source(source, cfg, load_weights, **overrides)


def build_from_source(
    source: DetectorSource, cfg: Config | None = None, load_weights: bool = True, **overrides: Any
) -> Detector:
    """Build the detector of a source that is already read; arguments as `build_pretrained`."""
    given = source.model if cfg is None else {"type": cfg} if isinstance(cfg, str) else cfg
    model = fit_config(merge_parts(given, overrides), source)
    detector: Detector = build(DETECTORS, model, load_weights=False)
    if load_weights:
        new_keys = fine_tune(detector, source.state, source.name, CLASS_LAYERS)
        if new_keys:
            listed = shorten(", ".join(new_keys), 300)
            warnings.warn(f"{source.name} has other classes; these layers start anew: {listed}", stacklevel=4)
    mean, std = source.metadata.get("image_mean"), source.metadata.get("image_std")
    if source.card is None and mean and std:  # of another library, the config has them
        if detector.backbone.preprocess.channels != len(mean):
            raise InputError(
                f"{source.name} takes {len(mean)} channels, the backbone {detector.backbone.preprocess.channels}"
            )
        detector.backbone.preprocess = Preprocess(mean, std)
    if cfg is None and "num_classes" not in overrides:  # otherwise the classes may be others
        detector.metadata = source.saved_metadata()
    return detector


def merge_parts(model: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with overrides; a dict without "type" changes arguments of the part and keeps the others."""
    merged = dict(model)
    accepted = accepted_arguments(lookup(DETECTORS, model["type"])) or {}
    for name, value in overrides.items():
        default = accepted[name].default if name in accepted else None
        part = merged.get(name, default if isinstance(default, str) else None)
        if isinstance(value, Mapping) and "type" not in value and part is not None:
            value = ({"type": part} if isinstance(part, str) else dict(part)) | dict(value)
        merged[name] = value
    return merged
