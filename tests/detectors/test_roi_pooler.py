"""RoI pooling from the level that the FPN paper's rule names."""

import pytest
import torch
from helpers import maps, objects, pyramid
from torchvision.ops import MultiScaleRoIAlign, roi_align

from detbackbones import InputError
from detbackbones.detectors.roi_pooler import RoIPooler

SIZES = torch.tensor([10.0, 60, 111, 113, 223, 225, 447, 449, 800])  # pixels; the rule changes level at 112, 224, 448


def boxes_of_sizes(sizes):
    corner = torch.tensor([20.0, 30.0]).expand(len(sizes), 2)
    return torch.cat([corner, corner + sizes[:, None]], 1)


PYRAMIDS = [
    ((4, 8, 16, 32), (2, 3, 4, 5)),
    ((4, 8, 8, 8), (2, 3, 4, 5)),
    ((4, 8, 16, 16), (2, 3, 4, 5)),
    ((4, 16, 32), (2, 4, 5)),
    ((8, 16, 32), (3, 4, 5)),
    ((16,), (5,)),
]


@pytest.mark.parametrize("strides,levels", PYRAMIDS)
@pytest.mark.parametrize("aligned,sampling_ratio", [(True, 2), (False, 2), (True, 0)])
def test_pooled_from_the_level_of_the_rule(strides, levels, aligned, sampling_ratio):
    specs = pyramid(strides, levels)
    features = maps(specs, 900, 900)
    boxes = boxes_of_sizes(SIZES)
    rule = torch.floor(4 + torch.log2(SIZES.double() / 224) + 1e-6).clamp(levels[0], levels[-1]).int().tolist()
    pooled = RoIPooler(specs, 7, sampling_ratio, aligned)(features, [boxes], [(900, 900)])
    for box, level, actual in zip(boxes, rule, pooled):
        spec = [spec for spec in specs if spec.level <= level][-1]  # an absent level goes to the next finer one
        roi = torch.cat([torch.zeros(1), box])[None]
        expected = roi_align(features[spec.name], roi, 7, 1 / spec.stride, sampling_ratio, aligned)
        torch.testing.assert_close(actual[None], expected)
        assert actual.abs().max() > 0


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_equal_to_torchvision_on_the_standard_pyramid(sampling_ratio):
    """Two images with several boxes each: the RoIs come back in the order of the boxes."""
    specs = pyramid((4, 8, 16, 32))
    features = maps(specs, 512, 640, images=2)
    boxes = [objects(30, 512, 640)["boxes"] for _ in range(2)]
    sizes = [(512, 640)] * 2
    reference = MultiScaleRoIAlign([spec.name for spec in specs], 7, sampling_ratio)
    pooler = RoIPooler(specs, 7, sampling_ratio, aligned=False)
    torch.testing.assert_close(pooler(features, boxes, sizes), reference(features, boxes, sizes))


@pytest.mark.parametrize("sampling_ratio", [2, 0])
def test_no_boxes(sampling_ratio):
    specs = pyramid((4, 8, 16, 32))
    pooled = RoIPooler(specs, 7, sampling_ratio)(maps(specs, 64, 64, images=2), [torch.zeros(0, 4)] * 2, [(64, 64)] * 2)
    assert pooled.shape == (0, 8, 7, 7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pooled_in_float32_and_returned_in_the_dtype_of_the_features(dtype):
    specs = pyramid((4, 8, 16, 32))
    features = {name: feature.to(dtype) for name, feature in maps(specs, 512, 640).items()}
    boxes, sizes = [objects(30, 512, 640)["boxes"]], [(512, 640)]
    pooler = RoIPooler(specs, 7)
    pooled = pooler(features, boxes, sizes)
    expected = pooler({name: feature.float() for name, feature in features.items()}, boxes, sizes)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, expected.to(dtype))


@pytest.mark.parametrize("levels", [(3, 2), (4, 4)])
def test_levels_must_increase(levels):
    with pytest.raises(InputError, match=rf"increasing levels, got \[{levels[0]}, {levels[1]}\]"):
        RoIPooler(pyramid((4, 8), levels), 7)
