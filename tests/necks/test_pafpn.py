import pytest
import torch
from helpers import input_error, maps
from neck_helpers import check_mmdetection, declared
from torch import nn

from detbackbones import FeatureSpec, build_neck


def test_equals_mmdetection(oracles):
    check_mmdetection(oracles, "mmdet_pafpn", dict(type="pafpn"))


def test_norm_and_activation_follow_every_convolution():
    specs = declared((4, 8, 16, 32))
    neck = build_neck(dict(type="pafpn", out_channels=32, norm="group", activation="relu"), specs)
    convs = [module for module in neck.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in neck.modules() if isinstance(module, nn.GroupNorm)]
    assert len(convs) == len(norms) == 4 + 4 + 3 + 3  # lateral, output, down, output of the bottom-up path
    assert all(conv.bias is None for conv in convs)
    assert all(output.min() >= 0 for output in neck(maps(specs, 64, 64)).values())


def test_the_average_halves_merged_levels_on_the_way_down():
    specs = declared((4, 8))
    cfg = dict(type="pafpn", out_channels=8, extra_levels="none")
    total, average = (build_neck(cfg | dict(fuse_type=fuse_type), specs) for fuse_type in ("sum", "avg"))
    for neck in (total, average):
        neck.load_state_dict(total.state_dict())
        neck.out_blocks[0][0].weight.data.zero_()
        neck.out_blocks[0][0].weight.data[:, :, 1, 1] = torch.eye(8)
        neck.inner_blocks[1][0].weight.data.zero_()  # p3 gets only what comes from p2
        neck.inner_blocks[0][0].bias.data.zero_()
    features = maps(specs, 32, 48)
    with torch.no_grad():
        sums, averages = total(features), average(features)
    torch.testing.assert_close(averages["p2"], sums["p2"] / 2)
    torch.testing.assert_close(averages["p3"], sums["p3"] / 4)


def test_strides_must_be_multiples_of_the_one_before():
    with input_error("strides", "[4, 6]"):
        build_neck("pafpn", [FeatureSpec("c2", 2, 8, 4), FeatureSpec("c3", 3, 8, 6)])


def test_arguments_of_fpn_are_checked():
    with input_error("'out_chanels'", "did you mean out_channels?"):
        build_neck(dict(type="pafpn", out_chanels=8), declared((4, 8)))


@pytest.mark.parametrize("strides", [(4, 8, 8, 8), (4, 16, 32)])
def test_repeated_and_skipped_strides(strides):
    specs = declared(strides)
    neck = build_neck(dict(type="pafpn", out_channels=16), specs)
    steps = [conv[0].stride[0] for conv in neck.down_blocks]
    assert steps == [coarse // fine for fine, coarse in zip(strides, strides[1:])]
