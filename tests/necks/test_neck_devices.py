"""Device correctness without a device: necks on fake CUDA tensors, and on the CPU while the default is another."""

import pytest
import torch
from fake_cuda import fake_cuda
from helpers import maps
from neck_helpers import declared

from detbackbones import build_neck, list_necks

SPECS = declared((4, 8, 16, 32))
CONFIGS = {
    "identity": dict(type="identity"),
    "fpn": dict(type="fpn"),
    "fpn norm": dict(type="fpn", norm="batch", activation="relu"),
    "fpn p6 p7": dict(type="fpn", extra_levels="conv_on_input"),
    "pafpn": dict(type="pafpn"),
    "pafpn p6 p7": dict(type="pafpn", extra_levels="conv_on_output", norm="group"),
}
all_necks = pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)


def test_every_neck_is_tested():
    assert {cfg["type"] for cfg in CONFIGS.values()} == set(list_necks())


@all_necks
def test_fake_cuda(cfg):
    with torch.device("meta"):
        neck, features = build_neck(cfg, SPECS), maps(SPECS, 50, 70)
    with fake_cuda(neck):
        features = {name: torch.empty(feature.shape, device="cuda") for name, feature in features.items()}
        outputs = neck(features)
    assert {output.device.type for output in outputs.values()} == {"cuda"}


@all_necks
def test_a_default_device(cfg):
    neck, features = build_neck(cfg, SPECS), maps(SPECS, 50, 70)
    inputs = [*neck.parameters(), *(feature.requires_grad_() for feature in features.values())]
    with torch.device("meta"):
        outputs = neck(features)
        gradients = torch.autograd.grad(sum(output.square().mean() for output in outputs.values()), inputs)
    assert {value.device.type for value in (*outputs.values(), *gradients)} == {"cpu"}
