"""Check and complete single annotations: box, segmentation, crowd flag and area."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import hotcoco

from ..errors import shorten
from .misread import has_four_numbers, is_normalised, overlap
from .segmentations import NUMBERS, clean_segmentation, has_no_pixel, measure_segmentation, to_rle

BOX_TOLERANCE_PX = 1.0  # how far a box may leave its image and stay as it is: COCO's own boxes are rounded that far
AREA_DERIVED = "area was missing or impossible, and derived from mask or box"
CROWD_WORDS = {"": 0, "0": 0, "false": 0, "no": 0, "none": 0, "1": 1, "true": 1, "yes": 1}


def clean_object(entry: dict, height: int, width: int, masks: bool, repairs: Counter[str]) -> None:
    """Check an annotation; correct it in place where its meaning is plain, and count that in `repairs`.

    Args:
        entry: the annotation. "iscrowd" becomes 0 or 1, and a missing "area" is derived. A box that leaves the image
            stays as it is, because COCO's metrics are defined on the boxes of the file. A box without segmentation
            whose attributes have a rotation becomes the box around the rotated one.
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
    if entry.get("attributes"):
        _apply_rotation(entry, repairs)
    if check_box(entry.get("bbox"), height, width) > BOX_TOLERANCE_PX:
        repairs["boxes leave their image; training clips them"] += 1
    if masks:
        segmentation, around = measure_segmentation(entry.get("segmentation"), height, width)
        if segmentation is not entry["segmentation"]:
            entry["segmentation"] = segmentation
            repairs["segmentations in another spelling, or with polygons of two points, were rewritten"] += 1
        if has_no_pixel(segmentation, height, width, around):
            repairs["masks cover no pixel; no detection can match them, so they count as missed"] += 1
        elif not entry["iscrowd"] and overlap(entry["bbox"], around) < 0.5:
            repairs["boxes overlap their segmentation by less than half (IoU)"] += 1
    area: Any = entry.get("area")
    if type(area) not in NUMBERS or not 0 < area <= height * width:
        entry["area"] = _area(entry, height, width)
        repairs[AREA_DERIVED] += 1


def check_box(box: Any, height: int, width: int) -> float:
    """Return how many pixels a COCO box [x, y, width, height] leaves its image; negative if it lies inside.

    Raises:
        ValueError: it is not four finite numbers; it has no area; it lies outside, or further than one side of the
            image; or it looks normalised, because it lies within the first pixel.
    """
    if not has_four_numbers(box):
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


def rotated_box(box: Sequence[float], degrees: float) -> list[float]:
    """Return the box around a box [x, y, width, height] that is rotated clockwise around its centre."""
    x, y, width, height = box
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    around = [width * cos + height * sin, width * sin + height * cos] if degrees else [width, height]
    return [x + (width - around[0]) / 2, y + (height - around[1]) / 2, *around]


def _apply_rotation(entry: dict, repairs: Counter[str]) -> None:
    """Replace a box that CVAT has exported without its rotation, which stands among the attributes."""
    attributes = entry["attributes"]
    try:
        degrees = float(attributes["rotation"])
    except (KeyError, TypeError, ValueError):
        return
    if degrees and math.isfinite(degrees) and has_four_numbers(entry.get("bbox")) and not entry.get("segmentation"):
        entry["bbox"] = rotated_box(entry["bbox"], degrees)
        entry["attributes"] = {**attributes, "rotation": 0}
        repairs["rotated boxes (attribute rotation) became the boxes around them"] += 1


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
