"""Normalisation of a backbone, and which of its parts stay fixed."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ..registry import InputError, nearest

NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}


def resolve_norm(norm: str | None, weights: str | None, freeze: int) -> str:
    """What "not given" means: frozen with weights, live batch norm without.

    Fixing what was never trained is refused (a network of frozen random layers does not learn, torchvision issue 2164).
    """
    if norm is None:
        norm = "frozen" if weights else "batch"
    if norm not in NORMS:
        raise InputError(f"unknown norm {norm!r}; {nearest(str(norm), NORMS)}")
    if not weights and (norm == "frozen" or freeze > 0):
        asked = "norm='frozen'" if norm == "frozen" else f"freeze={freeze}"
        raise InputError(f"{asked} without weights would fix random layers; give weights, or norm='batch' and freeze=0")
    return norm


def norm_layer(norm: str, eps: float) -> Callable[[int], nn.Module]:
    """A constructor channels -> norm module."""
    return partial(NORMS[norm], eps=eps)


def freeze_parts(parts: Sequence[Sequence[nn.Module]]) -> None:
    """Take the parameters of these parts out of training. Statistics: see keep_frozen."""
    for part in parts:
        for module in part:
            module.requires_grad_(False)


def keep_frozen(parts: Sequence[Sequence[nn.Module]]) -> None:
    """Put frozen parts back into eval mode, so that `.train()` never lets their statistics move."""
    for part in parts:
        for module in part:
            module.eval()
