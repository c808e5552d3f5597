"""Check the segmentations of COCO annotations and results: polygons, and run-length encodings (RLE)."""

import math
import re
from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any

import hotcoco

from ..errors import shorten

NUMBERS = {int, float}
MIN_NUMBERS = 6  # of a polygon: three points
MIN_VISIBLE_AREA = 8.0  # twice the area in pixels above which a polygon is not drawn to find a pixel
MAX_GROUPS = 7  # of 5 bits: cocoapi's run lengths have 32 bits


def clean_segmentation(segmentation: Any, height: int, width: int) -> list | dict:
    """Return a segmentation in COCO's own spelling; it is the argument itself if that is spelled so already.

    Polygons of one or two points are left out if there are others; points as pairs [[x, y], ...] and one polygon
    without the outer list are rewritten; whole numbers in an RLE may be written as 5.0.

    Args:
        segmentation: polygons [[x1, y1, x2, y2, ...], ...] in pixels, or an RLE {"size": [height, width], "counts"}.
        height, width: size of the image.

    Raises:
        ValueError: it is not finite; it lies further outside than one side of the image; or it is an RLE that does not
            fill the image exactly: pycocotools does not return from scoring a shorter one, and hotcoco scores it
            without a warning.
    """
    if segmentation is None:
        raise ValueError("segmentation is missing")
    if isinstance(segmentation, list):
        return _clean_polygons(segmentation, height, width)[0]
    if not isinstance(segmentation, Mapping) or not {"counts", "size"} <= segmentation.keys():
        raise ValueError(f"segmentation must be polygons or an RLE with counts and size: {shorten(segmentation)}")
    return _clean_rle(segmentation, height, width)


def measure_segmentation(segmentation: Any, height: int, width: int) -> tuple[list | dict, list[float]]:
    """Return what `clean_segmentation` returns, and the box [x, y, width, height] around the polygons or pixels."""
    if isinstance(segmentation, list):
        return _clean_polygons(segmentation, height, width)
    rle = clean_segmentation(segmentation, height, width)
    return rle, hotcoco.mask.toBbox(to_rle(rle, height, width)).tolist()


def to_rle(segmentation: list | dict, height: int, width: int) -> dict[str, Any]:
    """Return a clean segmentation as compressed RLE with text counts; of polygons the pixels that pycocotools draws."""
    if isinstance(segmentation, list):
        rle = hotcoco.mask.merge(hotcoco.mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], str):
        return {"size": segmentation["size"], "counts": segmentation["counts"]}
    else:
        rle = hotcoco.mask.frPyObjects(segmentation, height, width)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def has_no_pixel(segmentation: list | dict, height: int, width: int, box: Sequence[float]) -> bool:
    """Return whether a clean segmentation covers no pixel. A polygon is drawn to find out only if it is small.

    Args:
        segmentation, height, width: see `clean_segmentation`.
        box: that around it, see `measure_segmentation`.
    """
    if isinstance(segmentation, list):
        x, y, box_width, box_height = box
        is_inside = x >= 0 and y >= 0 and x + box_width <= width and y + box_height <= height
        if is_inside and any(_twice_area(polygon) > MIN_VISIBLE_AREA for polygon in segmentation):
            return False
        return not hotcoco.mask.area(to_rle(segmentation, height, width))
    counts = segmentation["counts"]
    return not any((decode_counts(counts) if isinstance(counts, str) else counts)[1::2])


def decode_counts(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed RLE, as `rleFrString` of cocoapi reads them.

    A number is a sequence of 5-bit groups, the least significant first; all but the last have bit 5 set. From the
    fourth on it is the difference to the number two places before.

    Raises:
        ValueError: a character does not belong to an RLE, or the last number is incomplete.
    """
    tokens = re.findall(f"[P-o]{{0,{MAX_GROUPS - 1}}}[0-O]", text)
    if sum(map(len, tokens)) != len(text):
        raise ValueError(f"segmentation's RLE counts are cut off or not text of COCO's form: {shorten(text, 40)}")
    counts: list[int] = []
    for token in tokens:
        groups = [(ord(character) - 48) & 31 for character in token]
        value = sum(group << (5 * place) for place, group in enumerate(groups))
        if groups[-1] & 16:  # negative
            value -= 1 << (5 * len(groups))
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def whole_number(value: Any) -> int | None:
    """Return an int, or a float without a fraction, as int; None for anything else, also for a bool."""
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def _clean_polygons(segmentation: list, height: int, width: int) -> tuple[list, list[float]]:
    polygons = segmentation
    if segmentation and type(segmentation[0]) in NUMBERS:
        polygons = [segmentation]
    elif len(segmentation) > 2 and all(_is_point(point) for point in segmentation):
        polygons = [_flatten(segmentation)]
    elif any(isinstance(polygon, list) and polygon and isinstance(polygon[0], list) for polygon in segmentation):
        polygons = [_flatten(polygon) for polygon in segmentation]
    extents = [_check_polygon(polygon, height, width) for polygon in polygons]
    usable = [polygon for polygon in polygons if len(polygon) >= MIN_NUMBERS]
    if not usable:
        raise ValueError("segmentation has no polygon of 3 points")
    left, top, right, bottom = extents[0]
    for extent in extents[1:]:
        left, top = min(left, extent[0]), min(top, extent[1])
        right, bottom = max(right, extent[2]), max(bottom, extent[3])
    is_clean = len(usable) == len(segmentation) and polygons is segmentation
    return segmentation if is_clean else usable, [left, top, right - left, bottom - top]


def _twice_area(polygon: list) -> float:
    """Return twice the area by the shoelace formula."""
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(map(mul, xs, [*ys[1:], ys[0]])) - sum(map(mul, ys, [*xs[1:], xs[0]])))


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and set(map(type, point)) <= NUMBERS


def _flatten(points: Any) -> list:
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise ValueError(f"segmentation must be a list of polygons [x1, y1, x2, y2, ...]: {shorten(points)}")
    return [value for point in points for value in point]


def _check_polygon(polygon: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom end of a polygon. Raises ValueError if it is unusable."""
    if not isinstance(polygon, list) or len(polygon) % 2 or not set(map(type, polygon)) <= NUMBERS:
        raise ValueError(f"segmentation must be a list of polygons [x1, y1, x2, y2, ...]: {shorten(polygon)}")
    if not polygon:
        return math.inf, math.inf, -math.inf, -math.inf
    xs, ys = polygon[0::2], polygon[1::2]
    left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    if not (-width <= left and right <= 2 * width and -height <= top and bottom <= 2 * height):  # also if one is NaN
        values = ys if -width <= left and right <= 2 * width else xs
        outlier = max(values, key=lambda value: abs(value) if value == value else math.inf)
        kind = "is not finite" if outlier != outlier or abs(outlier) == math.inf else "lies too far outside"
        raise ValueError(f"segmentation {kind}: {shorten(outlier)} in an image of {width}x{height}")
    if not math.isfinite(sum(polygon)):
        raise ValueError("segmentation is not finite: it has NaN")
    return left, top, right, bottom


def _clean_rle(rle: Mapping, height: int, width: int) -> dict:
    size = _whole_numbers(rle["size"])
    if size != [height, width]:
        raise ValueError(f"segmentation's RLE has another size: {shorten(rle['size'])}, its image {[height, width]}")
    counts = rle["counts"]
    if isinstance(counts, str):
        if counts.startswith(("b'", 'b"')):
            raise ValueError(f"segmentation's RLE counts are printed bytes (write counts.decode()): {counts[:20]}...")
        runs: Sequence[int] | None = decode_counts(counts)
    else:
        runs = _whole_numbers(counts)
    if runs is None or min(runs, default=0) < 0:
        found = shorten(counts if runs is None else min(runs), 40)
        raise ValueError(f"segmentation's RLE counts must be text or whole numbers that are not negative: {found}")
    if sum(runs) != height * width:
        total = f"{height} x {width} pixels, they give {shorten(sum(runs), 40)}"
        raise ValueError(f"segmentation's RLE counts do not add up to the image: {total}")
    counts = counts if isinstance(counts, str) else runs
    if size == rle["size"] and counts is rle["counts"]:
        return rle  # type: ignore[return-value]
    return {**rle, "size": size, "counts": counts}


def _whole_numbers(values: Any) -> list[int] | None:
    """Return a list of whole numbers as ints, the list itself if it has ints only; None for anything else."""
    if not isinstance(values, list):
        return None
    if set(map(type, values)) <= {int}:
        return values
    numbers = [whole_number(value) for value in values]
    return None if None in numbers else numbers  # type: ignore[return-value]
