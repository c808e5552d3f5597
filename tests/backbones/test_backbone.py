"""The contract of every backbone: outputs, gradients, copies, state dict, meta device, degenerate inputs, errors."""

import copy
import pickle

import pytest
import torch
from helpers import build_meta, randomise

from detbackbones import build_backbone, list_backbones

KINDS = {
    "resnet18_dc5": dict(type="resnet18_dc5"),
    "resnet50": dict(type="resnet50"),
    "resnext50_32x4d": dict(type="resnext50_32x4d"),
    "resnet18d_dilated": dict(type="resnet18d_dilated"),
    "resnet20_cifar": dict(type="resnet20_cifar"),
    "deformable": dict(type="resnet18", deform_stages=("c5",)),
    "timm:resnet18": dict(type="timm:resnet18"),
}
OTHERS = [name for name in list_backbones() if name not in KINDS and name != "timm"]


def build(cfg):
    """Build in evaluation mode with random norm statistics, as after training."""
    if cfg["type"] == "resnet1202_cifar":  # six hundred random residual sums leave float32's range
        return build_backbone(cfg, zero_init_residual=True).eval()
    return randomise(build_backbone(cfg)).eval()


@pytest.fixture(
    scope="module",
    params=[*KINDS.values(), *(pytest.param(dict(type=name), marks=pytest.mark.slow) for name in OTHERS)],
    ids=[*KINDS, *OTHERS],
)
def cfg(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(cfg):
    torch.manual_seed(0)
    return build(cfg)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 33, 47)


@pytest.fixture(scope="module")
def features(backbone, images):
    with torch.no_grad():
        return backbone(images)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)


def test_maps_are_in_channels_last_memory(features):
    assert all(feature.is_contiguous(memory_format=torch.channels_last) for feature in features.values())


def test_maps_have_the_declared_channels_and_names(backbone, features):
    declared = [(spec.name, spec.channels) for spec in backbone.feature_specs]
    assert [(name, feature.shape[1]) for name, feature in features.items()] == declared


def test_every_parameter_gets_a_finite_gradient(backbone, images):
    sum(feature.square().mean() for feature in backbone(images).values()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    backbone.zero_grad()


@torch.no_grad()
def test_a_state_dict_restores_the_backbone(cfg, backbone, images, features):
    with torch.device("meta"):
        other = build_backbone(cfg).eval()
    other.to_empty(device="cpu").load_state_dict(backbone.state_dict())
    assert same(other(images), features)


@torch.no_grad()
@pytest.mark.parametrize("copy_backbone", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
def test_a_copy_computes_the_same(backbone, images, features, copy_backbone):
    assert same(copy_backbone(backbone)(images), features)


@torch.no_grad()
def test_an_empty_batch(backbone, images, features):
    for name, feature in backbone(images[:0]).items():
        assert feature.shape == (0, *features[name].shape[1:])


@torch.no_grad()
def test_an_image_of_one_pixel(backbone):
    for spec, feature in zip(backbone.feature_specs, backbone(torch.zeros(1, 3, 1, 1)).values()):
        assert feature.shape == (1, spec.channels, 1, 1)


def test_built_for_weights_without_reading_them(cfg, features):
    """On the meta device, with the stem and c2 fixed."""
    frozen = build_meta(cfg, weights="unread.pth", load_weights=False, freeze=2).train()
    assert list(frozen(torch.zeros(1, 3, 64, 64, device="meta"))) == list(features)
    parts = [module for name in ("c1", "c2") for module in frozen.stage_modules[name]]
    fixed = {id(parameter) for module in parts for parameter in module.parameters()}
    assert fixed
    assert fixed == {id(parameter) for parameter in frozen.parameters() if not parameter.requires_grad}


@pytest.mark.parametrize("channels", [3, 4])
def test_wrong_inputs(channels):
    backbone = build_backbone("resnet18", in_channels=channels, out_features=("c1",))
    wrong = (
        torch.zeros(channels, 32, 32),
        torch.zeros(1, channels + 1, 32, 32),
        torch.zeros(1, channels, 32, 32, dtype=torch.uint8),
    )
    for images in wrong:
        with pytest.raises(ValueError, match=f"N x {channels} x H x W.*preprocess"):
            backbone(images)
