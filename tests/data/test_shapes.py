import contextlib
import hashlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO

from detbackbones.data.shapes import CATEGORIES, ShapesSpec, ensure_shapes
from detbackbones.data.shapes_drawing import signed_area

SPEC = ShapesSpec(num_train=60, num_val=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ensure_shapes(SPEC, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=["train", "val"])
def split(folder, request):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(folder / f"instances_{request.param}.json")


def digests(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def areas(split):
    return np.array([entry["area"] for entry in split.anns.values() if not entry["iscrowd"]])


def test_the_spec_decides_every_byte(folder, tmp_path):
    again = digests(ensure_shapes(SPEC, tmp_path))
    assert again == digests(folder)
    assert len(again) == 92


def test_another_seed_gives_other_images(folder, tmp_path):
    other = digests(ensure_shapes(ShapesSpec(num_train=2, num_val=1, seed=1), tmp_path))
    assert other["images/train_001000.jpg"] != digests(folder)["images/train_001000.jpg"]


def test_written_once_then_reused(folder):
    before = (folder / "instances_train.json").stat().st_mtime_ns
    assert ensure_shapes(SPEC, folder.parent) == folder
    assert (folder / "instances_train.json").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_cache_folder_can_be_set(monkeypatch, tmp_path):
    monkeypatch.setenv("DETBACKBONES_CACHE", str(tmp_path / "cache"))
    assert ensure_shapes(ShapesSpec(num_train=1, num_val=1, side=64)).parent == tmp_path / "cache"


def test_category_ids_have_gaps(split):
    ids = sorted(split.cats)
    assert ids == [category["id"] for category in CATEGORIES]
    assert ids != list(range(ids[0], ids[0] + len(ids)))
    assert {entry["category_id"] for entry in split.anns.values()} == set(ids)


def test_objects_are_small_medium_and_large(split):
    assert {int(np.searchsorted([32**2, 96**2], area, side="right")) for area in areas(split)} == {0, 1, 2}


def test_images_have_several_sizes_and_some_are_empty(split):
    assert len({(image["width"], image["height"]) for image in split.imgs.values()}) > 3
    assert any(not split.getAnnIds(imgIds=[image_id]) for image_id in split.imgs)


def test_crowds_are_rle_and_objects_polygons(split):
    assert {bool(entry["iscrowd"]) for entry in split.anns.values()} == {True, False}
    for entry in split.anns.values():
        assert isinstance(entry["segmentation"], dict if entry["iscrowd"] else list)


def test_an_occluded_object_may_fall_apart(split):
    assert any(len(entry["segmentation"]) > 1 for entry in split.anns.values() if not entry["iscrowd"])


def test_polygons_are_outer_outlines(split):
    polygons = [p for entry in split.anns.values() if not entry["iscrowd"] for p in entry["segmentation"]]
    areas = [signed_area(np.reshape(polygon, (-1, 2))) for polygon in polygons]
    assert len(set(np.sign(areas))) == 1
    assert min(np.abs(areas)) > 3.9


def test_boxes_overlap(split):
    def overlap(a, b):
        width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
        height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        return shared / (a[2] * a[3] + b[2] * b[3] - shared)

    boxes = [[entry["bbox"] for entry in split.imgToAnns[image_id]] for image_id in split.imgs]
    assert any(overlap(a, b) > 0.1 for image in boxes for i, a in enumerate(image) for b in image[:i])


def test_boxes_and_areas_are_those_of_the_masks(split):
    for entry in split.anns.values():
        mask = split.annToMask(entry)
        ys, xs = np.nonzero(mask)
        x, y, w, h = entry["bbox"]
        assert np.allclose([x, y, x + w, y + h], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1.5)
        assert entry["area"] == mask.sum()


def test_boxes_lie_in_their_image(split):
    for entry in split.anns.values():
        x, y, w, h = entry["bbox"]
        image = split.imgs[entry["image_id"]]
        assert min(x, y) >= 0
        assert x + w <= image["width"]
        assert y + h <= image["height"]


def test_objects_do_not_share_pixels(split):
    """A polygon covers the visible part only: what one object hides of another is not in both masks (holes aside)."""
    for image_id in split.imgs:
        masks = [split.annToMask(e).astype(bool) for e in split.imgToAnns[image_id] if not e["iscrowd"]]
        for i, a in enumerate(masks):
            for b in masks[:i]:
                shared = (a & b).sum() / min(a.sum(), b.sum())
                assert shared < 0.2 or shared > 0.8  # beside each other, or in a hole that polygons cannot show
