"""The a-trous identity: dilated features sampled at the removed strides are the undilated ones."""

import itertools

import pytest
import torch
from helpers import build_with, randomise, relative_error

from detbackbones import InputError, build_backbone, list_backbones, verify_dilation
from detbackbones.tools.verify_dilation import main

PLAIN = [n for n in list_backbones() if not n.endswith(("_dc5", "_dilated", "_cifar")) and n != "timm"]
SHALLOW = ("resnet18", "resnet50", "resnet50d", "resnet18d", "resnext50_32x4d")


def cases():
    for name in PLAIN:
        styles = (False,) if name.startswith(("resnet18", "resnet34")) else (False, True)
        for caffe in styles:
            yield pytest.param(name, caffe, marks=() if name in SHALLOW else pytest.mark.slow, id=name + "-caffe" * caffe)


@pytest.mark.parametrize("name,caffe", list(cases()))
def test_every_variant_dilation_and_stride_style(name, caffe):
    """All eight choices of dilated stages, on sides that are no multiple of 32."""
    style = {"stride_in_1x1": True} if caffe else {}
    plain = randomise(build_backbone(name, **style)).eval()
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        expected = plain(images)
        for replace in itertools.product([False, True], repeat=3):
            dilated = build_with(plain.state_dict(), name, replace_stride_with_dilation=replace, **style)
            assert dilated.identity_left == ()
            for coarse, fine, feature in zip(plain.feature_specs, dilated.feature_specs, dilated(images).values()):
                step = coarse.stride // fine.stride
                assert step * coarse.dilation == fine.dilation
                assert relative_error(feature[..., ::step, ::step], expected[fine.name]) <= 1e-4


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (31, 33), (64, 65)])
@pytest.mark.parametrize("name", ["resnet18", "resnet50d"])
def test_odd_and_tiny_images(name, size):
    assert max(verify_dilation(name, size, output_stride=8).values()) <= 1e-4


@pytest.mark.parametrize("replace", [(True, True), (False, True), (True, False)])
def test_cifar(replace):
    assert max(verify_dilation("resnet20_cifar", (33, 30), replace_stride_with_dilation=replace).values()) <= 1e-4


@pytest.mark.parametrize("arguments,exact", [
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
    (dict(type="resnet18_dilated", deform_stages=("c5",)), False),
    (dict(type="resnet18_dilated", norm="group"), False),
])  # fmt: skip
def test_what_leaves_the_identity_says_so(arguments, exact):
    """`identity_left` is right both ways: what it names does break the identity, and nothing else does."""
    backbone = build_backbone(arguments)
    assert (backbone.identity_left == ()) == exact
    if "deform_stages" in arguments:
        backbone = None  # without trained offsets a deformable stage is still an ordinary one
    if backbone is not None:
        assert (max(verify_dilation(arguments).values()) <= 1e-4) == exact


def test_trained_offsets_leave_the_identity():
    dilated, plain = (build_backbone("resnet18", deform_stages=("c5",), output_stride=s).eval() for s in (16, 32))
    torch.nn.init.normal_(dilated.layer4[0].conv2.conv_offset.weight, std=0.05)
    plain.load_state_dict(dilated.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(dilated(images)["c5"][..., ::2, ::2], plain(images)["c5"]) > 1e-3


@pytest.mark.parametrize("arguments", [
    dict(type="resnet18_dc5", dilation_convention="torchvision"), dict(type="resnet18_dc5", dilation_convention="detectron2"),
    dict(type="resnet50_dc5", dilation_convention="torchvision", stride_in_1x1=True),
    dict(type="resnet50d_dc5", dilation_convention="torchvision"), dict(type="resnet50d_dc5", dilation_convention="detectron2"),
])  # fmt: skip
def test_a_convention_refuses_what_its_library_refuses(arguments):
    with pytest.raises(InputError, match="dilates no network with"):
        build_backbone(arguments)
    build_backbone(arguments, output_stride=32)  # nothing is dilated: every convention is the same


def test_the_tool(capsys):
    assert main(["resnet18_dilated", "size=(65,97)"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" exact\n") == 4 and "a-trous identity: holds" in printed
    assert main(["resnet18_dilated", "dilation_convention=mmdet"]) == 1
    assert "c5" in capsys.readouterr().out
    for bad, message in ((["resnet18_dilatd"], "did you mean resnet18_dilated"), (["resnet18", "size=3"], "size=3"),
                         (["resnet18", "output_strid=8"], "output_stride"), (["resnet18", "resnet50"], "one backbone")):  # fmt: skip
        assert main(bad) == 2
        assert message in capsys.readouterr().err
