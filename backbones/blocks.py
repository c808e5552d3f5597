"""Residual blocks and the stem: what a stage is made of. Their strides and dilations are decided in `resnet.py`.

Deep Residual Learning, He et al. 2015 (arXiv:1512.03385); Aggregated Residual Transformations, Xie et al. 2016
(arXiv:1611.05431); Bag of Tricks, He et al. 2018 (arXiv:1812.01187) for the deep stem and the average-pool shortcut.

`norms_follow` says to fuse.py: every norm among the children acts on the convolution before it.
"""

from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import deform_conv2d

from ..specs import FeatureSpec
from .stage_plan import BlockGeometry
from ..layers.norm import LIVE, Norm, conv_norm
from ..layers.winograd import convolve


class Conv2d(nn.Conv2d):
    """A convolution without bias that pads to keep the size, and can be run with another weight and a bias."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1):
        super().__init__(cin, cout, kernel, stride, dilation * (kernel // 2), dilation, groups, bias=False)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(self, x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)


class DeformConv2d(Conv2d):
    """Modulated deformable convolution (Zhu et al. 2018, arXiv:1811.11168), its offsets and masks predicted from x.

    `conv_offset` (mmcv's name) starts at zero: no offset, and every sample weighted by a half.
    """

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1):
        super().__init__(cin, cout, kernel, stride, dilation, groups)
        self.conv_offset = nn.Conv2d(cin, 3 * kernel**2, kernel, stride, self.padding, dilation)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        taps = self.kernel_size[0] * self.kernel_size[1]
        offset, mask = self.conv_offset(x).split((2 * taps, taps), dim=1)
        offset, mask = offset.to(x.dtype), mask.sigmoid().to(x.dtype)
        out = deform_conv2d(x, offset, weight.to(x.dtype), None if bias is None else bias.to(x.dtype),
                            self.stride, self.padding, self.dilation, mask)  # fmt: skip
        return out.contiguous(memory_format=torch.channels_last)


class DeepStem(nn.Sequential):
    """Three 3x3 convolutions in place of the 7x7, under timm's keys; stands where a convolution stands.

    Its last convolution has the norm of the stem behind it, so its `weight` and `bias` are that convolution's.
    """

    norms_follow = True

    def __init__(self, cin: int, cout: int, norm: Norm):
        half = cout // 2
        super().__init__(Conv2d(cin, half, 3, 2), norm(half), nn.ReLU(inplace=True),
                         Conv2d(half, half, 3), norm(half), nn.ReLU(inplace=True), Conv2d(half, cout, 3))  # fmt: skip

    @property
    def weight(self) -> Tensor:
        return self[6].weight

    @property
    def bias(self) -> Tensor | None:
        return self[6].bias

    def before_last(self, x: Tensor) -> Tensor:
        x = self[2](conv_norm(x, self[0], self[1]))
        return self[5](conv_norm(x, self[3], self[4]))

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self[6].convolve(self.before_last(x), weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self[6](self.before_last(x))


class DilatedAvgPool(nn.Module):
    """Mean over the cells x[i] and x[i + dilation] of each axis that lie inside: a 2x2 average pool on a dilated map.

    Sampled at the removed strides it equals AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) of the sampled map.
    """

    def __init__(self, dilation: int, stride: int):
        super().__init__()
        self.dilation, self.stride = dilation, stride

    def forward(self, x: Tensor) -> Tensor:
        for axis in (-2, -1):
            size = x.shape[axis]
            if size > self.dilation:  # the last cells have no partner
                both = size - self.dilation
                pairs = (x.narrow(axis, 0, both) + x.narrow(axis, self.dilation, both)) / 2
                x = torch.cat([pairs, x.narrow(axis, both, self.dilation)], axis)
        return x[..., :: self.stride, :: self.stride]

    def extra_repr(self) -> str:
        return f"dilation={self.dilation}, stride={self.stride}"


class ConvShortcut(nn.Sequential):
    """1x1 convolution where the shape changes (option B of the ResNet paper, section 4.1), under torchvision's keys."""

    norms_follow = True

    def __init__(self, cin: int, cout: int, geometry: BlockGeometry, norm: Norm):
        super().__init__(Conv2d(cin, cout, 1, geometry.stride), norm(cout))

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(x, self[0], self[1])


class PoolShortcut(nn.Sequential):
    """Average pool, then a 1x1 convolution without stride (ResNet-D), under timm's keys."""

    norms_follow = True

    def __init__(self, cin: int, cout: int, geometry: BlockGeometry, norm: Norm):
        pool: nn.Module = nn.Identity()
        if geometry.pool == 1 and geometry.stride == 2:
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        elif geometry.pool:
            pool = DilatedAvgPool(geometry.pool, geometry.stride)
        super().__init__(pool, Conv2d(cin, cout, 1), norm(cout))

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(self[0](x), self[1], self[2])


class PadShortcut(nn.Module):
    """The identity, subsampled, with zero channels behind (option A of the ResNet paper): no parameters."""

    def __init__(self, cin: int, cout: int, geometry: BlockGeometry, norm: Norm):
        super().__init__()
        self.stride, self.extra = geometry.stride, cout - cin

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first with the stride."""

    expansion = 1
    norms_follow = True

    def __init__(self, cin: int, planes: int, geometry: BlockGeometry, norm: Norm, shortcut: type[nn.Module] | None,
                 deform: bool = False, groups: int = 1, width_per_group: int = 64, stride_in_1x1: bool = False):  # fmt: skip
        super().__init__()
        self.conv1 = Conv2d(cin, planes, 3, geometry.stride, geometry.dilation)
        self.bn1 = norm(planes)
        self.conv2 = (DeformConv2d if deform else Conv2d)(planes, planes, 3, dilation=geometry.second)
        self.bn2 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(cin, planes, geometry, norm) if shortcut else None

    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(conv_norm(x, self.conv1, self.bn1))
        out = conv_norm(out, self.conv2, self.bn2)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1. The 3x3 carries the stride, or the first 1x1 does (`stride_in_1x1`, the paper's and Caffe's form)."""

    expansion = 4
    norms_follow = True

    def __init__(self, cin: int, planes: int, geometry: BlockGeometry, norm: Norm, shortcut: type[nn.Module] | None,
                 deform: bool = False, groups: int = 1, width_per_group: int = 64, stride_in_1x1: bool = False):  # fmt: skip
        super().__init__()
        width = int(planes * (width_per_group / 64)) * groups
        cout = planes * self.expansion
        first, second = (geometry.stride, 1) if stride_in_1x1 else (1, geometry.stride)
        self.conv1 = Conv2d(cin, width, 1, first)
        self.bn1 = norm(width)
        self.conv2 = (DeformConv2d if deform else Conv2d)(width, width, 3, second, geometry.dilation, groups)
        self.bn2 = norm(width)
        self.conv3 = Conv2d(width, cout, 1)
        self.bn3 = norm(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(cin, cout, geometry, norm) if shortcut else None

    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(conv_norm(x, self.conv1, self.bn1))
        out = self.relu(conv_norm(out, self.conv2, self.bn2))
        out = conv_norm(out, self.conv3, self.bn3)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Stage(nn.Sequential):
    """The blocks that make one level. It keeps itself frozen and checkpoints itself, whoever owns it.

    Attributes:
        spec: FeatureSpec of its output.
        frozen: parameters and statistics are fixed, whatever `.train()` says.
        checkpointed: in training, keep no activations and compute them once more in the backward pass.
    """

    def __init__(self, blocks: list[nn.Module], spec: FeatureSpec, checkpointed: bool):
        super().__init__(*blocks)
        self.spec, self.checkpointed, self.frozen = spec, checkpointed, False

    def freeze(self) -> None:
        self.frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor) -> Tensor:
        if self.checkpointed and not self.frozen and torch.is_grad_enabled():
            return checkpoint(super().forward, x, use_reentrant=False,
                              context_fn=lambda: (nullcontext(), self._statistics_at_rest()))  # fmt: skip
        return super().forward(x)

    @contextmanager
    def _statistics_at_rest(self):
        """For the second computation: a live norm must not count the same batch twice."""
        live = [(m, m.momentum, m.num_batches_tracked.clone()) for m in self.modules()
                if isinstance(m, LIVE) and m.training and m.track_running_stats]  # fmt: skip
        for norm, _, _ in live:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum, batches in live:
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(batches)
