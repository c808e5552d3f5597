import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detbackbones.engine.tiling import merge_tiles, tile_windows


@pytest.mark.parametrize("side,size,overlap", [(4000, 1024, 0.2), (1025, 1024, 0.2), (3000, 640, 0.0), (999, 100, 0.9)])
def test_tiles_cover_the_image_and_share_enough(side, size, overlap):
    windows = tile_windows(side, size, size, overlap)  # one column
    starts = [y1 for _, y1, _, _ in windows]
    assert windows[0][1] == 0
    assert windows[-1][3] == side
    assert {(x1, x2, y2 - y1) for x1, y1, x2, y2 in windows} == {(0, size, size)}
    shared = size - np.diff(starts)
    assert shared.min() >= round(size * overlap) - 1
    assert shared.max() - shared.min() <= 1
    fewest = -(-(side - size) // max(1, size - round(size * overlap))) + 1
    assert len(windows) == fewest


def test_an_image_that_fits_is_one_tile():
    assert tile_windows(1000, 1024, 1024, 0.2) == [(0, 0, 1024, 1000)]


def random_objects(count, image_size, smallest, largest):
    """Boxes of which no two overlap, with labels and scores."""
    height, width = image_size
    boxes = torch.zeros(0, 4)
    while len(boxes) < count:
        size = smallest + torch.rand(2) * (largest - smallest)
        corner = torch.rand(2) * (torch.tensor([width, height]) - size)
        box = torch.cat([corner, corner + size])[None]
        if not len(boxes) or box_iou(box, boxes).max() == 0:
            boxes = torch.cat([boxes, box])
    return {"boxes": boxes, "labels": torch.randint(0, 2, (count,)), "scores": 0.1 + 0.9 * torch.rand(count)}


def detect_in(objects, window, masks=False):
    """What a perfect detector finds in a tile: the visible part of every object, if there is some of it."""
    x1, y1, x2, y2 = window
    low, high = torch.tensor([x1, y1, x1, y1]), torch.tensor([x2, y2, x2, y2])
    boxes = objects["boxes"].maximum(low).minimum(high)
    visible = ((boxes[:, 2:] - boxes[:, :2]) > 3).all(1)
    found = {"boxes": boxes[visible], "scores": objects["scores"][visible], "labels": objects["labels"][visible]}
    return found | ({"masks": torch.ones(int(visible.sum()), 1, 28, 28)} if masks else {})


def assert_same_objects(found, objects, tolerance=1e-3):
    assert len(found["labels"]) == len(objects["labels"])
    order, expected = (values["scores"].argsort() for values in (found, objects))
    assert torch.equal(found["labels"][order], objects["labels"][expected])
    torch.testing.assert_close(found["boxes"][order], objects["boxes"][expected], atol=tolerance, rtol=0)


@pytest.mark.parametrize("overlap", [0.25, 0.4])
def test_objects_smaller_than_the_overlap_are_found_once_and_whole(overlap):
    image_size, size = (1500, 2000), 512
    objects = random_objects(150, image_size, 8, size * overlap - 15)
    windows = tile_windows(*image_size, size, overlap)
    found = merge_tiles([detect_in(objects, window) for window in windows], windows, image_size)
    assert_same_objects(found, objects)


def test_objects_larger_than_the_overlap_are_joined():
    image_size = (600, 1400)
    objects = {
        "boxes": torch.tensor([[100.0, 100, 1200, 480], [30, 520, 1390, 590], [1250, 10, 1390, 450]]),
        "labels": torch.tensor([0, 1, 0]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
    }
    windows = tile_windows(*image_size, 512, 0.2)
    found = merge_tiles([detect_in(objects, window, masks=True) for window in windows], windows, image_size)
    assert_same_objects(found, objects)
    assert found["masks"].shape == (3, 1, 28, 28)
    assert found["masks"][..., 1:-1, 1:-1].min() > 0.5  # no gap between the parts


def test_parts_of_different_objects_are_not_joined():
    """Two objects of one class that meet the same border at different places, and two classes at one place."""
    image_size, windows = (400, 700), [(0, 0, 400, 400), (300, 0, 700, 400)]
    objects = {
        "boxes": torch.tensor([[150.0, 20, 650, 120], [150, 200, 650, 300], [140, 205, 640, 310]]),
        "labels": torch.tensor([0, 0, 1]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
    }
    found = merge_tiles([detect_in(objects, window) for window in windows], windows, image_size)
    assert_same_objects(found, objects)


def test_the_whole_image_replaces_parts():
    image_size, windows = (400, 700), [(0, 0, 400, 400), (300, 0, 700, 400)]
    boxes = torch.tensor([[100.0, 50, 680, 350], [120, 60, 160, 90]])
    objects = {"boxes": boxes, "labels": torch.tensor([0, 0]), "scores": torch.tensor([0.9, 0.8])}
    tiles = [detect_in(objects, window) for window in windows]
    tiles[1] = {key: values[:0] for key, values in tiles[1].items()}  # the second tile misses it
    whole = {"boxes": boxes[:1] + 2, "labels": torch.tensor([0]), "scores": torch.tensor([0.5])}
    found = merge_tiles(tiles, windows, image_size, whole)
    expected = {**objects, "scores": torch.tensor([0.5, 0.8]), "boxes": torch.cat([whole["boxes"], boxes[1:]])}
    assert_same_objects(found, expected)


def test_tiles_without_detections():
    windows = tile_windows(400, 700, 400, 0.2)
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    assert len(merge_tiles([empty] * len(windows), windows, (400, 700))["labels"]) == 0
    with_masks = empty | {"masks": torch.zeros(0, 1, 28, 28)}
    assert merge_tiles([with_masks] * len(windows), windows, (400, 700))["masks"].shape == (0, 1, 28, 28)
