"""Convolution with optional norm and activation; state-dict keys are those of torchvision's Conv2dNormActivation."""

from torch import nn
from torchvision.ops import Conv2dNormActivation

from ..errors import InputError, check_known
from .norm import norm_constructor

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    norm: str | None = None,
    activation: str | None = None,
) -> Conv2dNormActivation:
    """Build a sequence of convolution, norm and activation; the convolution has a bias if no norm follows.

    The weights start as in the FPN of torchvision and detectron2: uniform, with variance 1 / fan in.

    Args:
        norm: "batch", "sync", "group", ...; None for none.
        activation: "relu", "silu" or "gelu"; None for none.

    Raises:
        InputError: `out_channels` is below 1, or a name is unknown.
    """
    if out_channels < 1:
        raise InputError(f"out_channels must be at least 1, got {out_channels}")
    if activation is not None:
        check_known("activation", ACTIVATIONS, activation)
    block = Conv2dNormActivation(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        norm_layer=None if norm is None else norm_constructor(norm),
        activation_layer=None if activation is None else ACTIVATIONS[activation],
        inplace=None,
    )
    nn.init.kaiming_uniform_(block[0].weight, a=1)
    if block[0].bias is not None:
        nn.init.zeros_(block[0].bias)
    return block
