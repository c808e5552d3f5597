import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from detbackbones.data.augmentation import apply_transforms
from detbackbones.data.scale_jitter import BoxesFromMasks, LargeScaleJitter


def square(height, width, box):
    """An image that is white inside a box, and its target."""
    left, top, right, bottom = box
    masks = torch.zeros((1, height, width), dtype=torch.uint8)
    masks[0, top:bottom, left:right] = 1
    target = {"boxes": torch.tensor([box], dtype=torch.float32), "labels": torch.tensor([3]), "masks": masks}
    return masks.repeat(3, 1, 1) * 255, target


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (300, 7)])
def test_the_result_has_the_size(scale, shape):
    image, target = square(*shape, (2, 3, 6, 30))
    jitter = LargeScaleJitter((64, 96), (scale, scale))
    image, target = apply_transforms([jitter], image, target, 0)
    assert image.shape == (3, 64, 96)
    assert target["masks"].shape[1:] == (64, 96)


def test_a_reduced_image_is_padded_at_the_right_and_bottom():
    image, target = square(40, 80, (0, 0, 80, 40))
    image, target = apply_transforms([LargeScaleJitter((64, 64), (0.5, 0.5), fill=7)], image, target, 0)
    assert (image[:, :16, :32] == 255).all()  # 80 x 40 fits into 64 x 64 times 0.5
    assert (image[:, 16:] == 7).all()
    assert (image[:, :, 32:] == 7).all()
    assert target["boxes"].tolist() == [[0, 0, 32, 16]]
    assert target["masks"].sum() == 32 * 16


def test_an_enlarged_image_is_cropped_at_a_random_place():
    image, target = square(64, 64, (16, 16, 48, 48))
    results = [apply_transforms([LargeScaleJitter((64, 64), (2, 2))], image, target, seed) for seed in range(6)]
    assert len({tuple(target["boxes"].flatten().tolist()) for _, target in results}) == 6
    for image, target in results:
        white = (image[0] > 127).nonzero()
        left, top, right, bottom = target["boxes"][0].tolist()
        assert white.min(0).values.tolist() == pytest.approx([top, left], abs=1)
        assert (white.max(0).values + 1).tolist() == pytest.approx([bottom, right], abs=1)
        assert torch.equal((image[0] > 127).to(torch.uint8), target["masks"][0])


def test_masks_equal_those_of_one_stack():
    jitter = LargeScaleJitter((50, 40), (1.7, 1.7))
    masks = tv_tensors.Mask((torch.rand(5, 30, 30) > 0.5).to(torch.uint8))
    params = jitter.make_params([masks])
    resized = TF.resize(masks, params["resized"], interpolation=TF.InterpolationMode.NEAREST)
    top, left = params["corner"]
    expected = torch.zeros((5, 50, 40), dtype=torch.uint8)
    part = resized[:, top : top + 50, left : left + 40]
    expected[:, : part.shape[1], : part.shape[2]] = part
    assert torch.equal(jitter.transform(masks, params), expected)


def test_boxes_shrink_to_their_masks_and_objects_without_a_pixel_are_dropped():
    image, target = square(40, 40, (5, 6, 15, 26))
    target = {
        "boxes": torch.tensor([[0.0, 0, 40, 40], [0, 0, 9, 9]]),
        "labels": torch.tensor([3, 4]),
        "masks": torch.cat([target["masks"], torch.zeros_like(target["masks"])]),
    }
    _, target = apply_transforms([BoxesFromMasks()], image, target, 0)
    assert target["boxes"].tolist() == [[5, 6, 15, 26]]
    assert target["labels"].tolist() == [3]
    assert len(target["masks"]) == 1


@pytest.mark.parametrize("arguments", [{"size": (0, 5)}, {"scale": (2, 1)}, {"scale": (0, 1)}, {"size": (5,)}])
def test_arguments_are_checked(arguments):
    with pytest.raises(ValueError, match="must be"):
        LargeScaleJitter(**arguments)
