import numpy as np
import pytest
from pycocotools.coco import COCO

from detbackbones.data.annotations import read_annotations
from detbackbones.data.sizes import resized_shape
from detbackbones.data.transforms import object_mask

SQUARE = [[10, 5, 30, 5, 30, 15, 10, 15]]


@pytest.mark.parametrize(
    "size,short_side,long_side,expected",
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((400, 1000), 800, 1333, (533, 1333)),
        ((400, 1000), 800, None, (800, 2000)),
        ((640, 480), None, None, (640, 480)),
        ((5000, 40), 800, 1333, (1333, 11)),
        ((5000, 1), 8, 100, (100, 1)),
        ((1, 4000), 800, None, (2, 8000)),
        ((100, 999), 800, None, (800, 7992)),
    ],
)
def test_resized_shape(size, short_side, long_side, expected):
    assert resized_shape(*size, short_side, long_side) == expected


def test_masks_equal_pycocotools_on_real_images(coco_tiny):
    path = coco_tiny / "annotations/instances_val2017.json"
    annotations = read_annotations(path, coco_tiny / "val2017", check_images=False)
    coco = COCO(path)
    for image in annotations.images[::9]:
        size = (image["height"], image["width"])
        for entry in annotations.objects[image["id"]]:
            assert np.array_equal(object_mask(entry["segmentation"], *size, size), coco.annToMask(entry))


@pytest.mark.parametrize("segmentation", [SQUARE, {"counts": [405, *[10, 30] * 19, 10, 1225], "size": [40, 60]}])
def test_masks_of_a_resized_image(segmentation):
    expected = np.zeros((80, 120), np.uint8)
    expected[10:30, 20:60] = 1
    assert np.array_equal(object_mask(segmentation, 80, 120, (40, 60)), expected)


def test_polygons_of_two_points_are_left_out():
    assert np.array_equal(object_mask([[1, 1, 9, 9], *SQUARE], 40, 60, (40, 60)), object_mask(SQUARE, 40, 60, (40, 60)))
    assert not object_mask([[1, 1, 9, 9]], 40, 60, (40, 60)).any()
