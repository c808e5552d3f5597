"""Residual blocks, and `Stage`, the sequence of blocks that computes one level.

Deep Residual Learning, He et al. 2015 (arXiv:1512.03385); Aggregated Residual Transformations, Xie et al. 2016
(arXiv:1611.05431). Strides and dilations are decided in `stage_plan.py`. `conv_norm_pairs` names the convolutions of a
module and the norms that follow them, for `layers/fuse.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers.conv import conv2d
from ..layers.fold import conv_norm
from ..layers.norm import BATCH_NORMS, Norm
from ..specs import FeatureSpec
from .stage_plan import BlockPlan

Shortcut = Callable[[int, int, BlockPlan, Norm], nn.Module]  # in_channels, out_channels, plan, norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first carries the stride."""

    conv_norm_pairs = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(
        self,
        in_channels: int,
        planes: int,
        plan: BlockPlan,
        norm: Norm,
        shortcut: Shortcut | None,
        deformable: bool = False,
    ):
        super().__init__()
        first_dilation, second_dilation = plan.dilations
        self.conv1 = conv2d(in_channels, planes, 3, plan.stride, first_dilation)
        self.bn1 = norm(planes)
        self.conv2 = conv2d(planes, planes, 3, dilation=second_dilation, deformable=deformable)
        self.bn2 = norm(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, planes, plan, norm) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(conv_norm(x, self.conv1, self.bn1))
        out = conv_norm(out, self.conv2, self.bn2)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution; the 3x3 carries the stride.

    Args:
        groups, width_per_group: cardinality and base width of ResNeXt.
        stride_in_1x1: the first 1x1 carries the stride (the original paper and Caffe).
    """

    conv_norm_pairs = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(
        self,
        in_channels: int,
        planes: int,
        plan: BlockPlan,
        norm: Norm,
        shortcut: Shortcut | None,
        deformable: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        stride_in_1x1: bool = False,
    ):
        super().__init__()
        width = int(planes * (width_per_group / 64)) * groups
        out_channels = 4 * planes
        stride1, stride2 = (plan.stride, 1) if stride_in_1x1 else (1, plan.stride)
        (dilation,) = plan.dilations
        self.conv1 = conv2d(in_channels, width, 1, stride1)
        self.bn1 = norm(width)
        self.conv2 = conv2d(width, width, 3, stride2, dilation, groups, deformable)
        self.bn2 = norm(width)
        self.conv3 = conv2d(width, out_channels, 1)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, plan, norm) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(conv_norm(x, self.conv1, self.bn1))
        out = self.relu(conv_norm(out, self.conv2, self.bn2))
        out = conv_norm(out, self.conv3, self.bn3)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Stage(nn.Sequential):
    """The blocks that compute one level.

    Args:
        blocks: in running order.
        spec: FeatureSpec of the output.
        checkpointed: in training, keep no activations inside and compute them again in the backward pass.

    Attributes:
        frozen: stay in evaluation mode whatever `.train()` asks for, also outside the backbone that froze the stage.
    """

    def __init__(self, blocks: Sequence[nn.Module], spec: FeatureSpec, checkpointed: bool = False):
        super().__init__(*blocks)
        self.spec, self.checkpointed, self.frozen = spec, checkpointed, False

    def train(self, mode: bool = True) -> "Stage":
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> N x spec.channels x ceil(H / stride) x ceil(W / stride), with the stride relative to x."""
        if not self.checkpointed or not self.training or not torch.is_grad_enabled():
            return super().forward(x)
        if torch.compiler.is_compiling():  # the compiled graph counts a batch once, and takes no contexts
            return checkpoint(super().forward, x, use_reentrant=False)
        contexts = (nullcontext(), self._fixed_statistics())  # of the forward pass and of its repetition
        return checkpoint(super().forward, x, use_reentrant=False, context_fn=lambda: contexts)

    @contextmanager
    def _fixed_statistics(self) -> Iterator[None]:
        """Keep the running statistics as they are: the repetition must not count the same batch twice."""
        before = []
        for norm in self.modules():
            if isinstance(norm, BATCH_NORMS) and norm.training and norm.num_batches_tracked is not None:
                before.append((norm, norm.momentum, norm.num_batches_tracked, norm.num_batches_tracked.clone()))
                norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum, counter, num_batches in before:
                norm.momentum = momentum
                counter.copy_(num_batches)
