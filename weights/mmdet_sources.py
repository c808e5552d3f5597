"""Whole detectors of mmdetection: from its model zoo by name, or from a file with the text of its config inside."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, check_known, shorten
from .class_lists import COCO, class_metadata
from .detector_source import DetectorSource, foreign_source
from .mmdet_config import parse_config
from .mmdet_images import image_settings, sides_of_tests
from .mmdet_keys import mmdet_keys
from .mmdet_models import model_of
from .mmdet_zoo import ZOO, download_from_zoo, find_name, published_fields, zoo_config
from .sources import read_state

ROWS_OF_COCO = {"roi_head.bbox_head.fc_cls.bias": 81, "bbox_head.retina_cls.bias": 9 * 80}


def read_mmdet_zoo(name: str) -> DetectorSource:
    """Return a detector of mmdetection's model zoo.

    Args:
        name: name of a config of mmdetection 3 or 2 or of a file, such as "mask-rcnn_r50_fpn_1x_coco", see `find_name`.

    Raises:
        InputError: the zoo does not have it, or not a detector that is supported.
    """
    known = find_name(name) or name
    check_known("detector of mmdetection's model zoo:", ZOO, known)
    return _from_zoo(f"mmdet:{known}", known, lambda: read_state(download_from_zoo(known)))


def read_mmdet_file(path: Path, state: Mapping[str, Tensor], notes: Mapping[str, Any]) -> DetectorSource:
    """Return the detector in a file of mmdetection 2 or 3.

    Args:
        path: the file. A file of the model zoo is known by its name.
        state: its state dict.
        notes: what lies beside the state dict; "meta" has the text of the config and the names of the classes.

    Raises:
        InputError: the file does not have a config, or its detector is not supported.
    """
    where, meta = shorten(path), notes.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    published = find_name(path.name) if path.suffix == ".pth" else None
    if published is not None and _has_classes_of_coco(state, meta):
        return _from_zoo(str(path), published, lambda: state)
    text = meta.get("cfg") or meta.get("config")
    if not isinstance(text, str):
        raise InputError(
            f"{where} is a detector of mmdetection without the text of its config (meta.cfg or meta.config), and its "
            "tensors do not tell how it was trained; save it with mmdetection's own checkpoint hook"
        )
    return _source(str(path), parse_config(text, where), _classes(meta), lambda: state)


def _from_zoo(source: str, name: str, read: Callable[[], Mapping[str, Tensor]]) -> DetectorSource:
    return _source(source, zoo_config(name), COCO, read, published_fields(name))


def _has_classes_of_coco(state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bool:
    """Return whether a file under the name of a published one can be it, and was not fine-tuned on other classes."""
    names = _classes(meta)
    if names is not None and [name.replace("_", " ") for name in names.values()] != list(COCO.values()):
        return False
    return all(len(state[key]) == rows for key, rows in ROWS_OF_COCO.items() if key in state)


def _source(
    name: str,
    values: Mapping[str, Any],
    classes: Mapping[int, str] | None,
    read: Callable[[], Mapping[str, Tensor]],
    published: Mapping[str, str] | None = None,
) -> DetectorSource:
    """Return the detector with the variables of a config, and with the state dict that `read` returns."""
    where = shorten(name)
    statistics, is_bgr, divisor = image_settings(values, where)
    model = model_of(values, where) | {"size_divisor": divisor}
    keys = mmdet_keys(model, is_bgr)
    return foreign_source(
        name,
        "mmdet",
        model,
        statistics | class_metadata(classes, model["num_classes"]),
        lambda: keys.convert(read()),
        sides_of_tests(values),
        "BGR" if is_bgr else "RGB",
        published=published,
    )


def _classes(meta: Mapping[str, Any]) -> dict[int, str] | None:
    """Return category id -> name: COCO's ids for COCO's classes, else 0, 1, ...; None if the file has no names."""
    dataset = meta.get("dataset_meta")
    found = (dataset.get("classes") or dataset.get("CLASSES")) if isinstance(dataset, Mapping) else meta.get("CLASSES")
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        return None
    return dict(COCO) if list(found) == list(COCO.values()) else dict(enumerate(found))
