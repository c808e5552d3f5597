"""Make a copy of a model for inference: norms folded for good, convolutions in the fastest form of the CPU."""

import copy
from collections import Counter
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from ..specs import FeatureSpec
from .conv import DeformConv2d
from .fold import can_fold, fold_norm
from .packed_conv import PackedConv2d, can_pack
from .winograd_conv import WinogradConv2d, supports_winograd

# exact types: a subclass may do more, such as standardise its weights
WINOGRAD_CONVS = (nn.Conv2d, WinogradConv2d)
FOLDABLE_CONVS = (*WINOGRAD_CONVS, DeformConv2d)

Model = TypeVar("Model", bound=nn.Module)


def fuse_for_inference(model: Model, optimize: bool = True) -> Model:
    """Return a copy of a backbone, neck or detector for deployment: evaluation mode, no gradients, norms folded.

    A batch or frozen norm is folded into the convolution that it directly follows in an `nn.Sequential`, or if their
    parent lists them in `conv_norm_pairs`. Other norms stay, such as group norms, those inside timm's networks, and
    those behind a convolution that the model has in several places. The copy's state dict has biases in place of the
    folded norms.

    On the CPU in float32, wide 3x3 convolutions run in Winograd's form (`winograd.py`) with pre-transformed weights,
    which take four times the memory. It is not used in stages at stride 32: 1 to 2 % of ResNet-50's time is not worth
    more memory than all other layers together. The other convolutions keep a second copy of their weights in oneDNN's
    layout from their first call (`packed_conv.py`).

    Args:
        model: the backbone, neck or detector.
        optimize: False only folds norms: for export to other runtimes, which have convolutions of their own.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    places = Counter(id(child) for module in fused.modules() for child in module._modules.values())
    for module in list(fused.modules()):
        pairs = list(getattr(module, "conv_norm_pairs", ()))
        if type(module).forward is nn.Sequential.forward:
            pairs += pairwise(module._modules)  # unlike named_children(), it repeats modules that occur again
        for conv_name, norm_name in pairs:
            if places[id(module.get_submodule(conv_name))] == 1:  # each place may have a norm of its own
                _bake_norm(module, conv_name, norm_name)
    if optimize:
        _bake_winograd(fused)
        _pack_convs(fused)
    return fused


@torch.no_grad()
def _bake_norm(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    """Replace the norm by an identity and give the convolution the folded weight and bias."""
    conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
    if not isinstance(conv, nn.Conv2d) or type(conv) not in FOLDABLE_CONVS or not can_fold(norm):
        return
    weight, bias = fold_norm(conv, norm)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)
    parent.set_submodule(norm_name, nn.Identity())


def _bake_winograd(module: nn.Module) -> None:
    """Transform the weights of the convolutions that support Winograd's form, except in stages at stride 32."""
    spec = getattr(module, "spec", None)
    if isinstance(spec, FeatureSpec) and spec.stride >= 32:
        return
    for name, child in list(module.named_children()):
        _bake_winograd(child)
        if isinstance(child, nn.Conv2d) and type(child) in WINOGRAD_CONVS and supports_winograd(child):
            if child.weight.device.type == "cpu" and child.weight.dtype == torch.float32:
                setattr(module, name, WinogradConv2d(child).precompute())


def _pack_convs(model: nn.Module) -> None:
    """Replace the remaining plain float32 convolutions on the CPU by packed ones."""
    if not can_pack():
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and type(child) in WINOGRAD_CONVS and child.padding_mode == "zeros":
                is_direct = getattr(child, "transformed_weight", None) is None
                if is_direct and not isinstance(child.padding, str) and child.weight.device.type == "cpu":
                    setattr(module, name, PackedConv2d(child))
