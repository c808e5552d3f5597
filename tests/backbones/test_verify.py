"""The a-trous identity: dilated features sampled at the removed strides equal the undilated ones."""

import itertools

import pytest
import torch
from helpers import build_with, input_error, randomise, relative_error

from detbackbones import build_backbone, list_backbones, verify_dilation
from detbackbones.backbones.verify import TOLERANCE

UNDILATED = [name for name in list_backbones() if not name.endswith(("_dc5", "_dilated", "_cifar")) and name != "timm"]
FAST = ("resnet18", "resnet50", "resnet18d", "resnet50d", "resnext50_32x4d")


def cases():
    for name in UNDILATED:
        styles = (False,) if name.startswith(("resnet18", "resnet34")) else (False, True)
        for stride_in_1x1 in styles:
            marks = () if name in FAST else pytest.mark.slow
            yield pytest.param(name, stride_in_1x1, marks=marks, id=name + "-caffe" * stride_in_1x1)


@pytest.mark.parametrize("name,stride_in_1x1", list(cases()))
def test_all_dilations_of_every_variant_and_stride_style(name, stride_in_1x1):
    """On sides that are not multiples of any stride."""
    style = {"stride_in_1x1": True} if stride_in_1x1 else {}
    plain = randomise(build_backbone(name, **style)).eval()
    images = torch.randn(1, 3, 65, 98)
    with torch.no_grad():
        expected = plain(images)
        for replace in itertools.product([False, True], repeat=3):
            dilated = build_with(plain.state_dict(), name, replace_stride_with_dilation=replace, **style)
            assert dilated.inexact_reasons == ()
            for coarse, fine, feature in zip(plain.feature_specs, dilated.feature_specs, dilated(images).values()):
                step = coarse.stride // fine.stride
                assert step * coarse.dilation == fine.dilation
                assert relative_error(feature[..., ::step, ::step], expected[fine.name]) <= TOLERANCE


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (31, 33), (64, 65)])
@pytest.mark.parametrize("name", ["resnet18_dilated", "resnet50d_dilated"])
def test_odd_and_tiny_images(name, size):
    assert max(verify_dilation(name, size).values()) <= TOLERANCE


@pytest.mark.parametrize("replace", [(True, True), (False, True), (True, False)])
def test_cifar_networks(replace):
    errors = verify_dilation("resnet20_cifar", (33, 30), replace_stride_with_dilation=replace)
    assert max(errors.values()) <= TOLERANCE


def test_double_precision_leaves_no_error():
    errors = verify_dilation("resnet18_dilated", (33, 30), dtype=torch.double)
    assert list(errors) == ["c2", "c3", "c4", "c5"]
    assert max(errors.values()) <= 1e-12


@pytest.mark.parametrize(
    "cfg,exact",
    [
        (dict(type="resnet50_dc5", dilation_convention="torchvision"), True),
        (dict(type="resnet50_dc5", dilation_convention="detectron2"), False),
        (dict(type="resnet50_dc5", dilation_convention="detectron2", stride_in_1x1=True), True),
        (dict(type="resnet50_dc5", dilation_convention="mmdet"), False),
        (dict(type="resnet50_dc5", dilation_convention="mmdet", stride_in_1x1=True), True),
        (dict(type="resnet18_dc5", dilation_convention="mmdet"), False),
        (dict(type="resnet50d_dc5", dilation_convention="mmdet", stride_in_1x1=True), False),
        (dict(type="resnet50", dilation_convention="mmdet"), True),
        (dict(type="resnet18_dilated", multi_grid=(1, 2)), False),
        (dict(type="resnet18_dilated", multi_grid=(1, 1)), True),
        (dict(type="resnet18_dilated", norm="group"), False),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_declared_reasons_are_right_both_ways(cfg, exact):
    """What they name breaks the identity, and nothing else does."""
    assert (build_backbone(cfg).inexact_reasons == ()) == exact
    assert (max(verify_dilation(cfg, (65, 98)).values()) <= TOLERANCE) == exact


def test_trained_offsets_of_deformable_stages_break_the_identity():
    dilated, plain = (
        build_backbone("resnet18", deform_stages=("c5",), output_stride=stride).eval() for stride in (16, 32)
    )
    torch.nn.init.normal_(dilated.layer4[0].conv2.conv_offset.weight, std=0.05)
    plain.load_state_dict(dilated.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(dilated(images)["c5"][..., ::2, ::2], plain(images)["c5"]) > 1e-3
    assert dilated.inexact_reasons == ("deformable stages",)


def test_errors_are_those_of_the_builder():
    with input_error("'resnet18_dilatd'", "did you mean resnet18_dilated"):
        verify_dilation("resnet18_dilatd")
