"""The same numbers as torchvision, timm, detectron2 and mmdetection, from their own weights."""

import itertools
import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import build_with, oracle_tensor, randomise, relative_error
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet

from detbackbones import build_backbone

DILATIONS = list(itertools.product([False, True], repeat=3))
NONE = (False, False, False)
TORCHVISION = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
               "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"]  # fmt: skip
SHALLOW = ("resnet18", "resnet34", "resnet50", "resnext50_32x4d")


def cases(names):
    """Every dilation of every Bottleneck network (torchvision refuses BasicBlock); the deep ones with dilation are slow."""
    for name, replace in itertools.product(names, DILATIONS):
        if replace == NONE or name not in ("resnet18", "resnet34"):
            fast = name in SHALLOW or (replace == NONE and name == "resnext101_32x8d")
            dilated = "".join("01"[r] for r in replace)
            yield pytest.param(name, replace, marks=() if fast else pytest.mark.slow, id=f"{name}-{dilated}")


@pytest.mark.parametrize("name,replace", list(cases(TORCHVISION)))
def test_torchvision(name, replace):
    """Same keys, C2-C5 and logits from torchvision's own random state dict."""
    arguments = {"replace_stride_with_dilation": list(replace)} if any(replace) else {}
    theirs = randomise(torchvision.models.get_model(name, weights=None, **arguments)).eval()
    ours = build_with(theirs.state_dict(), name, num_classes=1000, dilation_convention="torchvision", **arguments)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for feature, stage in zip(ours(images).values(), (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)):
            x = stage(x)
            assert relative_error(feature, x) <= 1e-5
        assert relative_error(ours.logits(images), theirs(images)) <= 1e-5


SLOW_IN_TIMM = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet101d", "resnext101_32x4d", "wide_resnet50_2")]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet18d", "resnet50d", "resnext50_32x4d", *SLOW_IN_TIMM])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_timm(name, output_stride):
    """Where timm is exact. Its average-pool shortcut counts padding at the last cell of odd grids and, at output stride 8, is
    not dilated: there the undilated stages are compared, and the dilated ones on the cells that the undilated network has."""
    theirs = randomise(timm.create_model(name, pretrained=False, features_only=True, output_stride=output_stride)).eval()
    ours = build_with(theirs.state_dict(), name, output_stride=output_stride)
    images = torch.randn(1, 3, 64, 96)
    pooled = name.endswith("d")
    with torch.no_grad():
        for spec, a, b in zip(ours.feature_specs, ours(images).values(), theirs(images)[1:]):
            if pooled and spec.dilation == 4:
                continue
            step = spec.dilation if pooled else 1
            assert relative_error(a[..., ::step, ::step], b[..., ::step, ::step]) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name,layers,groups,width", [
    ("resnext152_32x8d", (3, 8, 36, 3), 32, 8), ("wide_resnet101_2", (3, 4, 23, 3), 1, 128), ("resnext101_64x4d", (3, 4, 23, 3), 64, 4)])
def test_timm_built_from_the_same_settings(name, layers, groups, width):
    theirs = TimmResNet(TimmBottleneck, layers, num_classes=10, cardinality=groups, base_width=width).eval()
    ours = build_with(randomise(theirs).state_dict(), name, num_classes=10)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_error(ours.logits(images), theirs(images)) <= 1e-5


ORACLES = {
    "detectron2_r18": dict(type="resnet18"),
    "detectron2_r50_pytorch": dict(type="resnet50"),
    "detectron2_r50_caffe": dict(type="resnet50", stride_in_1x1=True),
    "detectron2_r101_dc5_caffe": dict(type="resnet101_dc5", stride_in_1x1=True, dilation_convention="detectron2"),
    "detectron2_x101_32x8d": dict(type="resnext101_32x8d"),
    "mmdet_r50_pytorch": dict(type="resnet50"),
    "mmdet_r50_caffe": dict(type="resnet50", stride_in_1x1=True),
    "mmdet_r50_dc5_caffe": dict(type="resnet50_dc5", stride_in_1x1=True, dilation_convention="mmdet"),
    "mmdet_r101_os8_pytorch": dict(type="resnet101_dilated", dilation_convention="mmdet"),
    "mmdet_x101_32x8d": dict(type="resnext101_32x8d"),
    "mmdet_r50_v1d": dict(type="resnet50d"),
}
RENAMED = [("stem.conv1.norm.", "bn1."), ("stem.conv1.", "conv1."), ("res2.", "layer1."), ("res3.", "layer2."), ("res4.", "layer3."),
           ("res5.", "layer4."), (".shortcut.norm.", ".downsample.1."), (".shortcut.", ".downsample.0."),
           *((f".conv{i}.norm.", f".bn{i}.") for i in (1, 2, 3)), ("stem.6.", "conv1.6."), ("stem.7.", "bn1."),
           *((f"stem.{i}.", f"conv1.{i}.") for i in (0, 1, 3, 4))]  # fmt: skip


@pytest.mark.parametrize("name", ORACLES)
def test_oracle(name, oracles):
    """detectron2's and mmdetection's own maps, through the arguments that say what their networks do."""
    facts = json.loads((oracles / f"{name}.json").read_text())
    state = {}
    for key, shape in facts["keys"].items():
        value, own = oracle_tensor(key, tuple(shape)), key
        for theirs, ours in RENAMED:
            own = own.replace(theirs, ours)
        if value is not None:
            state[own] = value
    backbone = build_backbone(ORACLES[name]).eval()
    missing = backbone.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all(k.endswith("num_batches_tracked") for k in missing.missing_keys)
    images = torch.from_numpy(np.random.RandomState(7).standard_normal((1, 3, 97, 130)).astype(np.float32))
    expected = np.load(oracles / f"{name}.npz")
    with torch.no_grad():
        for spec, feature in zip(backbone.feature_specs, backbone(images).values()):
            theirs = torch.from_numpy(expected[spec.name if spec.name in expected else f"res{spec.level}"])
            assert relative_error(feature[:, :: max(1, spec.channels // 16)], theirs) <= 1e-5
