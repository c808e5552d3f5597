import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detbackbones.layers.mask_ops import encode_masks, paste_masks, sample_masks


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([3.2, 4.7, 20.1, 17.9], id="inside"),
        pytest.param([-6, -3, 9, 12], id="over the upper left corner"),
        pytest.param([30, 20, 55, 60.5], id="over the lower right corner"),
        pytest.param([5, 5, 5.2, 30], id="thinner than a pixel"),
        pytest.param([-40, -40, 90, 90], id="around the image"),
        pytest.param([60, 60, 70, 70], id="outside"),
    ],
)
def test_masks_are_pasted_as_by_torchvision(box):
    boxes = torch.tensor([box, [8, 8, 30, 30]])
    probabilities = torch.rand(2, 1, 28, 28)
    expected = paste_masks_in_image(probabilities, boxes, (41, 47))[:, 0] >= 0.5
    assert expected[1].any()
    assert torch.equal(paste_masks(probabilities, boxes, (41, 47)), expected)


def test_no_masks_to_paste():
    masks = paste_masks(torch.rand(0, 1, 28, 28), torch.zeros(0, 4), (41, 47))
    assert masks.shape == (0, 41, 47)
    assert masks.dtype == torch.bool


def noise_in_rectangles(density: float) -> torch.Tensor:
    """Noise inside the image and at every border, in columns that run into each other, in one pixel and in all."""
    rectangles = [((0, 23), (3, 9)), ((0, 23), (0, 17)), ((5, 9), (0, 2)), ((20, 23), (15, 17)), ((4, 6), (7, 8))]
    masks = torch.zeros(len(rectangles), 23, 17, dtype=torch.bool)
    for mask, (rows, columns) in zip(masks, rectangles, strict=True):
        part = mask[slice(*rows), slice(*columns)]
        part[:] = torch.rand(part.shape) < density
    return masks


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_encoded_masks_equal_pycocotools(density):
    masks = noise_in_rectangles(density)
    expected = coco_mask.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy()))
    assert encode_masks(masks) == [{"size": [23, 17], "counts": rle["counts"].decode()} for rle in expected]


def test_masks_of_any_strides_are_encoded():
    masks = noise_in_rectangles(0.5)
    assert encode_masks(masks.flip(-1)[:, ::2]) == encode_masks(masks.flip(-1)[:, ::2].contiguous())
    assert encode_masks(masks.mT.contiguous().mT) == encode_masks(masks)


def test_no_masks_to_encode():
    assert encode_masks(torch.zeros(0, 23, 17, dtype=torch.bool)) == []


def test_masks_sampled_at_the_centres_of_pixels():
    """A mask whose right half is 1, in a box from x = 10.5 to 20.4: the pixels whose centres lie right of 15.45."""
    grid = torch.zeros(1, 1, 4, 4)
    grid[..., 2:] = 1
    mask = sample_masks(grid, torch.tensor([[10.5, 4.0, 20.4, 8.0]]), (12, 24))[0]
    rows, columns = mask.nonzero().unbind(1)
    assert (rows.unique().tolist(), columns.unique().tolist()) == ([4, 5, 6, 7], [15, 16, 17, 18, 19])
    outside = torch.tensor([[-50.0, 0.0, -10.0, 5.0], [30.0, 2.0, 40.0, 8.0], [3.0, 20.0, 5.0, 30.0]])
    assert not sample_masks(grid.expand(3, 1, 4, 4), outside, (12, 24)).any()


def test_sampled_masks_equal_a_sum_over_cells():
    """Bilinear interpolation written out in float64, one pixel at a time."""
    torch.manual_seed(0)
    grid, box, size = torch.rand(6, 6), (3.3, 2.6, 14.9, 11.2), (14, 18)
    expected = torch.zeros(size, dtype=torch.bool)
    padded = torch.nn.functional.pad(grid.double(), (1, 1, 1, 1))
    for y in range(size[0]):
        for x in range(size[1]):
            u = (x + 0.5 - box[0]) / (box[2] - box[0]) * 6 + 0.5
            v = (y + 0.5 - box[1]) / (box[3] - box[1]) * 6 + 0.5
            if 0 <= u < 7 and 0 <= v < 7:
                i, j = int(v), int(u)
                top = padded[i, j] * (1 - (u - j)) + padded[i, j + 1] * (u - j)
                bottom = padded[i + 1, j] * (1 - (u - j)) + padded[i + 1, j + 1] * (u - j)
                expected[y, x] = top * (1 - (v - i)) + bottom * (v - i) >= 0.5
    assert expected.any()
    assert torch.equal(sample_masks(grid[None, None], torch.tensor([box]), size)[0], expected)
