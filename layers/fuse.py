"""A copy of a model for inference: norms baked into convolutions, 3x3 convolutions in their fast form."""

import copy

import torch
from torch import nn

from ..backbones.blocks import Conv2d, DeepStem, DeformConv2d, Stage
from .norm import fold, folds
from .winograd import WinogradConv2d, suits

PLAIN = (nn.Conv2d, Conv2d, WinogradConv2d)  # exactly these: a subclass may do more, such as standardise its weights


def fuse_for_inference(model: nn.Module) -> nn.Module:
    """A copy of a backbone, neck or detector for deployment: evaluation mode, no gradients, norms baked in.

    A batch or frozen norm is baked into the convolution that it follows in an `nn.Sequential` or in a module of ours;
    others, such as group norms and those inside timm's networks, stay as they are. The copy's state dict has biases in
    place of those norms. On the CPU in float32 wide 3x3 convolutions run as `winograd.py` describes, which needs four
    times their memory; those of a stage at stride 32 do not, which would save 1 to 2 % of ResNet-50's time for more
    memory than all others take.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(fused.modules()):
        if type(module).forward is nn.Sequential.forward or getattr(module, "norms_follow", False):
            fold_into(module)
    coarse = {part for module in fused.modules() if isinstance(module, Stage) and module.spec.stride >= 32
              for part in module.modules()}  # fmt: skip
    for module in list(fused.modules()):
        for name, child in list(module.named_children()):
            known = type(child) in PLAIN and (child.weight.device.type, child.weight.dtype) == ("cpu", torch.float32)
            if known and child not in coarse and suits(child):
                setattr(module, name, WinogradConv2d(child).bake())
    return fused


@torch.no_grad()
def fold_into(parent: nn.Module) -> None:
    """Bake each norm that follows a convolution among the children of `parent` into it; Identity takes the norm's place."""
    before = None
    for name, child in list(parent.named_children()):
        if before is not None and folds(child):
            weight, bias = fold(before, child)
            before.weight = nn.Parameter(weight, requires_grad=False)
            before.bias = nn.Parameter(bias, requires_grad=False)
            setattr(parent, name, nn.Identity())
        before = child[-1] if isinstance(child, DeepStem) else child
        before = before if type(before) in (*PLAIN, DeformConv2d) else None
