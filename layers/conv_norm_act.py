"""What necks and heads are made of: a convolution with an optional norm and activation, under torchvision's keys."""

from collections.abc import Callable

from torch import nn
from torchvision.ops import Conv2dNormActivation

from .norm import NORMS
from .winograd import with_winograd
from ..errors import InputError, did_you_mean

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def norm_layer(name: str | None) -> Callable[[int], nn.Module] | None:
    """The constructor channels -> norm of a name ("batch", "sync", "group", ...); None for None."""
    if name is not None and name not in NORMS:
        raise InputError(f"unknown norm {name!r}; {did_you_mean(str(name), NORMS)}")
    return None if name is None else NORMS[name]


def conv(
    cin: int, cout: int, kernel: int, stride: int = 1, norm: str | None = None, activation: str | None = None
) -> Conv2dNormActivation:
    """Convolution, norm, activation as entries 0, 1, 2; the convolution has a bias where no norm follows.

    Initialised as in the FPN of torchvision and detectron2: uniform, variance 1 / fan in.
    """
    if cout < 1:
        raise InputError(f"out_channels of a neck or a head is at least 1, not {cout}")
    if activation is not None and activation not in ACTIVATIONS:
        raise InputError(f"unknown activation {activation!r}; {did_you_mean(str(activation), ACTIVATIONS)}")
    block = Conv2dNormActivation(
        cin, cout, kernel, stride, norm_layer=norm_layer(norm), inplace=None,
        activation_layer=None if activation is None else ACTIVATIONS[activation],
    )  # fmt: skip
    nn.init.kaiming_uniform_(block[0].weight, a=1)
    if block[0].bias is not None:
        nn.init.zeros_(block[0].bias)
    return with_winograd(block)
