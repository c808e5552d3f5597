"""The registered ResNets: names, declared geometry, and parameter counts of other libraries and of the papers."""

import functools

import pytest
import timm
import torch
import torchvision
from helpers import build_meta
from torch import nn

from detbackbones import Backbone, list_backbones

NAMES = [name for name in list_backbones() if name != "timm"]
LEVELS = ("c1", "c2", "c3", "c4", "c5")


@functools.cache
def build_all_levels(name: str) -> Backbone:
    return build_meta(name, out_features=LEVELS[:4] if name.endswith("_cifar") else LEVELS)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_list_of_names():
    expected = {"resnet101_dilated", "resnext50_32x4d_dc5", "wide_resnet50_2", "resnet50d", "resnet1202_cifar"}
    assert expected <= set(NAMES)
    assert list_backbones("*_cifar") == [f"resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110, 1202)]


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_declared_geometry(name):
    backbone = build_all_levels(name)
    features = backbone(torch.zeros(1, 3, 256, 320, device="meta"))
    assert list(features) == [spec.name for spec in backbone.feature_specs]
    assert list(features) == list(LEVELS[: len(features)])
    for spec, feature in zip(backbone.feature_specs, features.values()):
        assert feature.shape == (1, spec.channels, 256 // spec.stride, 320 // spec.stride)
        assert spec.level == int(spec.name[1:])


@pytest.mark.parametrize("name", NAMES)
def test_the_suffix_decides_the_output_stride(name):
    backbone = build_all_levels(name)
    undilated = 4 if name.endswith("_cifar") else 32
    deepest = backbone.feature_specs[-1]
    assert deepest.stride == {"dc5": 16, "dilated": 8}.get(name.rsplit("_", 1)[-1], undilated)
    assert deepest.stride * deepest.dilation == undilated
    assert backbone.size_divisor == deepest.stride


@pytest.mark.parametrize(
    "name,parameters",
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnext50_32x4d", 25_028_904),
        ("resnext101_32x8d", 88_791_336),
        ("resnext101_64x4d", 83_455_272),
        ("wide_resnet50_2", 68_883_240),
        ("wide_resnet101_2", 126_886_696),
    ],
)
def test_parameter_counts_of_torchvision(name, parameters):
    assert torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] == parameters
    assert num_parameters(build_meta(name, num_classes=1000)) == parameters


@pytest.mark.parametrize(
    "name", ["resnet18d", "resnet34d", "resnet50d", "resnet101d", "resnet152d", "resnext101_32x4d"]
)
def test_parameter_counts_of_timm(name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert num_parameters(build_meta(name, num_classes=1000)) == num_parameters(theirs)


@pytest.mark.parametrize(
    "depth,millions", [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7"), (1202, "19.4")]
)
def test_cifar_networks_are_those_of_the_paper(depth, millions):
    """He et al. 2015, section 4.2 and table 6: 6n + 2 layers, shortcuts without parameters."""
    backbone = build_meta(f"resnet{depth}_cifar", num_classes=10)
    digits = len(millions.partition(".")[2])
    assert f"{num_parameters(backbone) / 1e6:.{digits}f}" == millions
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in backbone.modules()) == depth
    assert not any("downsample" in key for key in backbone.state_dict())
