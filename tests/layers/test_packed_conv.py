import copy
import pickle

import pytest
import torch
from helpers import relative_error
from torch import nn

from detbackbones import build_backbone
from detbackbones.layers.packed_conv import PackedConv2d, can_pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="this build of torch has no oneDNN")

CONVS = {
    "1x1": dict(kernel_size=1),
    "stride": dict(kernel_size=3, stride=2, padding=1),
    "dilated": dict(kernel_size=3, padding=2, dilation=2),
    "grouped": dict(kernel_size=3, padding=1, groups=4),
}


@pytest.mark.parametrize("name", CONVS)
@torch.no_grad()
def test_values_are_those_of_conv2d_at_every_size(name):
    conv = nn.Conv2d(16, 32, **CONVS[name])
    packed = PackedConv2d(conv)
    for size in ((2, 16, 15, 20), (1, 16, 40, 33)):
        x = torch.randn(size).to(memory_format=torch.channels_last)
        assert relative_error(packed(x), conv(x)) < 1e-5
        assert packed(x).is_contiguous(memory_format=torch.channels_last)
    assert packed.packed is not None


@torch.no_grad()
def test_it_follows_its_weights():
    conv, other = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    packed, x = PackedConv2d(conv), torch.randn(1, 8, 9, 9)
    packed(x)
    packed.load_state_dict(other.state_dict())
    assert relative_error(packed(x), other(x)) < 1e-5


@pytest.mark.parametrize("assign", [True, False])
@torch.no_grad()
def test_it_follows_weights_that_are_replaced(assign):
    """Neither raises the version of the weight."""
    conv, other = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    packed, x = PackedConv2d(conv), torch.randn(1, 8, 9, 9)
    packed(x)
    if assign:
        packed.load_state_dict(other.state_dict(), assign=True)
    else:
        packed.weight.data, packed.bias.data = other.weight.data, other.bias.data
    assert relative_error(packed(x), other(x)) < 1e-5


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@torch.no_grad()
def test_a_copy(clone):
    packed, x = PackedConv2d(nn.Conv2d(8, 8, 3)), torch.randn(1, 8, 9, 9)
    expected = packed(x)
    assert torch.equal(clone(packed)(x), expected)


def test_other_calls_run_as_conv2d():
    conv, x = nn.Conv2d(8, 8, 3), torch.randn(1, 8, 9, 9)
    packed = PackedConv2d(conv)
    packed(x).sum().backward()  # gradients
    assert conv.weight.grad is not None
    with torch.no_grad():
        assert torch.equal(packed.double()(x.double()), conv(x.double()))
        assert packed.float()(x[:0]).shape == (0, 8, 7, 7)
        with torch.autocast("cpu", torch.bfloat16):
            assert packed(x).dtype == torch.bfloat16
    assert packed.packed is None


@torch.inference_mode()
def test_a_fused_backbone_uses_it():
    backbone = build_backbone("resnet18").eval()
    fused = backbone.fuse_for_inference()
    x = torch.randn(1, 3, 64, 64)
    assert relative_error(fused(x)["c5"], backbone(x)["c5"]) < 1e-4
    packed = [module for module in fused.modules() if isinstance(module, PackedConv2d)]
    assert len(packed) >= 10
    assert all(module.packed is not None for module in packed)
    assert fused.state_dict().keys() == dict(fused.named_parameters()).keys()
