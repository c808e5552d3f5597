import subprocess
import sys

import numpy as np
import pytest
from helpers import input_error
from pycocotools import mask as coco_mask

from detbackbones.data.annotations import read_annotations, segmentation_problem, unreadable_reason


def set_box(*box):
    return lambda content: content["annotations"][0].update(bbox=list(box))


def set_crowd(**values):
    return lambda content: content["annotations"][1]["segmentation"].update(values)


def test_labels_follow_the_category_ids(write_coco):
    annotations = read_annotations(*write_coco())
    assert annotations.category_ids == [4, 30]
    assert annotations.names == ["cat", "dog"]


def test_objects_of_an_image(write_coco):
    annotations = read_annotations(*write_coco())
    assert [entry["id"] for entry in annotations.objects[9]] == [1, 2]
    assert 5 not in annotations.objects
    assert annotations.dropped == 0


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda c: c.pop("categories"), ["instances.json", "'categories'"]),
        (lambda c: c.update(images=[], annotations=[]), ["'images'", "empty"]),
        (lambda c: c["images"][0].update(file_name="aa.jpg"), ["'aa.jpg'", "did you mean a.jpg"]),
        (lambda c: c["images"][0].update(width="60"), ["images[0]", "width", "'60'"]),
        (lambda c: c["annotations"].append(3), ["annotations[2]", "3"]),
        (lambda c: c["annotations"][0].pop("area"), ["annotations[0]", "area"]),
        (lambda c: c["annotations"][1].update(id=1), ["2 entries", "'annotations'", "id 1"]),
        (lambda c: c["annotations"][0].update(category_id=31), ["annotation 1", "category_id 31", "4, 30"]),
        (lambda c: c["annotations"][0].update(image_id=7), ["annotation 1", "image_id 7"]),
        (set_box(10, 5, 0, 10), ["annotation 1", "area", "drop_bad_objects=true"]),
        (set_box(10, 5, -4, 10), ["annotation 1", "area"]),
        (set_box(10, 5, float("inf"), 10), ["annotation 1", "finite"]),
        (set_box(10, 5, 4), ["annotation 1", "[x, y, width, height]"]),
        (set_box(50, 5, 20, 10), ["annotation 1", "60x40", "10.0 px"]),
        (lambda c: c["annotations"][0].pop("segmentation"), ["annotation 1", "segmentation"]),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), ["annotation 1", "3 points"]),
        (lambda c: c["annotations"][0].update(segmentation=[["x"] * 6]), ["annotation 1", "polygons"]),
        (lambda c: c["annotations"][0].update(segmentation={"size": [40, 60]}), ["annotation 1", "counts"]),
        (set_crowd(size=[60, 40]), ["annotation 2", "[60, 40]", "[40, 60]"]),
        (set_crowd(counts=[0, 5]), ["annotation 2", "counts", "40 x 60"]),
        (set_crowd(counts=[2405, -5]), ["annotation 2", "counts"]),
        (set_crowd(counts=None), ["annotation 2", "counts"]),
    ],
)
def test_errors_name_the_entry(write_coco, change, words):
    with input_error(*words):
        read_annotations(*write_coco(change))


def test_a_box_may_reach_out_by_a_pixel(write_coco):
    assert read_annotations(*write_coco(set_box(-1, 5, 20, 10))).dropped == 0


def rle_of(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_compressed_rle_is_usable():
    image = {"height": 37, "width": 53}
    for density in (0.0, 0.02, 0.5, 1.0):
        mask = np.random.default_rng(0).random((37, 53)) < density
        assert segmentation_problem(rle_of(mask), image) is None


@pytest.mark.parametrize("end", [1, 6, 20])
def test_a_truncated_compressed_rle_is_an_error(end):
    """pycocotools would not return from scoring it, and its decoder leaves pixels uninitialised."""
    rle = rle_of(np.random.default_rng(0).random((37, 53)) < 0.5)
    rle["counts"] = rle["counts"][:end]
    assert "37 x 53" in segmentation_problem(rle, {"height": 37, "width": 53})


def test_unusable_objects_can_be_dropped(write_coco):
    annotations = read_annotations(*write_coco(set_box(10, 5, 0, 10)), drop_bad_objects=True)
    assert annotations.dropped == 1
    assert [entry["id"] for entry in annotations.objects[9]] == [2]
    assert [entry["id"] for entry in annotations.content["annotations"]] == [2]


def test_boxes_alone_need_no_segmentation(write_coco):
    files = write_coco(lambda content: content["annotations"][0].pop("segmentation"))
    assert len(read_annotations(*files, masks=False).objects[9]) == 2


def test_missing_files_are_named(write_coco, tmp_path):
    path, folder = write_coco()
    with input_error("instance.json", "did you mean instances.json"):
        read_annotations(tmp_path / "instance.json", folder)
    with input_error("image ", "did you mean images"):
        read_annotations(path, tmp_path / "image")
    with input_error(str(tmp_path / "data")):
        read_annotations(tmp_path / "data" / "instances.json", folder)


def test_broken_json_is_named(write_coco):
    path, folder = write_coco()
    path.write_text('{"images": [')
    with input_error("instances.json", "line 1"):
        read_annotations(path, folder)


def test_a_truncated_image_is_named(write_coco):
    path, folder = write_coco()
    content = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(content[: len(content) // 2])
    with input_error("b.jpg", "truncated", "skip_unreadable=true"):
        read_annotations(path, folder)
    assert len(read_annotations(path, folder, check_images=False).images) == 2


def test_a_readable_image_has_no_reason(write_coco):
    _, folder = write_coco()
    assert unreadable_reason(folder / "a.jpg") is None


@pytest.mark.parametrize("content", [b"", b"x", b"not a JPEG\xff\xd9"])
def test_other_files_have_a_reason(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert "cannot identify" in unreadable_reason(tmp_path / "a.jpg")


def test_annotations_load_neither_torch_nor_mmengine():
    check = "import sys, detbackbones.data.annotations; sys.exit(bool({'torch', 'mmengine'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
