import random

import numpy as np
import pytest
import torch
from helpers import input_error
from torchvision.transforms import v2

from detbackbones.data.augmentation import TRANSFORMS, apply_transforms, build_transforms
from detbackbones.data.sizes import MAX_PIXELS


def sample(count=2):
    image = torch.randint(0, 255, (3, 40, 60), dtype=torch.uint8)
    masks = torch.zeros((count, 40, 60), dtype=torch.uint8)
    masks[:, 5:15, 10:30] = 1
    boxes = torch.tensor([[10.0, 5, 30, 15]] * count).reshape(-1, 4)
    target = {"boxes": boxes, "labels": torch.arange(count), "masks": masks, "image_id": 9, "size": (40, 60)}
    return image, target


def darken(image, target, factor=0.5):
    return (image * factor).to(torch.uint8), target


def run(*entries, seed=0, count=2):
    return apply_transforms(build_transforms(entries), *sample(count), seed)


def test_boxes_and_masks_follow_a_flip():
    image, target = sample()
    flipped, mirrored = apply_transforms(build_transforms([dict(type="RandomHorizontalFlip", p=1.0)]), image, target, 0)
    assert torch.equal(flipped, image.flip(-1))
    assert mirrored["boxes"].tolist() == [[30, 5, 50, 15]] * 2
    assert torch.equal(mirrored["masks"], target["masks"].flip(-1))
    assert type(flipped) is type(mirrored["boxes"]) is type(mirrored["masks"]) is torch.Tensor
    assert (mirrored["image_id"], mirrored["size"]) == (9, (40, 60))


def test_objects_that_a_crop_leaves_out_are_dropped():
    _, target = run(dict(type="CenterCrop", size=(40, 30)))  # x from 15 to 45
    assert target["boxes"].tolist() == [[0, 5, 15, 15]] * 2
    assert target["labels"].tolist() == [0, 1]
    _, target = run(dict(type="CenterCrop", size=(4, 30)))  # y from 18 to 22
    assert [len(target[name]) for name in ("boxes", "labels", "masks")] == [0, 0, 0]


def test_the_seed_decides_all_random_numbers_and_the_global_generators_are_restored():
    def noisy(image, target):
        noise = torch.randint(0, 50, image.shape) + random.randrange(50) + np.random.randint(50)
        return noise.to(torch.uint8), target

    image, target = sample()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first, second, other = (apply_transforms([noisy], image, target, seed)[0] for seed in (3, 3, 2**63 - 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


@pytest.mark.parametrize("name", ["RandomIoUCrop", "RandomZoomOut", "RandomPhotometricDistort", "LargeScaleJitter"])
def test_an_image_without_objects_can_be_transformed(name):
    _, target = run(dict(type=name), count=0)
    assert target["boxes"].shape == (0, 4)
    assert len(target["masks"]) == len(target["labels"]) == 0


def test_transforms_can_hold_transforms():
    torch.manual_seed(0)
    plain, _ = run()
    torch.manual_seed(0)
    inverted, _ = run(dict(type="RandomApply", transforms=[dict(type="RandomInvert", p=1.0)], p=1.0))
    assert torch.equal(inverted, 255 - plain)


def test_a_function_gets_the_arguments_of_the_config():
    TRANSFORMS.register_module(name="darken_in_test", module=darken, force=True)
    for name in ("darken_in_test", f"{__name__}:darken"):
        torch.manual_seed(0)
        plain, _ = run()
        torch.manual_seed(0)
        dark, _ = run(dict(type=name, factor=0.25))
        assert torch.equal(dark, (plain * 0.25).to(torch.uint8))


@pytest.mark.parametrize(
    "entry,words",
    [
        (dict(type="RandomHorizontalFlp"), ["RandomHorizontalFlp", "did you mean RandomHorizontalFlip"]),
        (dict(type="RandomHorizontalFlip", prob=1), ["transforms[0] (RandomHorizontalFlip)", "'prob'"]),
        (dict(type="RandomHorizontalFlip", p=3), ["transforms[0] (RandomHorizontalFlip) cannot be used", "[0.0, 1.0]"]),
        (dict(type="CenterCrop"), ["transforms[0] (CenterCrop)", "missing 1 required positional argument: 'size'"]),
        (dict(type="Compose", transforms=[dict(type="GaussianBlr")]), ["GaussianBlr", "GaussianBlur"]),
        (dict(type="no_such_module:name"), ["no_such_module:name", "cannot be imported"]),
        (dict(p=1), ["transforms[0]", "'type'"]),
        ("RandomHorizontalFlip", ["transforms[0]", "'type'"]),
    ],
)
def test_an_entry_that_cannot_be_used_is_one_error_message(entry, words):
    with input_error(*words):
        build_transforms([entry])


@pytest.mark.parametrize(
    "transform,words",
    [
        (lambda image, target: image / 0 if image is None else 1 // 0, ["ZeroDivisionError"]),
        (lambda image, target: image, ["ValueError"]),
        (lambda image, target: (image[0], target), ["it must return an image"]),
        (lambda image, target: (image[:, :20], target), ["masks of another size"]),
        (lambda image, target: (image, target | {"labels": target["labels"][:1]}), ["different numbers of objects"]),
        (lambda image, target: (image, target | {"boxes": [[1, 2, 3, 4]]}), ["must return tensors", "list"]),
        (lambda image, target: (torch.empty(3, 1, 1).expand(3, MAX_PIXELS, 2), target), ["25 megapixels"]),
    ],
)
def test_a_transform_that_fails_is_one_error_message(transform, words):
    with input_error("transforms[1] (<lambda>) failed at image 9: ", *words):
        apply_transforms([v2.Identity(), transform], *sample(), 0)
