"""Winograd's algorithm for 3x3 convolutions: exact algebra, and the rounding of a direct convolution."""

import pytest
import torch
import torch.nn.functional as F
from helpers import relative_error
from torch import Tensor, nn

from detbackbones.layers.winograd import (
    WinogradFunction,
    transform_matrices,
    transform_weight,
    weight_gradient,
    winograd_conv2d,
)

# N, H, W, dilation; a block of 128 channels holds about 455 tiles of 4 x 4
SHAPES = {
    "one block": (1, 32, 40, 1),
    "sides that are not multiples of a tile": (3, 13, 22, 1),
    "one cell per image": (7, 1, 1, 1),
    "blocks of rows": (1, 93, 100, 1),
    "rows wider than a block": (1, 10, 1850, 1),
    "blocks of images": (3, 50, 70, 1),
    "dilation 2": (2, 30, 37, 2),
    "dilation 4": (1, 21, 40, 4),
}


def conv2d_float64(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    bias = None if bias is None else bias.double()
    return F.conv2d(x.double(), weight.double(), bias, padding=dilation, dilation=dilation)


def test_the_transforms_compute_a_correlation_in_one_dimension():
    b, g, a = transform_matrices()
    kernel, cells = torch.randn(3, dtype=torch.double), torch.randn(6, dtype=torch.double)
    expected = torch.stack([(cells[i : i + 3] * kernel).sum() for i in range(4)])
    torch.testing.assert_close(a @ ((g @ kernel) * (b @ cells)), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("has_bias", [False, True])
def test_equals_a_convolution_in_float64(shape, layout, has_bias):
    n, height, width, dilation = shape
    layer = nn.Conv2d(128, 160, 3, bias=has_bias).requires_grad_(False)
    x = torch.randn(n, 128, height, width).contiguous(memory_format=layout)
    out = winograd_conv2d(x, transform_weight(layer.weight), layer.bias, dilation)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(out, conv2d_float64(x, layer.weight, layer.bias, dilation)) <= 5e-6


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gradient_of_the_weight_equals_the_one_in_float64(shape):
    n, height, width, dilation = shape
    x, gradient = torch.randn(n, 128, height, width), torch.randn(n, 160, height, width)
    weight = torch.zeros(160, 128, 3, 3, dtype=torch.double, requires_grad=True)
    out = conv2d_float64(x, weight, None, dilation)
    (expected,) = torch.autograd.grad(out, weight, gradient.double())
    assert relative_error(weight_gradient(x, gradient, dilation), expected) <= 5e-6


def test_rounds_at_most_twice_as_much_as_a_direct_convolution():
    """Root mean square over a map like those of a network: positive, channels_last, fan in 9 * 256."""
    layer = nn.Conv2d(256, 256, 3, padding=1).requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.randn(1, 256, 40, 40).relu().contiguous(memory_format=torch.channels_last)
    exact = conv2d_float64(x, layer.weight, layer.bias, 1)
    fast = winograd_conv2d(x, transform_weight(layer.weight), layer.bias, 1)
    assert (fast - exact).norm() <= 2 * (layer(x) - exact).norm()


def test_second_derivatives_are_those_of_a_convolution():
    x, weight = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3) / 12

    def second_derivatives(convolution):
        inputs = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        first = torch.autograd.grad(convolution(*inputs).square().mean(), inputs, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)

    ours = second_derivatives(lambda x, weight: WinogradFunction.apply(x, weight, None, 1))
    for derivative, expected in zip(ours, second_derivatives(lambda x, weight: F.conv2d(x, weight, padding=1))):
        assert relative_error(derivative, expected) <= 1e-5
