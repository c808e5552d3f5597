"""Check and complete single annotations: box, segmentation, crowd flag and area."""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import hotcoco

from ..errors import shorten
from .segmentations import NUMBERS, clean_segmentation, has_no_pixel, to_rle

BOX_TOLERANCE_PX = 1.0  # how far a box may leave its image and stay as it is: COCO's own boxes are rounded that far
LARGEST_FLOAT = sys.float_info.max  # JSON may have larger integers
CORNER_SHARE = 0.1  # of the boxes leave their image, if all of a file are wider than their x and higher than their y
AREA_DERIVED = "area was missing or impossible, and derived from mask or box"
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
        if has_no_pixel(segmentation, height, width):
            repairs["masks cover no pixel; no detection can match them, so they count as missed"] += 1
    area: Any = entry.get("area")
    if type(area) not in NUMBERS or not 0 <= area <= height * width:
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
    right, bottom = x + box_width, y + box_height
    if right <= x or bottom <= y:  # in floating point
        raise ValueError(f"bbox has no area: {shorten(box)}")
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


def misread_boxes(boxes: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> str | None:
    """Return an error message if most boxes are written otherwise than [x, y, width, height] in pixels.

    Args:
        boxes: those of a file, unchecked.
        sizes: height and width of the image of each box.
    """
    normalised = [box for box in boxes if is_normalised(box)]
    corners = [box for box, size in zip(boxes, sizes, strict=True) if looks_like_corners(box, *size)]
    corner_share = CORNER_SHARE if corners and all(map(is_ordered_as_corners, boxes)) else 0.5
    for suspects, look, share in ((normalised, "normalised to 0..1", 0.5), (corners, "[x1, y1, x2, y2]", corner_share)):
        if len(suspects) > share * len(boxes):
            found = f"{len(suspects)} of {len(boxes)} boxes look {look}, such as {suspects[0]}"
            return f"{found}; expected [x, y, width, height] in pixels; convert them"
    return None


def is_normalised(box: Any) -> bool:
    """Return whether a box lies within the first pixel, as boxes do that are fractions of the image's size."""
    if not _has_four_numbers(box):
        return False
    x, y, box_width, box_height = box
    inside = 0 < box_width <= 1 - x and 0 < box_height <= 1 - y and x >= 0 and y >= 0
    return inside and any(value % 1 for value in box)


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
    """Return whether a box has four numbers, none of them an integer that a float cannot hold."""
    if not isinstance(box, list) or len(box) != 4:
        return False
    types = set(map(type, box))
    return types == {float} or (types <= NUMBERS and all(abs(v) <= LARGEST_FLOAT for v in box if type(v) is int))


def _crowd_flag(value: Any) -> int:
    word = "" if value is None else str(value).strip().lower().removesuffix(".0")
    if word not in CROWD_WORDS:
        raise ValueError(f"iscrowd must be 0 or 1: {shorten(repr(value))}")
    return CROWD_WORDS[word]


def _area(entry: dict, height: int, width: int) -> float:
    """Return the area of the mask in pixels, or of the box without a usable mask."""
    try:
        segmentation = clean_segmentation(entry.get("segmentation"), height, width)
    except ValueError:
        return float(entry["bbox"][2] * entry["bbox"][3])
    return float(hotcoco.mask.area(to_rle(segmentation, height, width)))
