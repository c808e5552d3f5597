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
        entry: the annotation. "iscrowd" becomes 0 or 1, a missing "area" is derived, "bbox" is clipped to the image.
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
    box = clean_box(entry.get("bbox"), height, width)
    if box is not entry["bbox"]:
        entry["bbox"] = box
        repairs["boxes that left their image were clipped"] += 1
    if masks:
        segmentation = clean_segmentation(entry.get("segmentation"), height, width)
        if segmentation is not entry["segmentation"]:
            entry["segmentation"] = segmentation
            repairs["segmentations in another spelling, or with polygons of two points, were rewritten"] += 1
    area: Any = entry.get("area")
    if type(area) not in NUMBERS or not 0 <= area <= LARGEST_FLOAT:
        entry["area"] = _area(entry, height, width)
        repairs[AREA_DERIVED] += 1


def clean_box(box: Any, height: int, width: int) -> list:
    """Return a COCO box [x, y, width, height] in pixels, clipped to its image if it leaves it by more than a pixel.

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
        return box
    if max(-x, right - width) > width or max(-y, bottom - height) > height:
        raise ValueError(f"bbox leaves its image too far: {shorten(box)} by {overhang:.1f} px of {width}x{height}")
    x, y, right, bottom = max(x, 0), max(y, 0), min(right, width), min(bottom, height)
    if right <= x or bottom <= y:
        raise ValueError(f"bbox lies outside of its image: {shorten(box)} in {width}x{height}")
    return [x, y, right - x, bottom - y]


def is_normalised(box: Any) -> bool:
    """Return whether a box lies within the first pixel, as boxes do that are fractions of the image's size."""
    if not _has_four_numbers(box):
        return False
    x, y, box_width, box_height = box
    return x >= 0 and y >= 0 and 0 < box_width <= 1 - x and 0 < box_height <= 1 - y


def looks_like_corners(box: Any, height: int, width: int) -> bool:
    """Return whether a box leaves its image as [x, y, width, height] and would be ordered as [x1, y1, x2, y2]."""
    if not _has_four_numbers(box):
        return False
    x, y, third, fourth = box
    leaves = max(x + third - width, y + fourth - height) > BOX_TOLERANCE_PX
    return leaves and 0 <= x < third and 0 <= y < fourth


def _has_four_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and set(map(type, box)) <= NUMBERS


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
