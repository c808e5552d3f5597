from collections import Counter

import pytest

from detbackbones.data.objects import check_box, clean_object

SQUARE = [[10, 5, 30, 5, 30, 15, 10, 15]]


def cleaned(masks=True, **values):
    """Return an annotation of a 60 x 40 image after cleaning, and what was repaired."""
    entry = {"bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0, "segmentation": SQUARE} | values
    repairs = Counter()
    clean_object(entry, 40, 60, masks, repairs)
    return entry, sum(repairs.values())


def test_a_proper_object_is_left_as_it_is():
    assert cleaned() == ({"bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0, "segmentation": SQUARE}, 0)


@pytest.mark.parametrize("value", [None, "", "0", "false", "no", 0.0, False, "0.0", " 0 "])
def test_spellings_of_no_crowd(value):
    entry, repairs = cleaned(iscrowd=value)
    assert (entry["iscrowd"], type(entry["iscrowd"]), repairs) == (0, int, 1)


@pytest.mark.parametrize("value", ["1", "true", "True", "yes", 1.0, True])
def test_spellings_of_a_crowd(value):
    assert cleaned(iscrowd=value)[0]["iscrowd"] == 1


@pytest.mark.parametrize("value", [2, "crowd", -1, [], {}, 0.5])
def test_other_crowd_flags_are_errors(value):
    with pytest.raises(ValueError, match="iscrowd"):
        cleaned(iscrowd=value)


@pytest.mark.parametrize("area", [None, "200", -1, 0, float("nan"), float("inf"), True])
def test_the_area_is_that_of_the_mask(area):
    entry, repairs = cleaned(area=area, bbox=[10, 5, 25, 10])
    assert (entry["area"], repairs) == (200.0, 1)


def test_without_a_mask_the_area_is_that_of_the_box():
    assert cleaned(masks=False, area=None, segmentation=None)[0]["area"] == 200.0


@pytest.mark.parametrize("box,overhang", [([-5, 5, 30, 30], 5), ([50, 30, 30, 30], 20), ([-30, -20, 120, 80], 30)])
def test_a_box_that_leaves_its_image_is_counted_and_stays(box, overhang):
    assert check_box(box, 40, 60) == overhang
    entry, repairs = cleaned(bbox=list(box), masks=False)
    assert (entry["bbox"], repairs) == (box, 1)


@pytest.mark.parametrize("box", [[-1, 5, 20, 10], [50, 30, 11, 11], [0, 0, 60.9, 40.9], [0.2, 0.3, 1, 1], [0, 0, 1, 1]])
def test_a_box_may_leave_its_image_by_a_pixel(box):
    assert cleaned(bbox=list(box), masks=False)[1] == 0


@pytest.mark.parametrize(
    "box,word",
    [
        ([10, 5, 0, 10], "no area"),
        ([10, 5, -4, 10], "no area"),
        ([10, 5, float("inf"), 10], "finite"),
        ([float("nan"), 5, 3, 10], "finite"),
        ([10, 5, 4], "width, height"),
        (["1", "2", "3", "4"], "numbers"),
        (None, "numbers"),
        ("1 2 3 4", "numbers"),
        ([1, 2, True, 4], "numbers"),
        ([0.1, 0.2, 0.3, 0.4], "normalised"),
        ([50, 5, 1e-300, 10], "no area"),
        ([70, 5, 10, 10], "outside"),
        ([-50, 5, 10, 10], "outside"),
        ([10, 5, 200, 10], "too far"),
        ([2e8, 5, 10, 10], "too far"),
        ([10**400, 5, 10, 10], "numbers"),
        ([1.5, 2, 10**400, 3], "numbers"),
    ],
)
def test_an_unusable_box_is_an_error(box, word):
    with pytest.raises(ValueError, match=word):
        check_box(box, 40, 60)


@pytest.mark.parametrize("segmentation", [[[1, 1, 50, 50, 80, 80]], [[5, 5, 5.1, 5, 5, 5.1]], [[-9, 1, -5, 1, -5, 9]]])
def test_a_mask_without_a_pixel_stays_and_is_counted(segmentation):
    entry, repairs = cleaned(segmentation=segmentation)
    assert (entry["segmentation"], repairs) == (segmentation, 1)


def test_an_rle_without_a_pixel_is_counted():
    assert cleaned(segmentation={"size": [40, 60], "counts": [2400]})[1] == 1


@pytest.mark.parametrize("area", [2401, 1e308])
def test_an_area_above_that_of_the_image_is_derived(area):
    assert cleaned(area=area)[0]["area"] == 200.0


@pytest.mark.parametrize("box,crowd,count", [([10, 5, 20, 10], 0, 0), ([40, 5, 20, 10], 0, 1), ([40, 5, 20, 10], 1, 0)])
def test_a_box_beside_its_segmentation_is_counted(box, crowd, count):
    assert cleaned(bbox=box, iscrowd=crowd)[1] == count


@pytest.mark.parametrize("rotation", [90.0, "90", -270])
def test_a_rotation_among_the_attributes_is_applied_once(rotation):
    entry = {"bbox": [20, 15, 20, 10], "area": 200, "iscrowd": 0, "attributes": {"rotation": rotation}}
    repairs = Counter()
    for _ in range(2):
        clean_object(entry, 40, 60, False, repairs)
    assert entry["bbox"] == pytest.approx([25, 10, 10, 20])
    assert sum(repairs.values()) == 1


@pytest.mark.parametrize(
    "attributes", [{"rotation": 0.0}, {"rotation": "nan"}, {"rotation": None}, {}, "rotation", [1]]
)
def test_other_attributes_leave_the_box(attributes):
    entry, repairs = cleaned(masks=False, attributes=attributes, segmentation=[])
    assert (entry["bbox"], repairs) == ([10, 5, 20, 10], 0)


def test_a_segmentation_says_more_than_the_rotation():
    assert cleaned(attributes={"rotation": 90})[0]["bbox"] == [10, 5, 20, 10]
