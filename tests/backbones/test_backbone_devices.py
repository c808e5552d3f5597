"""Device correctness without a device: backbones on fake CUDA tensors, and on the CPU while the default is another."""

import pytest
import torch
from fake_cuda import fake_cuda
from helpers import build_meta

from detbackbones import build_backbone, build_neck, describe, list_backbones

FAMILIES = {
    "resnet18_dc5": dict(type="resnet18_dc5"),
    "resnet50": dict(type="resnet50"),
    "resnext50_32x4d": dict(type="resnext50_32x4d", norm="group"),
    "resnet18d_dilated": dict(type="resnet18d_dilated", norm="batch_eval"),
    "resnet20_cifar": dict(type="resnet20_cifar"),
    "frozen": dict(type="resnet18", weights="unread.pth", load_weights=False, freeze=2),
    "deformable": dict(type="resnet18", deform_stages=("c5",), stride_in_1x1=False, in_channels=4),
    "checkpointed": dict(type="resnet18", checkpoint_stages=("c3",), multi_grid=(1, 2)),
    "timm:resnet18": dict(type="timm:resnet18"),
    "timm:convnext_atto": dict(type="timm:convnext_atto"),
}
OTHERS = [name for name in list_backbones() if name not in FAMILIES and name != "timm"]
all_backbones = pytest.mark.parametrize(
    "cfg",
    [*FAMILIES.values(), *(pytest.param(dict(type=name), marks=pytest.mark.slow) for name in OTHERS)],
    ids=[*FAMILIES, *OTHERS],
)


@all_backbones
@pytest.mark.parametrize("training", [True, False])
def test_a_backbone_and_a_neck_on_fake_cuda(cfg, training):
    backbone = build_meta(cfg).train(training)
    neck = build_neck("fpn", backbone.feature_specs).train(training)
    with fake_cuda(backbone, neck), torch.set_grad_enabled(training):
        images = torch.empty(2, backbone.preprocess.channels, 64, 96, dtype=torch.uint8, device="cuda")
        features = backbone(backbone.preprocess(images))
        maps = neck(features)
    assert {value.device.type for value in (*features.values(), *maps.values())} == {"cuda"}


@all_backbones
def test_a_fused_backbone_on_fake_cuda(cfg):
    fused = build_meta(cfg).fuse_for_inference()
    with fake_cuda(fused), torch.no_grad():
        features = fused(torch.empty(2, fused.preprocess.channels, 64, 96, device="cuda"))
    assert {feature.device.type for feature in features.values()} == {"cuda"}


def test_fake_cuda_finds_a_tensor_without_a_device():
    backbone = build_meta("resnet18")
    backbone.relu.register_forward_hook(lambda module, inputs, output: output + torch.ones(1))
    with fake_cuda(backbone), pytest.raises(RuntimeError, match="cuda:0.* cpu"):
        backbone(torch.empty(1, 3, 64, 64, device="cuda"))


@all_backbones
def test_a_default_device(cfg):
    """Outputs and gradients stay on the CPU."""
    backbone = build_backbone(cfg).train()
    images = torch.randint(0, 256, (2, backbone.preprocess.channels, 64, 64), dtype=torch.uint8)
    with torch.device("meta"):
        features = backbone(backbone.preprocess(images))
        sum(feature.square().mean() for feature in features.values()).backward()
    gradients = [parameter.grad for parameter in backbone.parameters() if parameter.requires_grad]
    assert {value.device.type for value in (*features.values(), *gradients)} == {"cpu"}


@pytest.mark.parametrize("device", ["meta", "cuda"])
@pytest.mark.parametrize("name", ["resnet18", "resnet18d_dilated", "resnet20_cifar", "timm:resnet18"])
def test_a_description_with_a_default_device(name, device):
    """By name nothing is allocated, so that a description of "cuda" needs no GPU."""
    built = build_backbone(name)
    expected = [str(describe(backbone, (64, 96))) for backbone in (name, built)]
    with torch.device(device):
        assert [str(describe(backbone, (64, 96))) for backbone in (name, built)] == expected
