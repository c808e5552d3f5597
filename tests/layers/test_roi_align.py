"""RoIAlign for the CPU against torchvision's operator."""

import pytest
import torch
from torchvision.ops import roi_align

from detbackbones.layers.roi_align import roi_align_cpu

SCALES = (0.25, 0.125)


def random_maps(height, width):
    """Return two maps in double precision, the second with about half of the sides."""
    shapes = ((height, width), (height // 2 + 1, width // 2 + 1))
    maps = [torch.randn(2, 6, *shape, dtype=torch.double) for shape in shapes]
    return [feature.contiguous(memory_format=torch.channels_last).requires_grad_() for feature in maps]


def random_rois(height, width, count=60):
    """Return RoIs (image, xyxy) around the maps, some of them without area or outside, and a map for each."""
    side = torch.tensor([width, height])
    centre, size = torch.rand(count, 2) * side * 4, torch.rand(count, 2) * side * 6
    size[:3], centre[3] = 0, -50
    rois = torch.cat([torch.randint(2, (count, 1)), centre - size / 2, centre + size / 2], 1).double()
    return rois, torch.randint(2, (count,))


@pytest.mark.parametrize("aligned,ratio", [(True, 2), (False, 2), (True, 3)])
@pytest.mark.parametrize("size", [(40, 56), (1, 7), (2, 2)])
def test_values_and_gradients_are_torchvisions(aligned, ratio, size):
    maps, (rois, level) = random_maps(*size), random_rois(*size)
    ours = roi_align_cpu(maps, SCALES, rois, level, 7, ratio, aligned)
    per_map = [roi_align(feature, rois, 7, scale, ratio, aligned) for feature, scale in zip(maps, SCALES)]
    theirs = torch.where(level[:, None, None, None] == 0, *per_map)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = torch.randn_like(theirs)
    gradients = torch.autograd.grad(ours, maps, upstream)
    for gradient, expected in zip(gradients, torch.autograd.grad(theirs, maps, upstream)):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-11)


def test_the_output_is_in_channels_last_memory():
    rois, level = random_rois(20, 20)
    pooled = roi_align_cpu(random_maps(20, 20), SCALES, rois, level, 7, 2, True)
    assert pooled.is_contiguous(memory_format=torch.channels_last)


def test_no_rois():
    rois, level = torch.zeros(0, 5, dtype=torch.double), torch.zeros(0, dtype=torch.long)
    assert roi_align_cpu(random_maps(8, 8), SCALES, rois, level, 7, 2, True).shape == (0, 6, 7, 7)


def test_a_box_with_nan_gives_nan():
    rois = torch.tensor([[0, float("nan"), 1, 5, 5]])
    pooled = roi_align_cpu([torch.ones(1, 3, 8, 8)], [0.25], rois, torch.tensor([0]), 7, 2, True)
    assert pooled.isnan().all()
