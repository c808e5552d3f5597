"""Whole detectors of mmdetection, from a `.pth` file with the text of its config inside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, shorten
from .class_lists import COCO, class_metadata
from .detector_source import DetectorSource, foreign_source
from .mmdet_config import parse_config
from .mmdet_images import image_settings, sides_of_tests
from .mmdet_keys import mmdet_keys
from .mmdet_models import model_of

CONSTANTS = ("data_preprocessor.",)


def read_mmdet_file(path: Path, state: Mapping[str, Tensor], notes: Mapping[str, Any]) -> DetectorSource:
    """Return the detector in a file of mmdetection 2 or 3.

    Args:
        path: the file.
        state: its state dict.
        notes: what lies beside the state dict; "meta" has the text of the config and the names of the classes.

    Raises:
        InputError: the file does not have a config, or its detector is not supported.
    """
    where, meta = shorten(path), notes.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    text = meta.get("cfg") or meta.get("config")
    if not isinstance(text, str):
        raise InputError(
            f"{where} is a detector of mmdetection without the text of its config (meta.cfg or meta.config), and its "
            "tensors do not tell how it was trained; save it with mmdetection's own checkpoint hook"
        )
    values = parse_config(text, where)
    statistics, is_bgr, divisor = image_settings(values, where)
    model = model_of(values, where) | {"size_divisor": divisor}
    keys = mmdet_keys(model, is_bgr)
    kept = {key: value for key, value in state.items() if not key.startswith(CONSTANTS)}
    metadata = statistics | class_metadata(_classes(meta), model["num_classes"])
    return foreign_source(
        str(path),
        "mmdet",
        model,
        metadata,
        lambda: keys.convert(kept),
        sides_of_tests(values),
        "BGR" if is_bgr else "RGB",
    )


def _classes(meta: Mapping[str, Any]) -> dict[int, str] | None:
    """Return category id -> name: COCO's ids for COCO's classes, else 0, 1, ...; None if the file has no names."""
    dataset = meta.get("dataset_meta")
    found = (dataset.get("classes") or dataset.get("CLASSES")) if isinstance(dataset, Mapping) else meta.get("CLASSES")
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        return None
    return dict(COCO) if list(found) == list(COCO.values()) else dict(enumerate(found))
