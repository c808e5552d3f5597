"""Recognise files whose boxes or masks are written otherwise than COCO writes them."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .segmentations import NUMBERS, decode_counts, measure_segmentation

LARGEST_FLOAT = sys.float_info.max  # JSON may have larger integers
MIN_OVERHANG = 1.05  # of the image's side; detectors and people draw boxes that leave the image a little
CORNER_SHARE = 0.1  # of the boxes leave their image, if all of a file are wider than their x and higher than their y
MIN_CORNERS = 10  # for this share; of fewer boxes that leave their image, most of the file's must
AGREEMENT = 0.75  # least IoU at which box and segmentation mean the same
SAMPLE, EXAMINED = 2000, 20  # objects of which box and segmentation are compared, of which the cause is looked for


def find_misreading(
    boxes: Sequence[Any], segmentations: Sequence[Any], sizes: Sequence[tuple[int, int]], masks: bool
) -> str | None:
    """Return an error message if most boxes or segmentations of a file mean something else than in COCO's form.

    Args:
        boxes: boxes, unchecked; expected [x, y, width, height] in pixels.
        segmentations: one per box, unchecked; None where there is none or it is that of a crowd region.
        sizes: height and width of the image of each box.
        masks: whether segmentations are needed, so that theirs is an error, too.
    """
    normalised = [box for box in boxes if is_normalised(box)]
    suspects = [item for item in zip(boxes, segmentations, sizes, strict=True) if looks_like_corners(item[0], *item[2])]
    corners = [item[0] for item in suspects if (_overlap(*item) or 0) < AGREEMENT]  # its polygon may prove a box right
    is_likely = len(corners) >= MIN_CORNERS and all(map(is_ordered_as_corners, boxes))
    corner_share = CORNER_SHARE if is_likely else 0.5
    for found, look, share in ((normalised, "normalised to 0..1", 0.5), (corners, "[x1, y1, x2, y2]", corner_share)):
        if len(found) > share * len(boxes):
            text = f"{len(found)} of {len(boxes)} boxes look {look}, such as {found[0]}"
            return f"{text}; expected [x, y, width, height] in pixels; convert them"
    indices = [index for index, segmentation in enumerate(segmentations) if segmentation]
    sample = indices[:: max(1, len(indices) // SAMPLE)]
    return _compare([(boxes[index], segmentations[index], sizes[index]) for index in sample], masks)


def overlap(box: Sequence[float], other: Sequence[float]) -> float:
    """Return the IoU of two boxes [x, y, width, height], each grown by a pixel all around; 1 if they are that close."""
    (x, y, width, height), (x2, y2, width2, height2) = box, other
    if abs(x - x2) <= 1 and abs(y - y2) <= 1 and abs(width - width2) <= 1 and abs(height - height2) <= 1:
        return 1
    common_width = min(x + width, x2 + width2) - max(x, x2) + 2
    common_height = min(y + height, y2 + height2) - max(y, y2) + 2
    if min(width, height, common_width, common_height) <= 0:
        return 0
    common = common_width * common_height
    return common / ((width + 2) * (height + 2) + (width2 + 2) * (height2 + 2) - common)


def is_normalised(box: Any) -> bool:
    """Return whether a box lies within the first pixel, as boxes do that are fractions of the image's size."""
    if not has_four_numbers(box):
        return False
    x, y, box_width, box_height = box
    inside = 0 < box_width <= 1 - x and 0 < box_height <= 1 - y and x >= 0 and y >= 0
    return inside and any(value % 1 for value in box)


def looks_like_corners(box: Any, height: int, width: int) -> bool:
    """Return whether a box leaves its image as [x, y, width, height] and would be ordered as [x1, y1, x2, y2]."""
    if not has_four_numbers(box):
        return False
    x, y, third, fourth = box
    leaves = x + third > MIN_OVERHANG * width or y + fourth > MIN_OVERHANG * height
    return leaves and is_ordered_as_corners(box)


def is_ordered_as_corners(box: Any) -> bool:
    """Return whether a box could be [x1, y1, x2, y2]."""
    return has_four_numbers(box) and 0 <= box[0] < box[2] and 0 <= box[1] < box[3]


def has_four_numbers(box: Any) -> bool:
    """Return whether a box has four numbers, none of them an integer that a float cannot hold."""
    if not isinstance(box, list) or len(box) != 4:
        return False
    types = set(map(type, box))
    return types == {float} or (types <= NUMBERS and all(abs(v) <= LARGEST_FLOAT for v in box if type(v) is int))


def _compare(objects: Sequence[tuple[Any, Any, tuple[int, int]]], masks: bool) -> str | None:
    """Compare boxes with segmentations; return an error message if most differ and one cause explains it."""
    overlaps = [_overlap(*item) for item in objects]
    differing = [item for item, share in zip(objects, overlaps, strict=True) if share is not None and share < AGREEMENT]
    compared = sum(share is not None for share in overlaps)
    if 2 * len(differing) <= compared:
        return None
    examined = [set(_causes(*item, masks)) for item in differing[:EXAMINED]]
    for cause in sorted(set().union(*examined)):
        if 2 * sum(cause in causes for causes in examined) >= len(examined):
            found = f"{len(differing)} of {compared} boxes differ from their segmentations, such as {differing[0][0]}"
            return f"{found}: {cause}; convert them"
    return None


def _overlap(box: Any, segmentation: Any, size: tuple[int, int]) -> float | None:
    """Return the `overlap` of a box and its segmentation; None if one of them is missing or unusable."""
    if not segmentation or not has_four_numbers(box):
        return None
    try:
        return overlap(box, measure_segmentation(segmentation, *size)[1])
    except (ValueError, OverflowError):
        return None


def _causes(box: list, segmentation: Any, size: tuple[int, int], masks: bool) -> Iterator[str]:
    """Yield readings in which box and segmentation overlap far better."""
    height, width = size
    segmentation, around = measure_segmentation(segmentation, *size)
    first, second, third, fourth = box
    readings = {
        "boxes look [x1, y1, x2, y2], expected [x, y, width, height]": (
            [first, second, third - first, fourth - second],
            around,
        ),
        "boxes look [x centre, y centre, width, height], expected [x, y, width, height]": (
            [first - third / 2, second - fourth / 2, third, fourth],
            around,
        ),
        "x and y of boxes or segmentations look swapped": ([second, first, fourth, third], around),
    }
    if masks and max(around) <= 1:
        scaled = [value * side for value, side in zip(around, [width, height] * 2, strict=True)]
        readings["segmentations look normalised to 0..1, expected pixels"] = (box, scaled)
    if masks and isinstance(segmentation, dict):
        by_rows = _extent_by_rows(segmentation, width)
        readings["RLE counts look written row by row, expected column by column"] = (box, by_rows)
    least = max(0.5, overlap(box, around) + 0.25)
    yield from (cause for cause, pair in readings.items() if overlap(*pair) >= least)


def _extent_by_rows(rle: dict[str, Any], width: int) -> list[float]:
    counts = rle["counts"]
    runs = decode_counts(counts) if isinstance(counts, str) else counts
    rows, columns = np.divmod(np.flatnonzero(np.repeat(np.arange(len(runs)) % 2 == 1, runs)), width)
    if not len(rows):
        return [0.0, 0.0, 0.0, 0.0]
    return [float(v) for v in (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)]
