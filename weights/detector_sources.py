"""Read a whole trained detector from a source: a run of ours, or a checkpoint of another library."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, shorten
from .checkpoints import is_checkpoint, is_run
from .class_lists import class_metadata
from .detector_source import DetectorSource
from .detectron2_sources import read_detectron2_file, read_zoo_detector
from .mmdet_sources import read_mmdet_file, read_mmdet_zoo
from .named_sources import find_named
from .recognition import Peeled, detector_library, peel, without_outer_prefix
from .sources import read_content
from .torchvision_sources import read_torchvision_detector, read_torchvision_file

NAMED: dict[str, Callable[[str], DetectorSource]] = {
    "torchvision": read_torchvision_detector,
    "detectron2": read_zoo_detector,
    "mmdet": read_mmdet_zoo,
}
FILES: dict[str, Callable[[Path, Peeled], DetectorSource]] = {
    "torchvision": lambda path, peeled: read_torchvision_file(path, peeled.state),
    "detectron2": lambda path, peeled: read_detectron2_file(path, peeled.state),
    "mmdet": lambda path, peeled: read_mmdet_file(path, peeled.state, peeled.notes),
}
DOWNLOADED = ("https", "http", "file", "hf")  # beginnings of names of which only the file tells what it is


def is_named(source: str) -> bool:
    """Return whether a source is a name such as "torchvision:maskrcnn_resnet50_fpn", or a URL, and not a path."""
    kind, colon, name = source.partition(":")
    return bool(colon and name) and kind in (*NAMED, *DOWNLOADED)


def is_foreign(source: str) -> bool:
    """Return whether a source is a detector of another library, without reading tensors if it can be told so."""
    if is_named(source):
        return True
    path = Path(source)
    if is_run(path) or not path.is_file():
        return False
    try:
        content = read_content(path)
        return not is_checkpoint(content) and detector_library(_peel(content, str(path)).state) in FILES
    except InputError:  # whoever reads it says what is wrong
        return False


def read_detector(source: str) -> DetectorSource:
    """Read a trained detector; its tensors are read when `DetectorSource.state` is used, if they lie elsewhere.

    Args:
        source: a run folder or a checkpoint of ours; "torchvision:maskrcnn_resnet50_fpn_v2";
            "detectron2:COCO-Detection/faster_rcnn_R_50_FPN_3x"; "mmdet:faster-rcnn_r50_fpn_1x_coco"; "hf:owner/name" of
            a model of ours; or a file or URL of a detector of torchvision, detectron2 (with its config `cfg.yaml`
            beside it) or mmdetection.

    Raises:
        InputError: the source is unknown, cannot be read, or is not a detector that is supported.
    """
    kind, colon, name = source.partition(":")
    if colon and kind in NAMED:
        return NAMED[kind](name)
    named = find_named(source) if kind in DOWNLOADED else None
    if named is None and not (Path(source).exists() or is_run(Path(source))):
        known = "a run, a checkpoint, or a name such as torchvision:maskrcnn_resnet50_fpn_v2"
        raise InputError(f"{shorten(source)} does not exist; expected {known}")
    return read_detector_file(Path(source) if named is None else named.fetch())


def read_detector_file(path: Path) -> DetectorSource:
    """Return the detector in a file or in the last checkpoint of a run. Raises as `read_detector`."""
    content = read_content(path)
    if is_checkpoint(content):
        return _from_checkpoint(content, str(path))
    peeled = _peel(content, shorten(path))
    library = detector_library(peeled.state)
    if library in FILES:
        return FILES[library](path, peeled)
    first = shorten(", ".join(list(peeled.state)[:4]))
    raise InputError(f"{shorten(path)} is not a detector of a library that is known here; its keys: {first}, ...")


def _peel(content: Any, where: str) -> Peeled:
    peeled = peel(content, where)
    return replace(peeled, state=dict(without_outer_prefix(peeled.state)))


def _from_checkpoint(content: Mapping[str, Any], source: str) -> DetectorSource:
    """Return the detector in a checkpoint of ours."""
    config, metadata = content["config"], content["metadata"]
    if "model" not in config or "category_ids" not in metadata:
        raise InputError(f"{shorten(source)} is a checkpoint, but not of a detector")
    imports = config.get("imports", ())
    nameless = "category_names" not in metadata  # a model that was built and saved, and never saw a dataset
    short_side, long_side = (  # a saved model has them in its metadata
        config.get(name, metadata.get(name, default)) for name, default in (("short_side", 800), ("long_side", 1333))
    )
    return DetectorSource(
        source,
        dict(config["model"]) | {"num_classes": len(metadata["category_ids"])},
        class_metadata(None, len(metadata["category_ids"])) | metadata if nameless else dict(metadata),
        lambda: content["model"],
        short_side=max(short_side) if isinstance(short_side, (list, tuple)) else short_side,
        long_side=long_side,
        imports=(imports,) if isinstance(imports, str) else tuple(imports),
        precision=config.get("precision", "no"),
    )
