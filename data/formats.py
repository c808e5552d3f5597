"""Recognise the format of annotations, and read formats other than COCO's into its form."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError, check_known, shorten
from .cvat import read_cvat
from .image_folder import suggest_path
from .voc import read_voc
from .xml_files import read_xml
from .yolo import YAML_SUFFIXES, read_yolo

FORMATS = ("coco", "voc", "yolo", "cvat", "lvis")
READERS = {"voc": read_voc, "yolo": read_yolo, "cvat": read_cvat}
ROOTS = {"annotations": "cvat", "annotation": "voc"}  # root of an XML file -> format


def recognise_format(path: Path) -> str:
    """Return the format of annotations by their path, and by the root of an XML file.

    Raises:
        InputError: the path does not exist, or is not of a known form.
    """
    suffix = path.suffix.lower()
    if os.path.isdir(path):
        found = next(_formats_of_folder(path), None)
    elif suffix == ".json":
        found = "coco"
    elif not os.path.exists(path):
        raise InputError(f"annotation file {shorten(path)} does not exist{suggest_path(path)}")
    elif suffix in YAML_SUFFIXES:
        found = "yolo"
    elif suffix == ".txt" and "ImageSets" in path.absolute().parts:
        found = "voc"
    else:
        found = ROOTS.get(read_xml(path).tag) if suffix == ".xml" else None
    if found is None:
        forms = "a .json file (COCO), data.yaml (YOLO), annotations.xml (CVAT) or a folder with ImageSets (VOC)"
        raise InputError(f"format of {shorten(path)} not recognised, expected {forms}; set format={'|'.join(FORMATS)}")
    return found


def read_source(path: Path, image_dir: Path | None, format: str, split: str) -> tuple[dict, Path]:
    """Read annotations into COCO's form, values unchecked.

    Args:
        path, image_dir, split: see the reader of the format.
        format: "voc", "yolo" or "cvat".

    Returns:
        {"images", "annotations", "categories"} and the folder that the images' file names are relative to. Each
        annotation has its name for messages under `problems.SOURCE`. An image without a known size has no width and
        height. Under `problems.REPAIRS` stands what the reader repaired or left out.

    Raises:
        InputError: a file does not exist or has another form.
    """
    check_known("format", READERS, format)
    if not os.path.exists(path):
        raise InputError(f"annotation file {shorten(path)} does not exist{suggest_path(path)}")
    return READERS[format](path, image_dir, split)


def _formats_of_folder(folder: Path) -> Iterator[str]:
    if (folder / "ImageSets").is_dir() or (folder / "Annotations").is_dir():
        yield "voc"
    if any(file.suffix in YAML_SUFFIXES for file in folder.glob("*.y*ml")) or (folder / "labels").is_dir():
        yield "yolo"
    for file in sorted(folder.glob("[!.]*.xml")):
        if found := ROOTS.get(read_xml(file).tag):
            yield found
