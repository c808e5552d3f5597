"""Shortcut (downsample) branches of residual blocks whose input and output differ in shape.

All have the signature (in_channels, out_channels, plan, norm).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.conv import conv2d
from ..layers.fold import conv_norm
from ..layers.norm import Norm
from .stage_plan import BlockPlan


class ConvShortcut(nn.Sequential):
    """1x1 convolution (option B of the ResNet paper, arXiv:1512.03385, section 4.1), under torchvision's keys."""

    conv_norm_pairs = (("0", "1"),)

    def __init__(self, in_channels: int, out_channels: int, plan: BlockPlan, norm: Norm):
        super().__init__(conv2d(in_channels, out_channels, 1, plan.stride), norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(x, self[0], self[1])


class PoolShortcut(nn.Sequential):
    """Average pool, then a 1x1 convolution without stride (ResNet-D, arXiv:1812.01187), under timm's keys."""

    conv_norm_pairs = (("1", "2"),)

    def __init__(self, in_channels: int, out_channels: int, plan: BlockPlan, norm: Norm):
        pool: nn.Module
        if plan.pool_dilation == 0:
            pool = nn.Identity()
        elif plan.pool_dilation == 1 and plan.stride == 2:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        else:
            pool = DilatedAvgPool(plan.pool_dilation, plan.stride)
        super().__init__(pool, conv2d(in_channels, out_channels, 1), norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(self[0](x), self[1], self[2])


class DilatedAvgPool(nn.Module):
    """2x2 average pool of a dilated map: the mean over the cells x[i] and x[i + dilation] of each axis that exist.

    Sampled at the removed strides it equals AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) of the sampled
    map.
    """

    def __init__(self, dilation: int, stride: int):
        super().__init__()
        self.dilation, self.stride = dilation, stride

    def forward(self, x: Tensor) -> Tensor:
        for axis in (-2, -1):
            num_pairs = x.shape[axis] - self.dilation
            if num_pairs > 0:
                pairs = (x.narrow(axis, 0, num_pairs) + x.narrow(axis, self.dilation, num_pairs)) / 2
                last_cells = x.narrow(axis, num_pairs, self.dilation)  # they have no partner inside
                x = torch.cat([pairs, last_cells], axis)
        return x[..., :: self.stride, :: self.stride]

    def extra_repr(self) -> str:
        return f"dilation={self.dilation}, stride={self.stride}"


class PadShortcut(nn.Module):
    """Subsampled identity, followed by zero channels (option A of the ResNet paper). It has no parameters."""

    def __init__(self, in_channels: int, out_channels: int, plan: BlockPlan, norm: Norm):
        super().__init__()
        self.stride, self.extra_channels = plan.stride, out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))
