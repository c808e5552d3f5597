"""Read and check a COCO `instances` file; an error is one line that names the file and the entry."""

import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError, did_you_mean

REQUIRED_KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "annotations": {"id": int, "image_id": int, "category_id": int, "area": (int, float)},
    "categories": {"id": int},
}
BOX_TOLERANCE_PX = 1.0  # how far a box may reach out of its image: COCO's own coordinates are rounded that far
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass
class Annotations:
    """One annotation file.

    Attributes:
        path: the file.
        image_dir: folder of its images.
        content: the parsed JSON without dropped annotations, as `CocoEvaluator` takes it.
        category_ids: COCO ids in ascending order; a label is an index into them.
        names: names of the categories, in the same order.
        objects: image id -> its usable annotations, crowd regions included.
        dropped: number of unusable annotations that were left out (only with `drop_bad_objects`).
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
        """The entries of section "images"."""
        return self.content["images"]


def read_annotations(
    path: Path, image_dir: Path, masks: bool = True, drop_bad_objects: bool = False, check_images: bool = True
) -> Annotations:
    """Read and check an annotation file, and check that its images lie in `image_dir`.

    Args:
        path: a JSON file with the sections "images", "annotations" and "categories".
        image_dir: folder of the images.
        masks: whether every annotation needs a segmentation.
        drop_bad_objects: leave out annotations with an unusable box or segmentation and count them, instead of raising
            an error. COCO's own train2017 has a few.
        check_images: also check that every image is readable.

    Raises:
        InputError: the file or folder does not exist or is not a COCO file; an entry lacks a key; two entries of a
            section have one id; an image is missing or unreadable; an annotation belongs to no listed image or
            category; or its box or segmentation is unusable, see `box_problem` and `segmentation_problem`.
    """
    content = _read_json(path)
    if not image_dir.is_dir():
        raise InputError(f"image folder {image_dir} does not exist{suggest_path(image_dir)}")
    _check_images(path, image_dir, content["images"], decode=check_images)
    categories = {entry["id"]: str(entry.get("name", entry["id"])) for entry in content["categories"]}
    ids = sorted(categories)
    annotations = Annotations(path, image_dir, content, ids, [categories[i] for i in ids], objects=defaultdict(list))
    images = {image["id"]: image for image in content["images"]}
    for entry in content["annotations"]:
        entry_name = f"{path}: annotation {entry['id']}"
        if entry["image_id"] not in images:
            raise InputError(f"{entry_name}: image_id {entry['image_id']} is not in 'images'")
        if entry["category_id"] not in categories:
            known = ", ".join(map(str, ids))
            raise InputError(f"{entry_name}: category_id {entry['category_id']} is not in 'categories'; known: {known}")
        image = images[entry["image_id"]]
        problem = box_problem(entry.get("bbox"), image)
        if masks and problem is None:
            problem = segmentation_problem(entry.get("segmentation"), image)
        if problem is None:
            annotations.objects[entry["image_id"]].append(entry)
        elif drop_bad_objects:
            annotations.dropped += 1
        else:
            raise InputError(f"{entry_name} (image {image['id']}): {problem}; drop_bad_objects=true leaves it out")
    if annotations.dropped:
        content["annotations"] = [entry for image_id in images for entry in annotations.objects.get(image_id, ())]
    return annotations


def box_problem(bbox: Any, image: Mapping) -> str | None:
    """Return what makes a COCO box [x, y, width, height] unusable in this image, or None.

    It must be finite, have an area, and reach out of the image by at most a pixel.
    """
    try:
        x, y, width, height = map(float, bbox)
    except (TypeError, ValueError):
        return f"bbox must be [x, y, width, height], got {bbox}"
    if not all(math.isfinite(value) for value in (x, y, width, height)):
        return f"bbox {bbox} is not finite"
    if width <= 0 or height <= 0:
        return f"bbox {bbox} has no area"
    overhang = max(-x, -y, x + width - image["width"], y + height - image["height"])
    if overhang > BOX_TOLERANCE_PX:
        return f"bbox {bbox} leaves the {image['width']}x{image['height']} image by {overhang:.1f} px"
    return None


def segmentation_problem(segmentation: Any, image: Mapping) -> str | None:
    """Return what makes a segmentation unusable as a mask of this image, or None.

    It must be a list of polygons, one of them with three points, or an RLE that fills the image exactly: pycocotools
    does not return from scoring a shorter one, and hotcoco scores it without a warning.
    """
    if segmentation is None:
        return "segmentation is missing"
    if isinstance(segmentation, list):
        if not all(isinstance(p, list) and len(p) % 2 == 0 and set(map(type, p)) <= {int, float} for p in segmentation):
            return "segmentation must be a list of polygons [x1, y1, x2, y2, ...]"
        return None if any(len(polygon) >= 6 for polygon in segmentation) else "segmentation has no polygon of 3 points"
    if not isinstance(segmentation, Mapping) or not {"counts", "size"} <= segmentation.keys():
        return "segmentation must be polygons or an RLE with counts and size"
    height, width = image["height"], image["width"]
    if segmentation["size"] != [height, width]:
        return f"segmentation is an RLE of size {segmentation['size']}, but its image has {[height, width]}"
    counts = segmentation["counts"]
    counts = decode_counts(counts) if isinstance(counts, str) else counts
    if isinstance(counts, list) and set(map(type, counts)) == {int} and min(counts) >= 0:
        if sum(counts) == height * width:
            return None
    return f"segmentation's RLE counts do not add up to {height} x {width} pixels"


def decode_counts(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed RLE, as `rleFrString` of cocoapi reads them.

    A number is a sequence of 5-bit groups, the least significant first; all but the last have bit 5 set. From the
    fourth on it is the difference to the number two places before.
    """
    counts: list[int] = []
    for token in re.findall("[P-o]*[0-O]", text):
        groups = [(ord(character) - 48) & 31 for character in token]
        value = sum(group << (5 * place) for place, group in enumerate(groups))
        if groups[-1] & 16:  # negative
            value -= 1 << (5 * len(groups))
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def unreadable_reason(path: Path) -> str | None:
    """Return why an image file does not decode, or None if it does.

    A file with the start and end markers of JPEG counts as readable without decoding it, so that checking COCO's
    118,287 images only opens them.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            file.seek(-min(2, os.path.getsize(path)), os.SEEK_END)
            if start == JPEG_START and file.read() == JPEG_END:
                return None
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError) as error:
        return str(error).replace(f" {str(path)!r}", "")
    return None


def suggest_path(path: Path) -> str:
    """Return the end of an error message on a missing path: the nearest names in its folder."""
    if not path.parent.is_dir():
        return f"; its folder {path.parent} does not exist either"
    return _suggest(path.name, os.listdir(path.parent)) or f"; see {path.parent}"


def _suggest(name: str, names: Collection[str]) -> str:
    """Return "; did you mean ...?" for `name` among `names`, or "" if the hint is too long."""
    hint = did_you_mean(name, sorted(names)[:2000]) if names else "the folder is empty"
    return f"; {hint}" if len(hint) < 200 else ""


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"annotation file {path} does not exist{suggest_path(path)}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"annotation file {path} is not JSON: {error}") from None
    for section, kinds in REQUIRED_KEYS.items():
        if not isinstance(content, dict) or not isinstance(content.get(section), list):
            raise InputError(f"annotation file {path} has no list {section!r}; expected {', '.join(REQUIRED_KEYS)}")
        for position, entry in enumerate(content[section]):
            for key, kind in kinds.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                    expected = f"{key} must be {'text' if kind is str else 'a number'}"
                    raise InputError(f"annotation file {path}: {section}[{position}]: {expected}, got {entry!r:.200}")
        for value, count in Counter(entry["id"] for entry in content[section]).most_common(1):
            if count > 1:
                raise InputError(f"annotation file {path}: {count} entries of {section!r} have the id {value}")
        if not content[section] and section != "annotations":
            raise InputError(f"annotation file {path}: section {section!r} is empty")
    return content


def _check_images(path: Path, image_dir: Path, images: list[dict], decode: bool) -> None:
    names = set(os.listdir(image_dir))
    for image in images:
        name = image["file_name"]
        if name not in names and not (image_dir / name).is_file():
            raise InputError(f"{path} names image {name!r}, which is not in {image_dir}{_suggest(name, names)}")
        reason = unreadable_reason(image_dir / name) if decode else None
        if reason:
            raise InputError(f"image {image_dir / name} is unreadable ({reason}); skip_unreadable=true leaves it out")
