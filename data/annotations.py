"""A COCO `instances` file, read and checked: what is wrong with it is one line that names the file and the entry."""

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..errors import InputError, did_you_mean

SECTIONS = {  # what every entry of a section must hold
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "area": (int, float)},
    "categories": {"id": int},
}
OVERHANG = 1.0  # px a box may stick out of its image: COCO's own coordinates are rounded that far
JPEG_END = b"\xff\xd9"


@dataclass
class Annotations:
    """One annotation file.

    Attributes:
        content: the parsed JSON, as the evaluator takes it, without what was dropped.
        category_ids, names: COCO ids in ascending order and their names; a label is an index into them.
        objects: image id -> its annotations that can be used, crowd regions included.
        dropped: annotations left out because they cannot be used (only with `drop_bad_objects`).
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


def read_annotations(
    path: Path, image_dir: Path, masks: bool = True, drop_bad_objects: bool = False, check_images: bool = True
) -> Annotations:
    """Read and check an annotation file and that its images lie in `image_dir`.

    Raises InputError for: a missing file or folder; broken JSON; a section or an entry that lacks something; an image
    that is not on disk or (with `check_images`) cut off or no image; an annotation of an unlisted image or category; a
    box that has no area or leaves its image by more than a pixel; with `masks`, a segmentation that draws nothing. The
    last two are dropped and counted with `drop_bad_objects`, because COCO's own train2017 holds a few.
    """
    content = _read_json(path)
    if not image_dir.is_dir():
        raise InputError(f"image folder {image_dir} does not exist{neighbours(image_dir)}")
    categories = sorted(content["categories"], key=lambda c: c["id"])
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
        where = f"{path}: annotation {entry['id']}"
        if entry["image_id"] not in images:
            raise InputError(f"{where}: no image has id {entry['image_id']}")
        if entry["category_id"] not in result.category_ids:
            raise InputError(f"{where}: no category has id {entry['category_id']}; 'categories' lists "
                             f"{', '.join(map(str, result.category_ids))}")  # fmt: skip
        image = images[entry["image_id"]]
        problem = bad_box(entry.get("bbox"), image) or (bad_segmentation(entry.get("segmentation"), image) if masks else None)
        if problem and not drop_bad_objects:
            raise InputError(f"{where} (image {entry['image_id']}): {problem}; drop_bad_objects=true leaves such out")
        if problem:
            result.dropped += 1
        else:
            result.objects[entry["image_id"]].append(entry)
    if result.dropped:
        content["annotations"] = [entry for image in result.images for entry in result.objects.get(image["id"], ())]
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


def bad_segmentation(segmentation, image: Mapping) -> str | None:
    """What is wrong with polygons or RLE that shall become a mask of this image; None where nothing is."""
    if isinstance(segmentation, list):
        if not all(isinstance(p, list) and len(p) % 2 == 0 and set(map(type, p)) <= {int, float} for p in segmentation):
            return "segmentation is no list of polygons [x1, y1, x2, y2, ...]"
        return None if any(len(p) >= 6 for p in segmentation) else "segmentation has no polygon of three points"
    if not isinstance(segmentation, Mapping) or not {"counts", "size"} <= segmentation.keys():
        return "segmentation is missing" if segmentation is None else "segmentation is neither polygons nor RLE"
    size, counts = [image["height"], image["width"]], segmentation["counts"]
    if segmentation["size"] != size:
        return f"segmentation is RLE of size {segmentation['size']}, its image's is {size}"
    if isinstance(counts, list) and (set(map(type, counts)) != {int} or sum(counts) != size[0] * size[1]):
        return f"segmentation's counts do not add up to {size[0]} x {size[1]} pixels"
    return None if isinstance(counts, (list, str)) else "segmentation's counts are neither numbers nor text"


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
        raise InputError(f"annotation file {path} does not exist{neighbours(path)}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"annotation file {path} is not JSON: {error}") from None
    for section, keys in SECTIONS.items():
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise InputError(f"annotation file {path} has no list {section!r}; a COCO file has {', '.join(SECTIONS)}")
        for position, entry in enumerate(content[section]):
            for key, kind in keys.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                    what = f"{key}={entry[key]!r}"[:60] if isinstance(entry, dict) and key in entry else f"no {key!r}"
                    wanted = "a number" if kind != str else "text"
                    raise InputError(f"annotation file {path}: {section}[{position}] has {what}, it needs {wanted} there")
        for value, number in Counter(entry["id"] for entry in content[section]).items():
            if number > 1:
                raise InputError(f"annotation file {path}: {number} entries of {section!r} have the id {value}")
        if not content[section] and section != "annotations":
            raise InputError(f"annotation file {path}: section {section!r} is empty")
    return content


def neighbours(path: Path) -> str:
    """The end of an error message on a missing path: what lies in its folder under the nearest names."""
    if not path.parent.is_dir():
        return f"; its folder {path.parent} does not exist either"
    return near(path.name, os.listdir(path.parent)) or f"; see {path.parent}"


def near(name: str, names: Collection[str]) -> str:
    """The same for a name and those that are there; nothing where that would be long."""
    hint = did_you_mean(name, sorted(names)[:2000]) if names else "nothing is there"
    return f"; {hint}" if len(hint) < 200 else ""


def _check_images_exist(path: Path, image_dir: Path, images: list[dict]) -> None:
    there = set(os.listdir(image_dir))
    for image in images:
        name = image["file_name"]
        if name not in there and not (image_dir / name).is_file():
            raise InputError(f"{path} names image {name!r}, which is not in {image_dir}{near(name, there)}")
