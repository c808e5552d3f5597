"""Levels above the pyramid, and the geometry that pyramids declare with them."""

import pytest
import torch
from helpers import input_error, maps
from neck_helpers import PYRAMIDS, check_mmdetection
from torch import nn

from detbackbones import FeatureSpec, build_neck
from detbackbones.necks.extra_levels import ExtraLevels

NUM_LEVELS = {"none": 0, "max_pool": 1, "conv_on_input": 2, "conv_on_output": 2}
C5, P5 = FeatureSpec("c5", 5, 32, 32, dilation=1), FeatureSpec("p5", 5, 16, 32)


@pytest.mark.parametrize("specs", PYRAMIDS.values(), ids=PYRAMIDS)
@pytest.mark.parametrize("neck_name", ["fpn", "pafpn"])
@pytest.mark.parametrize("extra_levels", ["none", "max_pool", "conv_on_input"])
@pytest.mark.parametrize("size", [(192, 256), (97, 130), (1, 1)])
def test_maps_have_the_declared_geometry(specs, neck_name, extra_levels, size):
    """Names follow the level. Sizes are side / stride, rounded up."""
    neck = build_neck(dict(type=neck_name, out_channels=16, extra_levels=extra_levels), specs)
    with torch.no_grad():
        outputs = neck(maps(specs, *size))
    deepest = specs[-1]
    extra = [(deepest.level + i, deepest.stride * 2**i) for i in range(1, NUM_LEVELS[extra_levels] + 1)]
    expected = [*((spec.level, spec.stride) for spec in specs), *extra]
    assert [(spec.level, spec.stride) for spec in neck.feature_specs] == expected
    assert list(outputs) == [spec.name for spec in neck.feature_specs] == [f"p{level}" for level, _ in expected]
    for spec in neck.feature_specs:
        assert outputs[spec.name].shape == (1, 16, *(-(-side // spec.stride) for side in size))


def test_the_pool_takes_every_second_cell():
    p5 = torch.randn(1, 16, 7, 10)
    (p6,) = ExtraLevels("max_pool", C5, P5)(torch.randn(1, 32, 7, 10), p5)
    assert torch.equal(p6, p5[..., ::2, ::2])


@pytest.mark.parametrize("kind,used", [("conv_on_input", 0), ("conv_on_output", 1)])
@pytest.mark.parametrize("relu", [True, False])
def test_two_convolutions(kind, used, relu):
    block = ExtraLevels(kind, C5, P5, relu)
    inputs = torch.randn(1, 32, 7, 10), torch.randn(1, 16, 7, 10)
    p6, p7 = block(*inputs)
    torch.testing.assert_close(p6, block["p6"](inputs[used]))
    torch.testing.assert_close(p7, block["p7"](p6.relu() if relu else p6))


def test_convolutions_start_with_variance_one_over_fan_in():
    conv = ExtraLevels("conv_on_input", FeatureSpec("c5", 5, 256, 32), FeatureSpec("p5", 5, 256, 32))["p6"]
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.var().item() == pytest.approx(1 / (9 * 256), rel=0.02)
    assert not conv.bias.any()


def test_equals_mmdetection_which_has_no_relu_between_them(oracles):
    cfg = dict(type="fpn", extra_levels="conv_on_input", relu_before_extra_convs=False)
    check_mmdetection(oracles, "mmdet_fpn_p6p7_on_input", cfg, first_level=3)


def test_an_unknown_kind():
    with input_error("'maxpool'", "did you mean max_pool?"):
        ExtraLevels("maxpool", C5, P5)
