"""The same numbers as torchvision and timm, from their own random weights."""

import itertools

import pytest
import timm
import torch
import torchvision
from helpers import build_with, randomise, relative_error
from timm.models.resnet import Bottleneck as TimmBottleneck, ResNet as TimmResNet

UNDILATED = (False, False, False)
DILATIONS = list(itertools.product([False, True], repeat=3))
BASIC = ("resnet18", "resnet34")  # torchvision refuses to dilate BasicBlocks
BOTTLENECK = (
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
SHALLOW = (*BASIC, "resnet50", "resnext50_32x4d")


def torchvision_cases():
    """Every network, and every dilation of the Bottleneck networks; most deep ones are slow."""
    for name, replace in [*((name, UNDILATED) for name in BASIC), *itertools.product(BOTTLENECK, DILATIONS)]:
        is_fast = name in SHALLOW or (name, replace) == ("resnext101_32x8d", UNDILATED)
        dilated = "".join(str(int(replaced)) for replaced in replace)
        yield pytest.param(name, replace, marks=() if is_fast else pytest.mark.slow, id=f"{name}-{dilated}")


@pytest.mark.parametrize("name,replace", list(torchvision_cases()))
def test_torchvision(name, replace):
    """The same keys, features and logits."""
    arguments = {"replace_stride_with_dilation": list(replace)} if any(replace) else {}
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None, **arguments)
    theirs = randomise_weights(theirs.to_empty(device="cpu")).eval()
    ours = build_with(theirs.state_dict(), name, num_classes=1000, dilation_convention="torchvision", **arguments)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for feature, stage in zip(ours(images).values(), (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)):
            x = stage(x)
            assert relative_error(feature, x) <= 1e-5
        assert relative_error(ours.logits(images), theirs(images)) <= 1e-5


def randomise_weights(model):
    """Draw all weights of a model without initial values. Uniform weights are faster to draw than normal ones."""
    for tensor in model.state_dict().values():
        if tensor.dim() > 1:
            tensor.uniform_(-1, 1).mul_((3 / tensor[0].numel()) ** 0.5)
        else:
            tensor.zero_()
    return randomise(model)


DEEP_IN_TIMM = ("resnet101d", "resnext101_32x4d", "wide_resnet50_2")


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet50", "resnet18d", "resnet50d", "resnext50_32x4d"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in DEEP_IN_TIMM),
    ],
)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_timm(name, output_stride):
    """Compare where timm is exact.

    Its average-pool shortcut counts padding at the last cell of odd grids and is not dilated at output stride 8. So the
    sides are multiples of 32. Networks with that shortcut are compared up to dilation 2, and on the cells that the
    undilated network has.
    """
    theirs = timm.create_model(name, pretrained=False, features_only=True, output_stride=output_stride)
    theirs = randomise(theirs).eval()
    ours = build_with(theirs.state_dict(), name, output_stride=output_stride)
    images = torch.randn(1, 3, 64, 96)
    avg_down = name.endswith("d")
    with torch.no_grad():
        for spec, feature, expected in zip(ours.feature_specs, ours(images).values(), theirs(images)[1:]):
            if avg_down and spec.dilation == 4:
                continue
            step = spec.dilation if avg_down else 1
            assert relative_error(feature[..., ::step, ::step], expected[..., ::step, ::step]) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,layers,groups,width",
    [
        ("resnext152_32x8d", (3, 8, 36, 3), 32, 8),
        ("wide_resnet101_2", (3, 4, 23, 3), 1, 128),
        ("resnext101_64x4d", (3, 4, 23, 3), 64, 4),
    ],
)
def test_timm_built_from_the_same_settings(name, layers, groups, width):
    theirs = TimmResNet(TimmBottleneck, layers, num_classes=10, cardinality=groups, base_width=width).eval()
    ours = build_with(randomise(theirs).state_dict(), name, num_classes=10)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(ours.logits(images), theirs(images)) <= 1e-5
