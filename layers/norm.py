"""Normalisation: the kinds by name, their meaning when none is given, conversion, and folding into a convolution.

Words: statistics = running mean and variance; affine = weight and bias. "frozen" fixes both as constants, "batch_eval"
fixes the statistics and lets the affine train, "batch" and "sync" are live, "group" has no statistics.
"""

import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ..errors import InputError, did_you_mean

Norm = Callable[[int], nn.Module]  # channels -> norm layer
LIVE = (nn.BatchNorm2d, nn.SyncBatchNorm)


class BatchNormEval2d(nn.BatchNorm2d):
    """Batch norm whose statistics stay fixed in training while its affine trains (mmdetection's `norm_eval`)."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval()

    def train(self, mode: bool = True):
        return super().train(False)


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """Group norm of 32 groups (Wu and He 2018, arXiv:1803.08494)."""
    return nn.GroupNorm(32, channels, eps=eps)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "batch_eval": BatchNormEval2d,
    "frozen": FrozenBatchNorm2d,
    "sync": nn.SyncBatchNorm,
    "group": group_norm,
}


def resolve_norm(norm: str | Norm | None, weights: str | None, freeze: int, eps: float) -> Norm:
    """The constructor of norm layers that a backbone's arguments ask for; not given: frozen with weights, else batch.

    Fixing what was never trained is refused (a network of frozen random layers does not learn, torchvision issue 2164).
    """
    if norm is None:
        norm = "frozen" if weights else "batch"
    if not weights and (norm == "frozen" or freeze > 0):
        asked = "norm='frozen'" if norm == "frozen" else f"freeze={freeze}"
        raise InputError(f"{asked} without weights would fix random layers; give weights, or norm='batch' and freeze=0")
    if callable(norm):
        return norm
    if norm not in NORMS:
        raise InputError(f"unknown norm {norm!r}; {did_you_mean(str(norm), NORMS)}")
    return partial(NORMS[norm], eps=eps)


def convert_norm(module: nn.Module, to: str) -> nn.Module:
    """Replace every batch norm of a built model by another kind that has the same statistics and affine values.

    Args:
        module: any model; it is changed in place.
        to: "frozen", "batch", "batch_eval" or "sync".

    Returns `module`, or its replacement where it is a norm layer itself.

    Raises InputError for a kind without statistics.
    """
    if to not in NORMS or to == "group":
        raise InputError(f"norm cannot become {to!r}; {did_you_mean(str(to), set(NORMS) - {'group'})}")
    if isinstance(module, (FrozenBatchNorm2d, *LIVE)):
        if type(module) is NORMS[to]:
            return module
        new = NORMS[to](len(module.running_mean), eps=module.eps).to(module.running_mean)
        new.load_state_dict({k: v for k, v in module.state_dict().items() if k in new.state_dict()}, strict=False)
        return new.train(module.training)
    for name, child in module.named_children():
        replacement = convert_norm(child, to)
        if replacement is not child:
            setattr(module, name, replacement)
    return module


def folds(norm: nn.Module) -> bool:
    """Whether `norm` is an affine map with constants now: frozen, or a batch norm in evaluation mode.

    A subclass of these is none: it may do more, as timm's batch norm with an activation does.
    """
    if type(norm) is FrozenBatchNorm2d:
        return True
    live = type(norm) in (BatchNormEval2d, *LIVE)
    return live and not norm.training and norm.track_running_stats and norm.affine


def fold(conv: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the convolution that does what `conv` and then `norm` do, differentiable in all parameters.

    Computed in float32 or better and handed on in the weight's own dtype, so that neither autocast nor a model in half
    precision rounds the norm's constants before they are multiplied.
    """
    exact = torch.promote_types(conv.weight.dtype, torch.float32)
    scale = norm.weight.to(exact) * (norm.running_var.to(exact) + norm.eps).rsqrt()
    shift = norm.bias.to(exact) - norm.running_mean.to(exact) * scale
    if conv.bias is not None:
        shift = shift + conv.bias.to(exact) * scale
    weight = conv.weight.to(exact) * scale.view(-1, 1, 1, 1)
    return weight.to(conv.weight.dtype), shift.to(conv.weight.dtype)


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """`norm(conv(x))`, as one convolution with folded weights where the norm is an affine map with constants.

    The folded weights are a second copy of the network. Autograd would keep it for the backward pass, which folds again
    instead: a hundredth of the time, and 94 MB less for ResNet-50.
    """
    if not folds(norm):
        return norm(conv(x))
    weight, bias = fold(conv, norm)
    if not (torch.is_grad_enabled() and x.requires_grad) or torch.compiler.is_compiling():
        return conv.convolve(x, weight, bias)
    sources = (conv.weight, norm.weight)
    versions = [source._version for source in sources]
    folded = weakref.ref(weight)

    def pack(saved: Tensor) -> Tensor | None:
        return None if saved is folded() else saved

    def unpack(saved: Tensor | None) -> Tensor:
        if saved is not None:
            return saved
        if versions != [source._version for source in sources]:
            raise RuntimeError("weights were changed in place between the forward and the backward pass")
        return fold(conv, norm)[0]  # without a graph, unless second derivatives are asked for

    with ExitStack() as stack:
        with suppress(RuntimeError):  # the transforms of torch.func refuse such hooks; under them the copy is kept
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        return conv.convolve(x, weight, bias)
