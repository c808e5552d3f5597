import torch
from torchvision.transforms import v2

from detbackbones.data.annotations import read_annotations
from detbackbones.data.coco import CocoDataset, Unreadable
from detbackbones.data.scale_jitter import LargeScaleJitter


def training_item(annotations, **options):
    """Return image and target of the image with objects, the masks as a dense tensor."""
    image, target = CocoDataset(annotations, training=True, keep_empty=False, **{"flip": 0.0} | options)[0, 0]
    return image, target | {"masks": target["masks"].dense()}


def test_a_training_item_has_image_boxes_labels_and_masks(write_coco):
    image, target = training_item(read_annotations(*write_coco()))
    assert image.shape == (3, 40, 60)
    assert image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[10, 5, 30, 15]]
    assert target["labels"].tolist() == [1]
    assert target["masks"].sum() == 200
    assert target["masks"][0, 5:15, 10:30].all()
    assert target["image_id"] == 9
    assert target["size"] == (40, 60)


def image_ids(annotations, **options):
    return [image["id"] for image in CocoDataset(annotations, **options).images]


def test_training_leaves_out_crowds(write_coco):
    annotations = read_annotations(*write_coco())
    assert len(CocoDataset(annotations, training=True)[1, 0][1]["labels"]) == 1
    assert len(CocoDataset(annotations, training=False)[1, 0][1]["labels"]) == 2


def test_training_keeps_images_without_annotations_if_asked(write_coco):
    annotations = read_annotations(*write_coco())
    assert image_ids(annotations, training=True) == [5, 9]
    assert image_ids(annotations, training=True, keep_empty=False) == [9]
    assert image_ids(annotations, training=False, keep_empty=False) == [5, 9]


def test_an_empty_item_has_no_boxes_and_no_masks(write_coco):
    _, target = CocoDataset(read_annotations(*write_coco()), training=True)[0, 0]
    assert target["boxes"].shape == (0, 4)
    assert len(target["masks"]) == 0


def test_an_image_with_crowds_alone_is_not_background(write_coco):
    annotations = read_annotations(*write_coco(lambda content: content["annotations"].pop(0)))
    assert image_ids(annotations, training=True) == [5]


def test_an_image_whose_objects_are_unusable_is_not_background(write_coco):
    def change(content):
        content["annotations"] = [content["annotations"][0] | {"bbox": [1, 1, 0, 0]}]

    annotations = read_annotations(*write_coco(change), drop_bad_objects=True)
    assert image_ids(annotations, training=True) == [5]


def test_reordered_classes_keep_their_names(write_coco):
    dataset = CocoDataset(read_annotations(*write_coco()), training=True)
    dataset.reorder_classes(["dog", "cat"])
    assert dataset.category_ids == [30, 4]
    assert dataset[1, 0][1]["labels"].tolist() == [0]


def test_resizing_scales_boxes_and_masks(write_coco):
    image, target = training_item(read_annotations(*write_coco()), short_side=80)
    assert image.shape == (3, 80, 120)
    assert target["boxes"].tolist() == [[20, 10, 60, 30]]
    assert target["masks"].sum() == 800
    assert target["size"] == (40, 60)


def test_a_flip_mirrors_image_boxes_and_masks(write_coco):
    annotations = read_annotations(*write_coco())
    image, target = training_item(annotations, short_side=80)
    flipped, mirrored = training_item(annotations, short_side=80, flip=1.0)
    assert torch.equal(flipped.flip(-1), image)
    assert mirrored["boxes"].tolist() == [[60, 10, 100, 30]]
    assert torch.equal(mirrored["masks"].flip(-1), target["masks"])


def test_the_seed_decides_size_and_flip(write_coco):
    annotations = read_annotations(*write_coco())
    dataset = CocoDataset(annotations, training=True, short_side=(20, 30, 40), keep_empty=False)
    items = [dataset[0, seed] for seed in range(40)]
    assert {image.shape[-2] for image, _ in items} == {20, 30, 40}
    assert len({(image.shape[-2], round(target["boxes"][0, 0].item())) for image, target in items}) == 6
    assert all(torch.equal(image, dataset[0, seed][0]) for seed, (image, _) in enumerate(items))


def test_evaluation_does_not_flip(write_coco):
    dataset = CocoDataset(read_annotations(*write_coco()), training=False, flip=1.0)
    assert dataset[1, 0][1]["boxes"][0].tolist() == [10, 5, 30, 15]


def test_boxes_are_clipped_and_dropped_without_area(write_coco):
    def change(content):
        outside = content["annotations"][0] | {"id": 3, "bbox": [60, 5, 1, 10]}
        content["annotations"][0]["bbox"] = [45, 5, 16, 10]
        content["annotations"].append(outside)

    _, target = training_item(read_annotations(*write_coco(change)))
    assert target["boxes"].tolist() == [[45, 5, 60, 15]]
    assert len(target["masks"]) == len(target["labels"]) == 1


def test_a_truncated_image_is_unreadable(write_coco):
    path, folder = write_coco()
    content = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(content[: len(content) // 2])
    item = CocoDataset(read_annotations(path, folder, check_images=False), training=True)[1, 0]
    assert isinstance(item, Unreadable)
    assert item.path == folder / "b.jpg"
    assert "truncated" in item.reason


def test_an_image_of_another_size_than_annotated_is_unreadable(write_coco):
    files = write_coco(lambda content: content["images"][0].update(width=600, height=400))
    item = CocoDataset(read_annotations(*files, check_images=False), training=True)[0, 0]
    assert "60x40" in item.reason
    assert "600x400" in item.reason


def test_the_seed_for_the_losses_has_63_bits_and_is_reproducible(write_coco):
    dataset = CocoDataset(read_annotations(*write_coco()), training=True)
    seeds = [dataset[1, (0, position)][1]["seed"] for position in range(20)]
    assert len(set(seeds)) == 20
    assert 2**60 < max(seeds) < 2**63
    assert dataset[1, (0, 3)][1]["seed"] == seeds[3]


def test_transforms_replace_resize_and_flip_in_training_alone(write_coco):
    annotations = read_annotations(*write_coco())
    options = {"short_side": 80, "transforms": [v2.CenterCrop((20, 30))]}
    image, target = training_item(annotations, **options, flip=1.0)
    assert image.shape == (3, 20, 30)
    assert target["boxes"].tolist() == [[0, 0, 15, 5]]  # the crop starts at (15, 10)
    assert target["masks"].nonzero().amax(0).tolist() == [0, 4, 14]
    assert CocoDataset(annotations, training=False, **options)[1, 0][0].shape == (3, 80, 120)


def test_transforms_work_without_masks(write_coco):
    dataset = CocoDataset(read_annotations(*write_coco()), training=True, masks=False, transforms=[LargeScaleJitter()])
    image, target = dataset[1, (0, 1)]
    assert image.shape == (3, 1024, 1024)
    assert "masks" not in target


def test_copy_paste_adds_objects_of_another_image(write_coco):
    def change(content):
        content["annotations"][1] = content["annotations"][0] | {"id": 2, "image_id": 5, "category_id": 4}

    dataset = CocoDataset(read_annotations(*write_coco(change)), training=True, copy_paste=1.0, flip=0.5)
    items = [dataset[1, (0, position)] for position in range(12)]
    again = [dataset[1, (0, position)] for position in range(12)]
    assert {tuple(target["labels"].tolist()) for _, target in items} == {(1,), (1, 0), (1, 1), (0,)}
    assert all(torch.equal(first[0], second[0]) for first, second in zip(items, again, strict=True))
    assert len(CocoDataset(read_annotations(*write_coco()), training=False, copy_paste=1.0)[1, 0][1]["labels"]) == 1


def test_classes_are_those_of_the_objects(write_coco):
    annotations = read_annotations(*write_coco())
    assert CocoDataset(annotations, training=True).classes() == [set(), {30}]
    assert CocoDataset(annotations, training=False).classes() == [set(), {30, 4}]
