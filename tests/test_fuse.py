"""fuse_for_inference: a copy that computes the same with norms baked in, for every kind of model."""

import copy

import pytest
import timm
import torch
from helpers import randomise, relative_error
from torch import nn

from detbackbones import build_backbone, build_detector, build_neck
from detbackbones.backbones.blocks import BasicBlock
from detbackbones.layers.fuse import fuse_for_inference
from detbackbones.backbones.resnet import ResNet
from detbackbones.layers.winograd import WinogradConv2d


def fast_parts(model) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, WinogradConv2d)}


def norms(model) -> list[str]:
    return [name for name, module in model.named_modules() if "Norm" in type(module).__name__ and "Activation" not in type(module).__name__]


@pytest.mark.parametrize("arguments", [dict(type="resnet18"), dict(type="resnet50_dc5"), dict(type="resnet18d_dilated"),
                                       dict(type="resnet20_cifar"), dict(type="resnet18", deform_stages=("c5",)),
                                       dict(type="resnext50_32x4d"), dict(type="resnet18", norm="group")])  # fmt: skip
def test_a_backbone(arguments):
    backbone = randomise(build_backbone(arguments)).eval()
    before = copy.deepcopy(backbone.state_dict())
    fused = backbone.fuse_for_inference()
    images = torch.randn(1, 3, 163, 197)
    with torch.no_grad():
        for a, b in zip(fused(images).values(), backbone(images).values()):
            assert relative_error(a, b) <= 1e-5
    assert bool(norms(fused)) == (arguments.get("norm") == "group")
    assert not any(p.requires_grad for p in fused.parameters()) and not fused.training
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_wide_3x3_convolutions_become_fast_ones_except_where_maps_are_small():
    fast = fast_parts(build_backbone("resnet18").fuse_for_inference())
    assert fast == {f"layer{stage}.{block}.conv{n}" for stage in (2, 3) for block, n in ((0, 2), (1, 1), (1, 2))}
    dilated = fast_parts(build_backbone("resnet18_dilated").fuse_for_inference())
    assert dilated > fast and {"layer4.0.conv1", "layer4.1.conv2"} <= dilated


@pytest.mark.parametrize("cfg", [dict(type="fpn", norm="batch", activation="relu"), dict(type="pafpn"), dict(type="fpn", norm="group")])
def test_a_neck(cfg):
    specs = build_backbone("resnet18").feature_specs
    neck = randomise(build_neck(cfg, specs)).eval()
    features = {spec.name: torch.randn(1, spec.channels, 256 // spec.stride, 192 // spec.stride) for spec in specs}
    fused = fuse_for_inference(neck)
    with torch.no_grad():
        for a, b in zip(fused(features).values(), neck(features).values()):
            assert relative_error(a, b) <= 1e-5
    assert len(fast_parts(fused)) >= 4 and bool(norms(fused)) == (cfg.get("norm") == "group")


FAST = {("mask_rcnn", "fpn"): ("backbone.layer2", "neck.layer_blocks", "rpn.head", "roi_heads.mask_head"),
        ("retinanet", "fpn"): ("backbone.layer2", "neck.layer_blocks", "head.classification_head", "head.regression_head"),
        ("mask_rcnn", "none"): ("backbone.layer2", "rpn.head")}  # fmt: skip


@pytest.mark.parametrize("form", [dict(neck="fpn", type="mask_rcnn"), dict(neck="fpn", type="retinanet"),
                                  dict(neck="none", type="mask_rcnn", roi_stage="c5")])  # fmt: skip
def test_a_detector(form):
    """The same features, the same head outputs for the same features, and detections; fast parts where they should be."""
    backbone = dict(type="resnet18", out_features=("c4", "c5") if "roi_stage" in form else ("c2", "c3", "c4", "c5"))
    detector = randomise(build_detector(form | {"backbone": backbone, "num_classes": 3})).eval()
    fused, images = detector.fuse_for_inference(), [torch.rand(3, 192, 256)]
    assert not norms(fused) and detector.training == fused.training is False
    with torch.no_grad():
        batch = detector.batch(images).tensors
        features, found = (model.neck(model.backbone(batch)) for model in (detector, fused))
        maps = list(features.values())
        heads = [model.rpn.head(maps) if hasattr(model, "rpn") else model.head(maps).values() for model in (detector, fused)]
        pairs = [*zip(found.values(), maps), *((a, b) for two in zip(*heads[::-1]) for a, b in zip(*two))]
        if hasattr(detector, "roi_heads"):
            pooled = torch.randn(6, maps[0].shape[1], *2 * (detector.roi_heads.box_roi_pool.output_size[0],))
            pairs.append([model.roi_heads.box_head(pooled) for model in (fused, detector)])
            pooled = torch.randn(6, maps[0].shape[1], 14, 14)
            pairs.append([model.roi_heads.mask_head(pooled) for model in (fused, detector)])
        for ours, expected in pairs:
            assert relative_error(ours, expected) <= 1e-5
        assert len(fused(images)) == 1
    places = {".".join(name.split(".")[:2]) for name in fast_parts(fused)}
    assert places >= set(FAST[form["type"], form["neck"]])


def test_what_is_no_plain_convolution_and_norm_stays():
    """timm's norm layers may hold an activation, its convolutions may standardise their weights."""

    class Standardised(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    act = timm.layers.BatchNormAct2d(8)
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), act, Standardised(8, 8, 3), nn.BatchNorm2d(8))).eval()
    x = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(fuse_for_inference(model)(x), model(x), rtol=0, atol=0)


def test_timms_networks_keep_their_values():
    backbone = randomise(build_backbone("timm:resnet18")).eval()
    fused, images = backbone.fuse_for_inference(), torch.randn(1, 3, 192, 256)
    with torch.no_grad():
        for a, b in zip(fused(images).values(), backbone(images).values()):
            assert relative_error(a, b) <= 1e-5
    assert fast_parts(fused)


def test_a_wide_deep_stem():
    """Its last convolution is run by the stem itself."""
    backbone = randomise(ResNet(BasicBlock, (1, 1), (256, 256), stem="deep")).eval()
    fused, images = backbone.fuse_for_inference(), torch.randn(1, 3, 64, 96)
    assert "conv1.6" in fast_parts(fused)
    with torch.no_grad():
        for a, b in zip(fused(images).values(), backbone(images).values()):
            assert relative_error(a, b) <= 1e-5
