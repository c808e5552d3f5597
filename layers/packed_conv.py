"""Convolution for inference on the CPU with weights in oneDNN's own layout.

The weights of `nn.Conv2d` are brought into that layout in every call. A network of 88 million parameters (ResNeXt-101
32x8d) moves 700 MB for it, which takes as long as a sixth of its convolutions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .winograd_conv import needs_grad


def can_pack() -> bool:
    """Return whether this build of torch has oneDNN."""
    return torch.backends.mkldnn.is_available()


class PackedConv2d(nn.Conv2d):
    """A convolution that keeps its weights in oneDNN's layout too, from the first call that can use it.

    It is used for float32 on the CPU without autocast, gradients or compilation; other calls run as in `nn.Conv2d`. The
    second copy of the weights is not part of the state dict, and is made again if the weights change.

    Args:
        conv: a convolution without subclass behaviour; its parameters are shared.
    """

    def __init__(self, conv: nn.Conv2d):
        with torch.device("meta"):
            super().__init__(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                conv.dilation,  # type: ignore[arg-type]
                conv.groups,
            )
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)
        self.packed: tuple[int, Tensor, Tensor] | None = None  # version of the weight, what was packed, and the copy

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}  # tensors in this layout can be neither copied nor saved

    def _packed_weight(self, input: Tensor) -> Tensor:
        source = self.weight.detach()
        version = -1 if source.is_inference() else self.weight._version
        packed = self.packed
        if packed is None or packed[0] != version or packed[1].data_ptr() != source.data_ptr():
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            weight = reorder(
                source.to_mkldnn(),
                self.padding,
                self.stride,
                self.dilation,
                self.groups,
                list(input.shape),
            )
            packed = self.packed = version, source, weight
        return packed[2]

    def forward(self, input: Tensor) -> Tensor:
        if (
            torch.compiler.is_compiling()
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or not input.numel()
            or torch.is_autocast_enabled("cpu")
            or needs_grad(input, self.weight)
        ):
            return super().forward(input)
        return torch.ops.mkldnn._convolution_pointwise(
            input,
            self._packed_weight(input),
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            "none",
            [],
            None,
        )
