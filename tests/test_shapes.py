import contextlib
import hashlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO

from detbackbones.data.shapes import CATEGORIES, ShapesSpec, ensure_shapes

SPEC = ShapesSpec(num_train=60, num_val=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ensure_shapes(SPEC, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=["train", "val"])
def split(folder, request):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(folder / f"instances_{request.param}.json")


def digest(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_the_seed_decides_every_byte(folder, tmp_path):
    again = ensure_shapes(SPEC, tmp_path)
    assert digest(again) == digest(folder) and len(digest(folder)) == 92
    other = ensure_shapes(ShapesSpec(num_train=2, num_val=1, seed=1), tmp_path)
    assert digest(other)["images/train_001000.jpg"] != digest(folder)["images/train_001000.jpg"]


def test_written_once_then_reused(folder):
    before = (folder / "instances_train.json").stat().st_mtime_ns
    assert ensure_shapes(SPEC, folder.parent) == folder
    assert (folder / "instances_train.json").stat().st_mtime_ns == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_it_is_as_varied_as_coco(split):
    entries = list(split.anns.values())
    ids = sorted(split.cats)
    assert ids == sorted(c["id"] for c in CATEGORIES) and ids != list(range(ids[0], ids[0] + len(ids)))
    areas = np.array([e["area"] for e in entries if not e["iscrowd"]])
    assert (areas < 32**2).any() and ((areas >= 32**2) & (areas < 96**2)).any() and (areas >= 96**2).any()
    assert {e["category_id"] for e in entries} == set(ids)
    assert any(e["iscrowd"] and isinstance(e["segmentation"], dict) for e in entries)
    assert any(not split.getAnnIds(imgIds=[i]) for i in split.imgs)
    assert len({(i["width"], i["height"]) for i in split.imgs.values()}) > 3
    assert any(overlap(a["bbox"], b["bbox"]) > 0.1 for i in split.imgs for a in split.imgToAnns[i]
               for b in split.imgToAnns[i] if a["id"] < b["id"])  # fmt: skip


def overlap(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def test_boxes_and_areas_are_those_of_the_masks(split):
    for entry in split.anns.values():
        mask = split.annToMask(entry)
        ys, xs = np.nonzero(mask)
        x, y, w, h = entry["bbox"]
        assert np.allclose([x, y, x + w, y + h], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1.5)
        assert entry["area"] == mask.sum()
        image = split.imgs[entry["image_id"]]
        assert x >= 0 and y >= 0 and x + w <= image["width"] and y + h <= image["height"]


def test_objects_do_not_share_pixels(split):
    """A polygon covers the visible part only: what one object hides of another is not in both masks (holes aside)."""
    for image in split.imgs.values():
        entries = [e for e in split.imgToAnns[image["id"]] if not e["iscrowd"]]
        masks = [split.annToMask(e).astype(bool) for e in entries]
        for i, a in enumerate(masks):
            for b in masks[i + 1 :]:
                small, large = sorted((a, b), key=lambda m: m.sum())
                inside = (small & large).sum() / small.sum()
                assert inside < 0.2 or inside > 0.8  # beside each other, or a hole that COCO's polygons cannot show
