"""Convolutions without bias and with "same" padding, plain and deformable."""

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformConv2d(nn.Conv2d):
    """Modulated deformable convolution (Zhu et al. 2018, arXiv:1811.11168); offsets and masks are predicted from x.

    `conv_offset` (mmcv's name) starts at zero: no offset, and every sample has the weight 0.5. Arguments are those of
    `nn.Conv2d`, for square kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.num_samples = kernel_size**2
        self.conv_offset = nn.Conv2d(
            in_channels,
            3 * self.num_samples,  # x offset, y offset and mask per sample
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        offset, mask = self.conv_offset(input).split((2 * self.num_samples, self.num_samples), dim=1)
        dtype = input.dtype  # torchvision's operator requires one dtype, also under autocast
        out = deform_conv2d(
            input,
            offset.to(dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=mask.sigmoid().to(dtype),
        )
        return out.contiguous(memory_format=torch.channels_last)


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    deformable: bool = False,
) -> nn.Conv2d:
    """Build a convolution without bias whose output has ceil(size / stride) cells per side."""
    conv_type = DeformConv2d if deformable else nn.Conv2d
    padding = dilation * (kernel_size // 2)
    return conv_type(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
