"""fuse_for_inference: a copy that computes the same with norms baked in, for every kind of model."""

import copy

import pytest
import timm
import torch
from helpers import largest_error, pyramid, randomise, relative_error, winograd_layers
from torch import nn

from detbackbones import build_backbone, build_detector, build_neck
from detbackbones.backbones.blocks import BasicBlock
from detbackbones.backbones.resnet import ResNet
from detbackbones.layers.fuse import fuse_for_inference

BATCH_OR_FROZEN_NORM = ("BatchNorm2d", "BatchNormEval2d", "FrozenBatchNorm2d", "SyncBatchNorm")


def foldable_norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if type(module).__name__ in BATCH_OR_FROZEN_NORM]


@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="resnet18"),
        dict(type="resnet50_dc5"),
        dict(type="resnet18d_dilated"),
        dict(type="resnet20_cifar"),
        dict(type="resnext50_32x4d"),
        dict(type="resnet18", deform_stages=("c5",)),
        dict(type="resnet18", norm="group"),
        dict(type="timm:resnet18"),
    ],
    ids=lambda cfg: "-".join(str(value) for value in cfg.values()),
)
def test_a_fused_backbone_computes_the_same(cfg):
    backbone = randomise(build_backbone(cfg)).eval()
    fused = backbone.fuse_for_inference()
    images = torch.randn(1, 3, 163, 197)
    with torch.no_grad():
        assert largest_error(fused(images), backbone(images)) <= 1e-5


@pytest.mark.parametrize("name", ["resnet18", "resnet18d_dilated", "resnet20_cifar"])
def test_a_fused_backbone_has_no_norms(name):
    assert not foldable_norms(build_backbone(name).fuse_for_inference())


def test_a_fused_copy_is_for_inference_and_leaves_the_original_unchanged():
    backbone = build_backbone("resnet18").train()
    before = copy.deepcopy(backbone.state_dict())
    fused = backbone.fuse_for_inference()
    assert not fused.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert backbone.training
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_other_norms_stay():
    fused = build_backbone("resnet18", norm="group", out_features=("c2",)).fuse_for_inference()
    assert any(isinstance(module, nn.GroupNorm) for module in fused.modules())


def precomputed_layers(model: nn.Module) -> set[str]:
    return {name for name in winograd_layers(model) if model.get_submodule(name).transformed_weight is not None}


def test_winograds_form_is_used_above_stride_32():
    layers = precomputed_layers(build_backbone("resnet18").fuse_for_inference())
    assert layers == {f"layer{stage}.{block}.conv{n}" for stage in (2, 3) for block, n in ((0, 2), (1, 1), (1, 2))}


def test_winograds_form_is_used_in_a_dilated_c5():
    layers = precomputed_layers(build_backbone("resnet18_dilated").fuse_for_inference())
    assert {"layer4.0.conv1", "layer4.1.conv2"} <= layers


@pytest.mark.parametrize(
    "cfg", [dict(type="fpn", norm="batch", activation="relu"), dict(type="pafpn"), dict(type="fpn", norm="group")]
)
def test_a_fused_neck_computes_the_same(cfg):
    specs = pyramid((4, 8, 16, 32), channels=64)
    neck = randomise(build_neck(cfg, specs)).eval()
    fused = fuse_for_inference(neck)
    features = {spec.name: torch.randn(1, spec.channels, 256 // spec.stride, 192 // spec.stride) for spec in specs}
    with torch.no_grad():
        assert largest_error(fused(features), neck(features)) <= 1e-5
    assert not foldable_norms(fused)
    assert len(precomputed_layers(fused)) >= 4


C2_TO_C5, C4_AND_C5 = ("c2", "c3", "c4", "c5"), ("c4", "c5")
DETECTORS = {  # name -> config, levels of the backbone, parts in Winograd's form
    "fpn": (dict(type="mask_rcnn"), C2_TO_C5, {"neck.layer_blocks", "rpn.head", "roi_heads.mask_head"}),
    "c4": (
        dict(type="mask_rcnn", neck="identity", roi_heads=dict(type="stage", stage="c5")),
        C4_AND_C5,
        {"backbone.layer2", "rpn.head"},
    ),
    "retinanet": (
        dict(type="retinanet"),
        C2_TO_C5,
        {"neck.layer_blocks", "head.classification_head", "head.regression_head"},
    ),
}


@pytest.fixture(scope="module", params=DETECTORS)
def detector_and_parts(request):
    torch.manual_seed(0)
    cfg, levels, parts = DETECTORS[request.param]
    backbone = dict(type="resnet18", out_features=levels)
    return randomise(build_detector(cfg, backbone=backbone, num_classes=3)).eval(), parts


def test_a_fused_detector_has_no_norms_and_computes_the_same_features(detector_and_parts):
    detector, parts = detector_and_parts
    fused = detector.fuse_for_inference()
    assert not foldable_norms(fused)
    assert parts <= {".".join(name.split(".")[:2]) for name in precomputed_layers(fused)}
    images = torch.randn(1, 3, 192, 256)
    with torch.no_grad():
        assert largest_error(fused.neck(fused.backbone(images)), detector.neck(detector.backbone(images))) <= 1e-5


def head_outputs(detector, maps, rois):
    """Return the outputs of all heads as a flat list: RPN or RetinaNet heads on maps, RoI heads on pooled RoIs."""
    if not hasattr(detector, "rpn"):
        return list(detector.head(maps).values())
    heads = detector.roi_heads
    if hasattr(heads, "stage"):
        roi_outputs = [heads.stage(rois)]
    else:
        roi_outputs = [heads.box_head(rois[..., :7, :7]), heads.mask_head(rois)]
    return [*(output for outputs in detector.rpn.head(maps) for output in outputs), *roi_outputs]


def test_the_heads_of_a_fused_detector_compute_the_same(detector_and_parts):
    detector, _ = detector_and_parts
    with torch.no_grad():
        maps = list(detector.neck(detector.backbone(torch.randn(1, 3, 192, 256))).values())
        rois = torch.randn(6, maps[0].shape[1], 14, 14)
        outputs = head_outputs(detector.fuse_for_inference(), maps, rois)
        for output, expected in zip(outputs, head_outputs(detector, maps, rois), strict=True):
            assert relative_error(output, expected) <= 1e-5


def test_a_fused_detector_detects(detector_and_parts):
    fused = detector_and_parts[0].fuse_for_inference()
    with torch.no_grad():
        assert len(fused([torch.rand(3, 192, 256)])) == 1


def test_subclasses_that_do_more_stay():
    """timm's norm layers may hold an activation, its convolutions may standardise their weights."""

    class DoublingConv2d(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    act = timm.layers.BatchNormAct2d(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), act, DoublingConv2d(8, 8, 3), nn.BatchNorm2d(8))
    randomise(model).eval()
    x = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        assert relative_error(fuse_for_inference(model)(x), model(x)) <= 1e-5


def test_a_convolution_in_two_places_keeps_the_norm_of_each():
    conv = nn.Conv2d(8, 8, 3, padding=1)
    model = randomise(nn.Sequential(conv, nn.BatchNorm2d(8), conv, nn.BatchNorm2d(8), nn.Sequential(conv))).eval()
    x = torch.randn(1, 8, 12, 12)
    with torch.no_grad():
        assert relative_error(fuse_for_inference(model)(x), model(x)) <= 1e-5


def test_the_last_convolution_of_a_deep_stem_is_fused():
    """The network runs it together with the norm behind the stem."""
    backbone = randomise(ResNet(BasicBlock, (1, 1), (256, 256), stem="deep")).eval()
    fused, images = backbone.fuse_for_inference(), torch.randn(1, 3, 64, 96)
    assert "conv1.6" in precomputed_layers(fused)
    with torch.no_grad():
        assert largest_error(fused(images), backbone(images)) <= 1e-5
