"""FPN against torchvision's and mmdetection's, on every kind of declared strides."""

import re

import pytest
import torch
from helpers import input_error, maps, randomise, relative_error
from neck_helpers import PYRAMIDS, check_mmdetection, declared
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from detbackbones import build_neck

TORCHVISION_EXTRA_BLOCKS = {
    "max_pool": lambda in_channels: LastLevelMaxPool(),
    "none": lambda in_channels: None,
    "conv_on_input": lambda in_channels: LastLevelP6P7(in_channels, 16),
    "conv_on_output": lambda in_channels: LastLevelP6P7(16, 16),
}


def torchvision_state(neck, deepest_level: int) -> dict[str, torch.Tensor]:
    """Return the state dict under torchvision's keys, which name the extra levels p6 and p7 above any deepest level."""
    above = 5 - deepest_level

    def rename(match: re.Match) -> str:
        return f"extra_blocks.p{int(match[1]) + above}."

    return {re.sub(r"extra_blocks\.p(\d)\.", rename, key): value for key, value in neck.state_dict().items()}


@pytest.mark.parametrize("specs", PYRAMIDS.values(), ids=PYRAMIDS)
@pytest.mark.parametrize("extra_levels", TORCHVISION_EXTRA_BLOCKS)
@pytest.mark.parametrize("norm", [None, "batch"])
def test_equals_torchvision(specs, extra_levels, norm):
    cfg = dict(type="fpn", out_channels=16, extra_levels=extra_levels, norm=norm)
    ours = randomise(build_neck(cfg, specs)).eval()
    extra_blocks = TORCHVISION_EXTRA_BLOCKS[extra_levels](specs[-1].channels)
    norm_layer = torch.nn.BatchNorm2d if norm else None
    theirs = FeaturePyramidNetwork([spec.channels for spec in specs], 16, extra_blocks, norm_layer).eval()
    theirs.load_state_dict(torchvision_state(ours, specs[-1].level))
    features = maps(specs, 90, 123)
    with torch.no_grad():
        for output, expected in zip(ours(features).values(), theirs(features).values(), strict=True):
            assert relative_error(output, expected) <= 1e-6


def test_equals_mmdetection(oracles):
    check_mmdetection(oracles, "mmdet_fpn", dict(type="fpn"))


def test_the_average_halves_the_sum_of_two_levels():
    specs = declared((4, 8))
    cfg = dict(type="fpn", out_channels=8, extra_levels="none")
    total, average = (build_neck(cfg | dict(fuse_type=fuse_type), specs) for fuse_type in ("sum", "avg"))
    average.load_state_dict(total.state_dict())
    features = maps(specs, 32, 48)
    with torch.no_grad():
        sums, averages = total(features), average(features)
    bias = total.layer_blocks[0][0].bias.view(1, -1, 1, 1)
    torch.testing.assert_close(averages["p2"] - bias, (sums["p2"] - bias) / 2)
    torch.testing.assert_close(averages["p3"], sums["p3"])  # nothing coarser to merge


@pytest.mark.parametrize(
    "cfg,specs,words",
    [
        (dict(extra_levels="conv_on_inputs"), declared((4, 8)), ("'conv_on_inputs'", "did you mean conv_on_input")),
        (dict(fuse_type="average"), declared((4, 8)), ("'average'", "avg")),
        (dict(norm="grup"), declared((4, 8)), ("'grup'", "did you mean group?")),
        (dict(activation="rel"), declared((4, 8)), ("'rel'", "did you mean relu")),
        (dict(out_channels=0), declared((4, 8)), ("out_channels", "0")),
        (dict(), declared((4, 8))[::-1], ("increasing levels", "[3, 2]")),
        (dict(), [], ("increasing levels", "[]")),
    ],
)
def test_bad_arguments(cfg, specs, words):
    with input_error(*words):
        build_neck(dict(type="fpn") | cfg, specs)
