import pytest
import torch
from helpers import input_error
from torch import nn

from detbackbones.layers.conv_norm_act import conv_norm_act


@pytest.mark.parametrize(
    "norm,activation,layers",
    [
        (None, None, [nn.Conv2d]),
        (None, "silu", [nn.Conv2d, nn.SiLU]),
        ("batch", None, [nn.Conv2d, nn.BatchNorm2d]),
        ("group", "relu", [nn.Conv2d, nn.GroupNorm, nn.ReLU]),
    ],
)
def test_layers_in_order(norm, activation, layers):
    block = conv_norm_act(8, 32, 3, norm=norm, activation=activation)
    assert [type(layer) for layer in block] == layers


@pytest.mark.parametrize("norm", [None, "batch"])
def test_a_bias_only_without_a_norm(norm):
    assert (conv_norm_act(8, 16, 3, norm=norm)[0].bias is None) == (norm is not None)


@pytest.mark.parametrize("kernel_size,stride", [(1, 1), (3, 1), (3, 2)])
def test_the_output_has_size_over_stride_rounded_up(kernel_size, stride):
    out = conv_norm_act(8, 16, kernel_size, stride)(torch.randn(2, 8, 9, 14))
    assert out.shape == (2, 16, -(-9 // stride), -(-14 // stride))


def test_weights_start_with_variance_one_over_fan_in():
    conv = conv_norm_act(64, 256, 3)[0]
    assert conv.weight.var().item() == pytest.approx(1 / (9 * 64), rel=0.02)
    assert not conv.bias.any()


@pytest.mark.parametrize(
    "arguments,words",
    [
        (dict(out_channels=0), ("out_channels", "0")),
        (dict(norm="grup"), ("'grup'", "did you mean group?")),
        (dict(activation="rel"), ("'rel'", "did you mean relu")),
    ],
)
def test_bad_arguments(arguments, words):
    with input_error(*words):
        conv_norm_act(**(dict(in_channels=8, out_channels=16, kernel_size=3) | arguments))
