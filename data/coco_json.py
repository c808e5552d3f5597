"""Read a COCO `instances` file: JSON with the lists "images", "annotations" and "categories"."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InputError, shorten
from .image_folder import suggest_path

SECTIONS = ("images", "annotations", "categories")
RELATIVES = {  # key of an annotation -> other files of COCO's family, and what to do
    "segments_info": "a panoptic file; expected an instances file (panopticapi converts it)",
    "caption": "a captions file; expected an instances file",
}


def read_coco(path: Path) -> dict[str, Any]:
    """Return the parsed file. Entries are dicts, whose values are not checked.

    Raises:
        InputError: it does not exist, is not JSON, or lacks one of the lists.
    """
    if not os.path.isfile(path):
        raise InputError(f"annotation file {shorten(path)} does not exist{suggest_path(path)}")
    content = _parse(path)
    if not isinstance(content, dict):
        raise InputError(f"annotation file {path} has a {type(content).__name__}, expected a dict with {SECTIONS}")
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    for key, relative in RELATIVES.items():
        if isinstance(first, dict) and key in first:
            raise InputError(f"annotation file {path} is {relative}")
    for section in SECTIONS:
        if not isinstance(content.get(section), list):
            raise InputError(f"annotation file {path} has no list {section!r}; expected {', '.join(SECTIONS)}")
        if not content[section] and section != "annotations":
            raise InputError(f"annotation file {path}: section {section!r} is empty")
        for position, entry in enumerate(content[section]):
            if not isinstance(entry, dict):
                raise InputError(f"annotation file {path}: {section}[{position}] must be a dict, got {shorten(entry)}")
    return content


def _parse(path: Path) -> Any:
    """Parse with msgspec, and with the standard library what msgspec refuses: a byte order mark, and NaN.

    msgspec takes half the time. orjson needs half as much memory again and rounds integers of more than 64 bits.
    """
    try:
        data = path.read_bytes()
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError:
            return json.loads(data)
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"annotation file {path} is not JSON: {shorten(error, 200)}") from None
