import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from detbackbones.data.copy_paste import draw_objects, paste_objects
from detbackbones.layers.mask_crops import MaskCrops


def scene(*boxes, height=40, width=60, first_label=0):
    """A random image whose objects are rectangles."""
    masks = np.zeros((len(boxes), height, width), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.arange(first_label, first_label + len(boxes)),
        "masks": MaskCrops.pack(masks, (height, width)),
        "image_id": first_label,
    }
    return torch.randint(0, 255, (3, height, width), dtype=torch.uint8), target


def torchvision_copy_paste(image, target, other, other_target, chosen):
    """What torchvision's references/detection/transforms.py computes without blending for these objects."""
    alpha = other_target["masks"][chosen].sum(0) > 0
    image = image * ~alpha + other * alpha
    masks = target["masks"] * ~alpha
    keep = masks.sum((-1, -2)) > 0
    masks = masks[keep]
    return image, {
        "masks": torch.cat([masks, other_target["masks"][chosen]]),
        "boxes": torch.cat([masks_to_boxes(masks), other_target["boxes"][chosen]]),
        "labels": torch.cat([target["labels"][keep], other_target["labels"][chosen]]),
    }


def dense(target):
    return target | {"masks": target["masks"].dense()}


def test_it_equals_torchvision_but_for_the_edge_of_boxes():
    """torchvision's boxes end at the last pixel of a mask, and ours one later, as COCO's boxes do."""
    image, target = scene((5, 5, 20, 30), (30, 10, 50, 25), (32, 12, 36, 20))
    other, other_target = scene((10, 10, 40, 22), (0, 0, 4, 4), (31, 0, 60, 40), first_label=10)
    for chosen in ([0], [0, 1], [2], [0, 1, 2], []):
        ours = paste_objects(image, target, other, other_target, chosen)
        theirs = torchvision_copy_paste(image, dense(target), other, dense(other_target), chosen)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1]["masks"].dense(), theirs[1]["masks"])
        assert torch.equal(ours[1]["labels"], theirs[1]["labels"])
        own = len(theirs[1]["boxes"]) - len(chosen)
        theirs[1]["boxes"][:own, 2:] += 1
        assert torch.equal(ours[1]["boxes"], theirs[1]["boxes"])


def test_a_covered_object_is_dropped_and_the_others_are_whole():
    image, target = scene((5, 5, 10, 10), (30, 30, 50, 38))
    target["boxes"][1] += 0.25  # a box that is not that of the mask stays
    pasted, result = paste_objects(image, target, *scene((0, 0, 20, 20), first_label=7), [0])
    assert result["labels"].tolist() == [1, 7]
    assert result["boxes"].tolist() == [[30.25, 30.25, 50.25, 38.25], [0, 0, 20, 20]]
    assert result["image_id"] == 0
    assert torch.equal(pasted[:, 20:], image[:, 20:])
    assert not torch.equal(pasted, image)


def test_the_given_image_and_target_stay_as_they_are():
    image, target = scene((5, 5, 10, 10))
    before = image.clone(), target["boxes"].clone(), target["masks"].dense()
    paste_objects(image, target, *scene((0, 0, 8, 8)), [0])
    assert torch.equal(image, before[0])
    assert torch.equal(target["boxes"], before[1])
    assert torch.equal(target["masks"].dense(), before[2])


@pytest.mark.parametrize("height,width", [(20, 30), (80, 30), (20, 90), (80, 90)])
def test_an_image_of_another_size_is_cut_off(height, width):
    image, target = scene()
    other = scene((5, 5, 25, 18), (70, 10, 88, 18) if width > 70 else (0, 0, 2, 2), height=height, width=width)
    pasted, result = paste_objects(image, target, *other, [0, 1])
    assert pasted.shape == (3, 40, 60)
    assert result["boxes"].tolist() == [[5, 5, 25, 18]] + ([] if width > 70 else [[0, 0, 2, 2]])
    assert torch.equal(pasted[:, 5:18, 5:25], other[0][:, 5:18, 5:25])


def test_an_object_at_the_border_is_cut_off_with_its_box():
    image, target = scene()
    _, result = paste_objects(image, target, *scene((50, 30, 80, 70), height=80, width=90), [0])
    assert result["boxes"].tolist() == [[50, 30, 60, 40]]
    assert result["masks"].boxes.tolist() == [[50, 30, 60, 40]]


def test_an_object_without_a_mask_keeps_its_box_and_is_not_pasted():
    image, target = scene((3, 3, 3, 3), (5, 5, 9, 9))
    target["boxes"][0] = torch.tensor([1.0, 2, 3, 4])
    _, result = paste_objects(image, target, *scene((0, 0, 20, 20)), [0])
    assert result["boxes"][0].tolist() == [1, 2, 3, 4]
    assert draw_objects(target["masks"], np.random.default_rng(0)) == [1]


def test_a_random_subset_is_drawn():
    masks = scene(*[(index, 0, index + 1, 1) for index in range(20)])[1]["masks"]
    drawn = [draw_objects(masks, np.random.default_rng(seed)) for seed in range(50)]
    assert 0.55 < np.mean([len(indices) for indices in drawn]) / 20 < 0.72  # 1 - 1/e
    assert draw_objects(masks, np.random.default_rng(3)) == drawn[3]
    assert draw_objects(scene()[1]["masks"], np.random.default_rng(0)) == []
