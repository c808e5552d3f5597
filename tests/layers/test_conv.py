import pytest
import torch
from helpers import relative_error
from torch import nn

from detbackbones.layers.conv import DeformConv2d, conv2d


@pytest.mark.parametrize(
    "kernel_size,stride,dilation", [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 4), (7, 2, 1)]
)
@pytest.mark.parametrize("deformable", [False, True])
def test_the_output_has_size_over_stride_rounded_up(kernel_size, stride, dilation, deformable):
    conv = conv2d(3, 4, kernel_size, stride, dilation, deformable=deformable)
    assert conv.bias is None
    assert conv(torch.randn(2, 3, 33, 46)).shape == (2, 4, -(-33 // stride), -(-46 // stride))


def test_a_fresh_deformable_convolution_weighs_every_sample_by_half():
    conv = DeformConv2d(6, 8, 3, stride=2, padding=2, dilation=2)
    x = torch.randn(2, 6, 15, 18)
    plain = nn.functional.conv2d(x, conv.weight, stride=2, padding=2, dilation=2) / 2 + conv.bias.view(-1, 1, 1)
    assert relative_error(conv(x), plain) <= 1e-5


def test_offsets_of_a_deformable_convolution_move_its_samples():
    """An offset of one cell to the right for every sample, and weights close to 1."""
    conv = DeformConv2d(2, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.conv_offset.bias[1:18:2] = 1.0  # y, x, y, x, ...
        conv.conv_offset.bias[18:] = 40.0
    x = torch.randn(1, 2, 9, 9)
    moved = nn.functional.conv2d(x, conv.weight, padding=1)[..., 2:-1]
    assert relative_error(conv(x)[..., 1:-2], moved) <= 1e-5


def test_offsets_of_a_deformable_convolution_train():
    conv = DeformConv2d(4, 4, 3, padding=1)
    conv(torch.randn(1, 4, 9, 9)).square().sum().backward()
    assert conv.conv_offset.weight.grad.abs().sum() > 0


def test_a_deformable_convolution_under_autocast():
    conv = DeformConv2d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(out.float(), conv(x)) <= 0.02
