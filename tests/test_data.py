import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from detbackbones import InputError
from detbackbones.data.annotations import read_annotations
from detbackbones.data.coco import CocoDataset, Unreadable, resized
from detbackbones.data.loader import TrainingSampler, evaluation_loader, training_loader


@pytest.fixture
def small(tmp_path):
    """Two images, one object and one crowd region, ids with gaps; a function that writes it with changes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    content = {
        "images": [{"id": i, "file_name": n, "width": 60, "height": 40} for i, n in ((5, "a.jpg"), (9, "b.jpg"))],
        "categories": [{"id": 30, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 30, "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0,
             "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]]},
            {"id": 2, "image_id": 9, "category_id": 4, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 1,
             "segmentation": {"counts": [0, 5, 35, 5, 2355], "size": [40, 60]}},
        ],
    }  # fmt: skip

    def write(change=lambda c: None):
        change(content)
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return tmp_path / "instances.json", folder

    return write


def test_labels_boxes_and_masks(small):
    annotations = read_annotations(*small())
    assert annotations.category_ids == [4, 30] and annotations.names == ["cat", "dog"]
    training = CocoDataset(annotations, training=True, flip=0.0)
    assert len(training) == 1  # an image without objects teaches the heads nothing; evaluation keeps it
    image, target = training[0, 0]
    assert image.shape == (3, 40, 60) and image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[10, 5, 30, 15]] and target["labels"].tolist() == [1]
    assert target["masks"].sum() == 200 and target["masks"][0, 5:15, 10:30].all()
    assert len(CocoDataset(annotations, training=False)) == 2


def test_resize_and_flip_keep_objects_where_they_are(small):
    annotations = read_annotations(*small())
    image, target = CocoDataset(annotations, training=True, short_side=80, flip=0.0)[0, 0]
    flipped, mirrored = CocoDataset(annotations, training=True, short_side=80, flip=1.0)[0, 0]
    assert image.shape == (3, 80, 120) and target["boxes"].tolist() == [[20, 10, 60, 30]]
    assert torch.equal(flipped.flip(-1), image) and mirrored["boxes"].tolist() == [[60, 10, 100, 30]]
    assert torch.equal(mirrored["masks"].flip(-1), target["masks"]) and target["masks"].sum() == 800


@pytest.mark.parametrize("size,short,long,expected", [((480, 640), 800, 1333, (800, 1067)), ((400, 1000), 800, 1333, (533, 1333)),
                                                     ((640, 480), None, None, (640, 480)), ((5000, 40), 800, 1333, (1333, 11))])  # fmt: skip
def test_short_side_800_long_side_1333(size, short, long, expected):
    assert resized(*size, short, long) == expected


def test_masks_equal_pycocotools_on_real_images(coco_tiny):
    path = coco_tiny / "annotations/instances_val2017.json"
    annotations = read_annotations(path, coco_tiny / "val2017")
    coco = COCO(path)
    dataset = CocoDataset(annotations, training=False)
    for index in range(0, len(dataset), 9):
        _, target = dataset[index, 0]
        for entry, mask in zip(coco.imgToAnns[target["image_id"]], target["masks"]):
            assert np.array_equal(coco.annToMask(entry).astype(bool), mask.numpy())


@pytest.mark.parametrize("change,message", [
    (lambda c: c.pop("categories"), "no list 'categories'"),
    (lambda c: c["images"].append({"id": 1, "file_name": "aa.jpg", "width": 3, "height": 3}), "'aa.jpg'.*did you mean a.jpg"),
    (lambda c: c["annotations"][0].update(bbox=[10, 5, 0, 10]), "annotation 1.*no area"),
    (lambda c: c["annotations"][0].update(bbox=[10, 5, -4, 10]), "annotation 1.*no area"),
    (lambda c: c["annotations"][0].update(bbox=[50, 5, 20, 10]), "annotation 1.*leaves the 60x40 image by 10.0 px"),
    (lambda c: c["annotations"][0].update(category_id=31), "no category has id 31; 'categories' lists 4, 30"),
    (lambda c: c["annotations"][0].update(image_id=7), "no image has id 7"),
    (lambda c: c["annotations"][0].pop("area"), r"annotations\[0\] has no 'area'"),
    (lambda c: c["annotations"].append(3), r"annotations\[2\]"),
    (lambda c: c["annotations"][1].update(id=1), "2 entries of 'annotations' have the id 1"),
    (lambda c: c["images"][0].update(width="60"), r"images\[0\] has width='60'"),
    (lambda c: c.update(images=[], annotations=[]), "'images' is empty"),
    (lambda c: c["annotations"][0].pop("segmentation"), "annotation 1.*segmentation is missing"),
    (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "annotation 1.*no polygon of three points"),
    (lambda c: c["annotations"][0].update(segmentation=[["x"] * 6]), "annotation 1.*no list of polygons"),
    (lambda c: c["annotations"][1]["segmentation"].update(size=[60, 40]), "annotation 2.*RLE of size"),
    (lambda c: c["annotations"][1]["segmentation"].update(counts=[0, 5]), "annotation 2.*do not add up"),
])  # fmt: skip
def test_what_is_wrong_is_named(small, change, message):
    with pytest.raises(InputError, match=message):
        read_annotations(*small(change))


def test_bad_boxes_can_be_left_out_and_are_counted(small):
    annotations = read_annotations(*small(lambda c: c["annotations"][0].update(bbox=[10, 5, 0, 10])), drop_bad_objects=True)
    assert annotations.dropped == 1 and [o["id"] for o in annotations.objects[9]] == [2]
    assert [a["id"] for a in annotations.content["annotations"]] == [2]  # nor is it scored


def test_boxes_alone_need_no_segmentation(small):
    annotations = read_annotations(*small(lambda c: c["annotations"][0].pop("segmentation")), masks=False)
    assert annotations.dropped == 0 and len(annotations.objects[9]) == 2


def test_missing_or_broken_files(small, tmp_path):
    path, folder = small()
    with pytest.raises(InputError, match="instance.json does not exist; did you mean instances.json"):
        read_annotations(tmp_path / "instance.json", folder)
    with pytest.raises(InputError, match="image folder .*image does not exist; did you mean images"):
        read_annotations(path, tmp_path / "image")
    path.write_text('{"images": [')
    with pytest.raises(InputError, match="instances.json is not JSON.*line 1"):
        read_annotations(path, folder)


def test_a_truncated_image_is_named(small):
    path, folder = small()
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="b.jpg is unreadable .*truncated"):
        read_annotations(path, folder)
    annotations = read_annotations(path, folder, check_images=False)
    assert isinstance(CocoDataset(annotations, training=True)[0, 0], Unreadable)


def test_an_image_of_another_size_than_the_file_says_is_refused(small):
    annotations = read_annotations(*small(lambda c: c["images"][1].update(width=600, height=400)), masks=False)
    assert "60x40, the annotation file says 600x400" in CocoDataset(annotations, training=True)[0, 0].reason


def test_an_epoch_shows_every_image_once_and_a_later_start_goes_on():
    def take(number, **settings):
        sampler = iter(TrainingSampler(10, seed=1, **settings))
        return [next(sampler) for _ in range(number)]

    whole = take(30)
    assert sorted(i for i, _ in whole[:10]) == sorted(i for i, _ in whole[10:20]) == list(range(10))
    assert whole[:10] != whole[10:20] and len({s for _, s in whole}) == 30
    assert take(17, start=13) == whole[13:]
    assert [x for pair in zip(take(15, rank=0, world=2), take(15, rank=1, world=2)) for x in pair] == whole


def test_loaders(small):
    dataset = CocoDataset(read_annotations(*small()), training=False)
    assert [item[1]["image_id"] for batch in evaluation_loader(dataset, 0) for item in batch] == [5, 9]
    batch = next(iter(training_loader(dataset, 4, 0, TrainingSampler(2, 0))))
    assert len(batch) == 4 and {t["image_id"] for _, t in batch} == {5, 9}


def test_a_batch_holds_one_orientation_and_an_epoch_every_image():
    landscape = [i % 3 > 0 for i in range(40)]

    def take(number, **settings):
        sampler = iter(TrainingSampler(40, seed=1, landscape=landscape, batch=4, **settings))
        return [next(sampler) for _ in range(number)]

    stream = take(40 * 16)  # five windows of 32 batches
    batches = [[landscape[i] for i, _ in stream[at : at + 4]] for at in range(0, len(stream), 4)]
    assert sum(len(set(batch)) > 1 for batch in batches) <= 5 < sum(not any(batch) for batch in batches)
    assert [all(b) for b in batches[:32]] != sorted(all(b) for b in batches[:32])  # the orientations alternate
    assert sorted(stream, key=lambda sample: sample[1][1]) == [s for s in sorted(set(stream), key=lambda sample: sample[1][1])]
    assert all(sorted(i for i, (_, position) in stream if position // 40 == epoch) == list(range(40)) for epoch in range(16))
    assert take(100, start=77) == stream[77:177]
    assert [x for pair in zip(take(80, rank=0, world=2), take(80, rank=1, world=2)) for x in pair] == stream[:160]
