"""Fold a frozen batch norm into the convolution before it in each forward pass, differentiably."""

import weakref
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from .norm import BATCH_NORMS, BatchNormEval2d


def can_fold(norm: nn.Module) -> bool:
    """Return whether `norm` is an affine map with constants now: frozen, or a batch norm in evaluation mode.

    Subclasses are not folded, because they may do more, as timm's batch norm with an activation does.
    """
    if isinstance(norm, BATCH_NORMS) and type(norm) in (BatchNormEval2d, *BATCH_NORMS):
        return not norm.training and norm.track_running_stats and norm.affine
    return type(norm) is FrozenBatchNorm2d


def fold_norm(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Return (weight, bias) of the one convolution that equals `norm(conv(x))`, differentiable in all parameters.

    The product is computed in float32 or better and returned in the dtype of the convolution's weight, so that neither
    autocast nor a model in half precision rounds the norm's constants first.
    """
    dtype = torch.promote_types(conv.weight.dtype, torch.float32)
    scale = norm.weight.to(dtype) * (norm.running_var.to(dtype) + norm.eps).rsqrt()
    bias = norm.bias.to(dtype) - norm.running_mean.to(dtype) * scale
    if conv.bias is not None:
        bias = bias + conv.bias.to(dtype) * scale
    weight = conv.weight.to(dtype) * scale.view(-1, 1, 1, 1)
    return weight.to(conv.weight.dtype), bias.to(conv.weight.dtype)


class RefoldInBackward(torch.autograd.graph.saved_tensors_hooks):
    """Context in which autograd does not keep a folded weight; the backward pass folds again.

    The folded weights are a second copy of the network: 94 MB for ResNet-50. Folding again takes about a hundredth of
    the backward pass.

    Args:
        conv, norm: the layers that were folded.
        weight: the folded weight that the convolution inside the context uses.
    """

    def __init__(self, conv: nn.Conv2d, norm: Any, weight: Tensor):
        super().__init__(self.pack, self.unpack)
        self.conv, self.norm = conv, norm
        self.weight = weakref.ref(weight)
        self.versions = (conv.weight._version, norm.weight._version)

    def pack(self, saved: Tensor) -> Tensor | None:
        """Return what autograd keeps in place of `saved`: None for the folded weight."""
        return None if saved is self.weight() else saved

    def unpack(self, saved: Tensor | None) -> Tensor:
        """Return what the backward pass needs in place of `saved`."""
        if saved is not None:
            return saved
        if self.versions != (self.conv.weight._version, self.norm.weight._version):
            raise RuntimeError("weights were changed in place between the forward and the backward pass")
        return fold_norm(self.conv, self.norm)[0]


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """Compute `norm(conv(x))`, as one convolution if the norm can be folded.

    Args:
        x: N x C x H x W.
        conv: an `nn.Conv2d`; subclasses take part through their `_conv_forward(x, weight, bias)`.
        norm: the norm layer behind it.
    """
    if not can_fold(norm):
        return norm(conv(x))
    assert isinstance(conv, nn.Conv2d)
    weight, bias = fold_norm(conv, norm)
    with ExitStack() as stack:
        if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
            # torch.func does not allow these hooks; autograd keeps the folded weight there
            with suppress(RuntimeError):
                stack.enter_context(RefoldInBackward(conv, norm, weight))
        return conv._conv_forward(x, weight, bias)
