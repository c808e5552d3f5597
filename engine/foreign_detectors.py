"""Detectors of other libraries in the configs and tasks of this package."""

from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..detectors.base import resolve_backbone
from ..errors import InputError, shorten
from ..weights.cards import settle
from ..weights.checkpoints import is_checkpoint
from ..weights.detector_fit import fit_config
from ..weights.detector_sources import is_foreign, read_detector
from ..weights.sources import read_content
from .config import CONFIG_DIR
from .detection_config import DetectionConfig

BASES = ("_base_/datasets/coco.py", "_base_/schedules/1x.py")  # what a checkpoint of another library does not say


def config_of_foreign(source: str) -> dict[str, Any] | None:
    """Return the values of a config with the model of another library's detector or of a saved one; None for a run.

    The data are COCO's unless they are set, and so are the keys of a training, which an evaluation does not use.
    """
    if not is_foreign(source) and not _is_saved_model(source):
        return None
    found = read_detector(source)
    values: dict[str, Any] = {}
    for base in BASES:
        values |= Config.fromfile(CONFIG_DIR / base, lazy_import=False).to_dict()
    model = {key: value for key, value in found.model.items() if key != "num_classes"}
    return values | {"model": model, "short_side": found.short_side, "long_side": found.long_side}


def _is_saved_model(source: str) -> bool:
    """Return whether a file of ours has the config of a detector alone, not that of a training."""
    try:
        content = read_content(Path(source))
    except InputError:  # whoever reads it says what is wrong
        return False
    return is_checkpoint(content) and "model" in content["config"] and "optimizer" not in content["config"]


def fit_own(config: DetectionConfig, source: str) -> DetectionConfig:
    """Return a config whose model has the arguments that a checkpoint of ours settles, as `fit_foreign`.

    Raises:
        InputError: the config contradicts the checkpoint.
    """
    try:
        found = read_detector(source)
    except InputError:  # whoever loads it says what is wrong
        return config
    model = config.model | {"backbone": resolve_backbone(config.model["backbone"], settle=False) | {"weights": None}}
    fitted = fit_config(model, found)
    return config if fitted == model else config.model_copy(update={"model": fitted})


def fit_foreign(config: DetectionConfig, source: str) -> DetectionConfig:
    """Return a config whose model has the arguments that the weights of another library settle.

    Raises:
        InputError: the config contradicts the weights.
    """
    found = read_detector(source)
    given = {"mean": config.image_mean, "std": config.image_std}
    settle(found.card, given, shorten(source))
    # the weights that the config names are not read, so they settle nothing; `norm` and `freeze` are still for weights
    backbone = resolve_backbone(config.model["backbone"], settle=False) | {"weights": None}
    return config.model_copy(update={"model": fit_config(config.model | {"backbone": backbone}, found)})
