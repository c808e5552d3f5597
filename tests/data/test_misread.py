import hotcoco
import numpy as np
import pytest

from detbackbones.data.misread import find_misreading, looks_like_corners, overlap

HEIGHT, WIDTH = SIZE = (80, 100)
BOXES = [[10, 5, 30, 20], [60, 40, 20, 30], [40, 15, 50, 20], [5, 50, 20, 10]]


def rectangle(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def by_rows(x, y, width, height):
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + height, x : x + width] = 1
    rle = hotcoco.mask.encode(np.asfortranarray(mask.ravel().reshape(WIDTH, HEIGHT).T))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def find(boxes, segmentations=None, masks=True):
    return find_misreading(boxes, segmentations or [None] * len(boxes), [SIZE] * len(boxes), masks)


@pytest.mark.parametrize(
    "write_box,write_segmentation,cause",
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], rectangle, "[x1, y1, x2, y2]"),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], rectangle, "[x centre, y centre, width, height]"),
        (lambda x, y, w, h: [y, x, h, w], rectangle, "swapped"),
        (lambda *box: [*box], lambda x, y, w, h: rectangle(x / 100, y / 80, w / 100, h / 80), "normalised to 0..1"),
        (lambda *box: [*box], by_rows, "row by row"),
    ],
)
def test_segmentations_tell_how_most_boxes_are_written(write_box, write_segmentation, cause):
    segmentations = [write_segmentation(*box) for box in BOXES]
    message = find([write_box(*box) for box in BOXES], segmentations)
    assert cause in message and f"of {len(BOXES)} boxes" in message
    half = len(BOXES) // 2
    boxes = [(write_box if number < half else lambda *box: [*box])(*box) for number, box in enumerate(BOXES)]
    rest = [(write_segmentation if number < half else rectangle)(*box) for number, box in enumerate(BOXES)]
    assert find(boxes, rest) is None


@pytest.mark.parametrize("write", [lambda x, y, w, h: rectangle(x / 100, y / 80, w / 100, h / 80), by_rows])
def test_segmentations_that_are_not_needed_may_be_wrong(write):
    assert find(BOXES, [write(*box) for box in BOXES], masks=False) is None


def test_differences_without_a_cause_are_not_refused():
    assert find(BOXES, [rectangle(x + 9, y + 9, 9, 9) for x, y, *_ in BOXES]) is None


@pytest.mark.parametrize("segmentation", [[[1]], [[float("nan")] * 6], "text", {"counts": 1}, [[1e9] * 6]])
def test_unusable_segmentations_are_left_to_the_common_check(segmentation):
    assert find(BOXES, [segmentation] * len(BOXES)) is None


@pytest.mark.parametrize(
    "wide,count,refused",
    [
        ([6, 5, 96, 70], 40, False),
        ([12, 10, 92, 60], 40, False),
        ([40, 10, 90, 60], 9, False),
        ([40, 10, 90, 60], 10, True),
    ],
)
def test_boxes_that_leave_their_image_a_little_or_are_few_are_no_corners(wide, count, refused):
    assert bool(find([wide] * count + [[12, 10, 70, 60]] * 40)) is refused


def test_a_polygon_proves_that_a_box_leaves_its_image():
    boxes = [[40, 10, 90, 60]] * 20
    assert "[x1, y1, x2, y2]" in find(boxes)
    assert find(boxes, [rectangle(*box) for box in boxes]) is None


@pytest.mark.parametrize("box,expected", [([30, 20, 55, 38], True), ([30, 20, 10, 10], False), (["a"] * 4, False)])
def test_boxes_that_may_be_corners(box, expected):
    assert looks_like_corners(box, 40, 60) is expected


@pytest.mark.parametrize(
    "other,expected",
    [([0, 0, 8, 8], 1), ([0.9, 0.9, 7.1, 7.1], 1), ([0, 0, 8, 18], 0.5), ([10, 0, 8, 8], 0), ([9, 9, -9, 9], 0)],
)
def test_overlap_of_boxes_that_are_a_pixel_larger_all_around(other, expected):
    assert overlap([0, 0, 8, 8], other) == overlap(other, [0, 0, 8, 8]) == expected
