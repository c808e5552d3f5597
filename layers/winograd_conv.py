"""Replacement of nn.Conv2d that uses Winograd's form if layer and input are large enough to be faster."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .winograd import WinogradFunction, num_tiles, transform_weight, winograd_conv2d

MIN_TILES = 40  # fewer tiles do not amortise loading the weights
MIN_TILES_IN_TRAINING = 250  # fewer tiles do not amortise transforming the weights in every call
MIN_CHANNELS = 128  # fewer channels do not amortise the tile transforms

# opaque to torch.compile: the number of iterations depends on the image size
_compiled_winograd = torch.library.custom_op("detbackbones::winograd", winograd_conv2d, mutates_args=())


@_compiled_winograd.register_fake
def _(x: Tensor, transformed_weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    shape = (len(x), transformed_weight.shape[2], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def supports_winograd(conv: nn.Conv2d) -> bool:
    """Return whether Winograd's form can replace `conv`, and is faster on large maps."""
    layout = (conv.kernel_size, conv.stride, conv.groups, conv.padding_mode)
    return (
        layout == ((3, 3), (1, 1), 1, "zeros")
        and conv.padding == conv.dilation
        and conv.dilation[0] == conv.dilation[1]
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
    )


def pays_off(x: Tensor, dilation: int, min_tiles: int) -> bool:
    """Return whether Winograd's form is faster for this input: float32 on the CPU, and at least `min_tiles` tiles."""
    tiles = len(x) * num_tiles(x.shape[2], dilation) * num_tiles(x.shape[3], dilation) * dilation**2
    is_cpu_float = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_cpu_float and tiles >= min_tiles


def needs_grad(x: Tensor, weight: Tensor) -> bool:
    """Return whether autograd records an operation on `x` and `weight` now."""
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


class WinogradConv2d(nn.Conv2d):
    """A 3x3 convolution that runs in Winograd's form on large float32 maps on the CPU.

    In training it uses Winograd's form in all three directions. Without gradients it stays direct and gives the bits of
    `nn.Conv2d`, unless `precompute` has transformed the weights: then it uses them, four times the size of the weights
    and outside of the state dict. Loading a state dict transforms again, a change of `weight` in place does not. NaN or
    infinity in the input spreads over whole tiles.

    Args:
        conv: a convolution that `supports_winograd`; its parameters are shared.
    """

    transformed_weight: Tensor | None

    def __init__(self, conv: nn.Conv2d):
        dilation = conv.dilation[0]
        with torch.device("meta"):
            super().__init__(conv.in_channels, conv.out_channels, 3, padding=dilation, dilation=dilation)
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)
        self.register_buffer("transformed_weight", None, persistent=False)

    def precompute(self) -> "WinogradConv2d":
        """Transform the weights once, in float64, for inference. Returns the module."""
        self.transformed_weight = transform_weight(self.weight.detach().double()).float().contiguous()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.transformed_weight is not None:
            self.precompute()

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dilation = self.dilation[0]
        if (
            needs_grad(input, weight)
            and weight.dtype == torch.float32
            and not torch.compiler.is_compiling()
            and pays_off(input, dilation, MIN_TILES_IN_TRAINING)
        ):
            return WinogradFunction.apply(input, weight, bias, dilation)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation)

    def forward(self, input: Tensor) -> Tensor:
        if (
            self.transformed_weight is not None
            and pays_off(input, self.dilation[0], MIN_TILES)
            and not needs_grad(input, self.weight)
            and not torch.compiler.is_exporting()  # exported programs must not depend on this package
        ):
            run = _compiled_winograd if torch.compiler.is_compiling() else winograd_conv2d
            return run(input, self.transformed_weight, self.bias, self.dilation[0])
        return super().forward(input)


def convert_to_winograd_(model: nn.Module) -> None:
    """Replace the plain convolutions of `model` that support Winograd's form by WinogradConv2d, in place.

    Parameters are shared, so the state dict and an optimizer built before stay valid.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d and supports_winograd(child):
                setattr(module, name, WinogradConv2d(child))
