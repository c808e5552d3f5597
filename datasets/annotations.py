"""A COCO `instances` file, read and checked: what is wrong with it is one line that names the file and the entry."""

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..registry import InputError, nearest

SECTIONS = ("images", "annotations", "categories")
OVERHANG = 1.0  # px a box may stick out of its image: COCO's own coordinates are rounded that far
JPEG_END = b"\xff\xd9"


@dataclass
class Annotations:
    """One annotation file.

    Attributes:
        content: the parsed JSON, as the evaluator takes it.
        category_ids, names: COCO ids in ascending order and their names; a label is an index into them.
        objects: image id -> its annotations that have a usable box, crowd regions included.
        dropped: annotations left out because their box is unusable (only with `drop_bad_boxes`).
    """

    path: Path
    image_dir: Path
    content: dict
    category_ids: list[int]
    names: list[str]
    objects: dict[int, list[dict]] = field(repr=False)
    dropped: int = 0

    @property
    def images(self) -> list[dict]:
        return self.content["images"]


def read_annotations(path: Path, image_dir: Path, drop_bad_boxes: bool = False, check_images: bool = True) -> Annotations:
    """Read and check an annotation file and that its images lie in `image_dir`.

    Raises InputError for: a missing file or folder; broken JSON; a missing section; an image that is not on disk or
    (with `check_images`) cut off or no image; an annotation of an unlisted image or category; a box that has no area or
    leaves its image by more than a pixel. The last are dropped and counted with `drop_bad_boxes`, because COCO's own
    train2017 holds a few.
    """
    content = _read_json(path)
    if not image_dir.is_dir():
        raise InputError(f"image folder {image_dir} does not exist{_neighbours(image_dir)}")
    categories = sorted(content["categories"], key=lambda c: c["id"])
    if not categories:
        raise InputError(f"{path}: section 'categories' is empty")
    result = Annotations(path, image_dir, content, [c["id"] for c in categories],
                         [str(c.get("name", c["id"])) for c in categories], defaultdict(list))  # fmt: skip
    images = {image["id"]: image for image in result.images}
    _check_images_exist(path, image_dir, result.images)
    if check_images:
        for image in result.images:
            reason = why_unreadable(image_dir / image["file_name"])
            if reason:
                raise InputError(f"image {image_dir / image['file_name']} is unreadable ({reason}); "
                                 "skip_unreadable=true trains without it")  # fmt: skip
    for entry in content["annotations"]:
        where = f"{path}: annotation {entry.get('id')}"
        if entry.get("image_id") not in images:
            raise InputError(f"{where}: no image has id {entry.get('image_id')}")
        if entry.get("category_id") not in result.category_ids:
            raise InputError(f"{where}: no category has id {entry.get('category_id')}; 'categories' lists "
                             f"{', '.join(map(str, result.category_ids))}")  # fmt: skip
        problem = bad_box(entry.get("bbox"), images[entry["image_id"]])
        if problem and not drop_bad_boxes:
            raise InputError(f"{where} (image {entry['image_id']}): {problem}; drop_bad_boxes=true leaves such out")
        if problem:
            result.dropped += 1
        else:
            result.objects[entry["image_id"]].append(entry)
    return result


def bad_box(bbox, image: Mapping) -> str | None:
    """What is wrong with a COCO box [x, y, width, height] in this image; None where nothing is."""
    try:
        x, y, w, h = (float(v) for v in bbox)
    except (TypeError, ValueError):
        return f"bbox {bbox} is not [x, y, width, height]"
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        return f"bbox {bbox} is not finite"
    if w <= 0 or h <= 0:
        return f"bbox {bbox} has no area"
    out = max(-x, -y, x + w - image["width"], y + h - image["height"])
    if out > OVERHANG:
        return f"bbox {bbox} leaves the {image['width']}x{image['height']} image by {out:.1f} px"
    return None


def why_unreadable(path: Path) -> str | None:
    """None for an image file that decodes; else why not.

    Only a file without JPEG's end marker is decoded here: that keeps the check of 118,287 images to opening them.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(2)
            file.seek(-min(2, os.path.getsize(path)), os.SEEK_END)
            if head == b"\xff\xd8" and file.read() == JPEG_END:
                return None
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        return str(error).replace(f" {str(path)!r}", "")
    return None


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"annotation file {path} does not exist{_neighbours(path)}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"annotation file {path} is not JSON: {error}") from None
    for section in SECTIONS:
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise InputError(f"annotation file {path} has no list {section!r}; a COCO file has {', '.join(SECTIONS)}")
    for section, keys in (("images", ("id", "file_name", "width", "height")), ("categories", ("id",))):
        for position, entry in enumerate(content[section]):
            for key in keys:
                if not isinstance(entry, dict) or key not in entry:
                    raise InputError(f"annotation file {path}: {section}[{position}] has no {key!r}")
    return content


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; its folder {path.parent} does not exist either"
    names = [p.name for p in path.parent.iterdir()]
    return f"; {nearest(path.name, names[:200])}" if names else f"; {path.parent} is empty"


def _check_images_exist(path: Path, image_dir: Path, images: list[dict]) -> None:
    there = set(os.listdir(image_dir))
    for image in images:
        name = image["file_name"]
        if name not in there and not (image_dir / name).is_file():
            raise InputError(f"{path} names image {name!r}, which is not in {image_dir}; {nearest(name, list(there)[:2000])}")
