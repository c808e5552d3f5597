"""Check and complete single annotations: box, segmentation, crowd flag and area."""

import math
import sys
from collections import Counter
from typing import Any

import hotcoco

from ..errors import shorten
from .segmentations import NUMBERS, clean_segmentation, to_rle

BOX_TOLERANCE_PX = 1.0  # how far a box may leave its image and stay as it is: COCO's own boxes are rounded that far
LARGEST_FLOAT = sys.float_info.max  # JSON may have larger integers
AREA_DERIVED = "area was missing or not a number, and derived from mask or box"
CROWD_WORDS = {"": 0, "0": 0, "false": 0, "no": 0, "none": 0, "1": 1, "true": 1, "yes": 1}


def clean_object(entry: dict, height: int, width: int, masks: bool, repairs: Counter[str]) -> None:
    """Check an annotation; correct it in place where its meaning is plain, and count that in `repairs`.

    Args:
        entry: the annotation. "iscrowd" becomes 0 or 1, and a missing "area" is derived. A box that leaves the image
            stays as it is, because COCO's metrics are defined on the boxes of the file.
        height, width: size of its image.
        masks: whether the segmentation is needed and therefore checked.
        repairs: output.

    Raises:
        ValueError: the annotation cannot be used.
    """
    crowd = entry.get("iscrowd")
    if type(crowd) is not int or crowd not in (0, 1):
        entry["iscrowd"] = _crowd_flag(crowd)
        repairs["iscrowd was missing" if crowd is None else "iscrowd was not written as 0 or 1"] += 1
    if check_box(entry.get("bbox"), height, width) > BOX_TOLERANCE_PX:
        repairs["boxes leave their image; training clips them"] += 1
    if masks:
        segmentation = clean_segmentation(entry.get("segmentation"), height, width)
        if segmentation is not entry["segmentation"]:
            entry["segmentation"] = segmentation
            repairs["segmentations in another spelling, or with polygons of two points, were rewritten"] += 1
    area: Any = entry.get("area")
    if type(area) not in NUMBERS or not 0 <= area <= LARGEST_FLOAT:
        entry["area"] = _area(entry, height, width)
        repairs[AREA_DERIVED] += 1


def check_box(box: Any, height: int, width: int) -> float:
    """Return how many pixels a COCO box [x, y, width, height] leaves its image; negative if it lies inside.

    Raises:
        ValueError: it is not four finite numbers; it has no area; it lies outside, or further than one side of the
            image; or it looks normalised, because it lies within the first pixel.
    """
    if not _has_four_numbers(box):
        raise ValueError(f"bbox must be [x, y, width, height] in numbers: {shorten(box)}")
    x, y, box_width, box_height = box
    if not all(map(math.isfinite, box)):
        raise ValueError(f"bbox is not finite: {shorten(box)}")
    if box_width <= 0 or box_height <= 0:
        raise ValueError(f"bbox has no area: {shorten(box)}")
    right, bottom = x + box_width, y + box_height
    if is_normalised(box):
        raise ValueError(f"bbox looks normalised to 0..1, expected pixels: {shorten(box)}")
    overhang = max(-x, -y, right - width, bottom - height)
    if overhang <= BOX_TOLERANCE_PX:
        return overhang
    if max(-x, right - width) > width or max(-y, bottom - height) > height:
        raise ValueError(f"bbox leaves its image too far: {shorten(box)} by {overhang:.1f} px of {width}x{height}")
    if min(right, width) <= max(x, 0) or min(bottom, height) <= max(y, 0):
        raise ValueError(f"bbox lies outside of its image: {shorten(box)} in {width}x{height}")
    return overhang


def is_normalised(box: Any) -> bool:
    """Return whether a box lies within the first pixel, as boxes do that are fractions of the image's size."""
    if not _has_four_numbers(box):
        return False
    x, y, box_width, box_height = box
    has_fraction = any(value % 1 for value in box)
    return has_fraction and x >= 0 and y >= 0 and 0 < box_width <= 1 - x and 0 < box_height <= 1 - y


def looks_like_corners(box: Any, height: int, width: int) -> bool:
    """Return whether a box leaves its image as [x, y, width, height] and would be ordered as [x1, y1, x2, y2]."""
    if not _has_four_numbers(box):
        return False
    x, y, third, fourth = box
    return max(x + third - width, y + fourth - height) > BOX_TOLERANCE_PX and is_ordered_as_corners(box)


def is_ordered_as_corners(box: Any) -> bool:
    """Return whether a box could be [x1, y1, x2, y2]."""
    return _has_four_numbers(box) and 0 <= box[0] < box[2] and 0 <= box[1] < box[3]


def _has_four_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_usual_number, box))


def _is_usual_number(value: Any) -> bool:
    """Return whether a value is a number; not an integer that floats cannot hold."""
    return type(value) is float or (type(value) is int and abs(value) <= LARGEST_FLOAT)


def _crowd_flag(value: Any) -> int:
    word = "" if value is None else str(value).strip().lower().removesuffix(".0")
    if word not in CROWD_WORDS:
        raise ValueError(f"iscrowd must be 0 or 1: {shorten(value)}")
    return CROWD_WORDS[word]


def _area(entry: dict, height: int, width: int) -> float:
    """Return the area of the mask in pixels, or of the box without a usable mask."""
    try:
        segmentation = clean_segmentation(entry.get("segmentation"), height, width)
    except ValueError:
        return float(entry["bbox"][2] * entry["bbox"][3])
    return float(hotcoco.mask.area(to_rle(segmentation, height, width)))
