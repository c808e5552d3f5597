"""Create norm layers by name, and convert the norm layers of an existing model.

Statistics are the running mean and variance, affine values are weight and bias. "frozen" fixes both as constants,
"batch_eval" fixes the statistics and trains the affine values, "batch" and "sync" train both. "group" does not have
statistics.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ..errors import InputError, check_known, shorten

Norm = Callable[[int], nn.Module]  # number of channels -> norm layer
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


class BatchNormEval2d(nn.BatchNorm2d):
    """Batch norm with fixed statistics and trained affine values (`norm_eval=True` of mmdetection)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.eval()

    def train(self, mode: bool = True) -> "BatchNormEval2d":
        return super().train(False)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "batch_eval": BatchNormEval2d,
    "frozen": FrozenBatchNorm2d,
    "sync": nn.SyncBatchNorm,
    "group": partial(nn.GroupNorm, 32),  # Wu and He 2018, arXiv:1803.08494
}


def norm_constructor(name: str) -> Callable[..., nn.Module]:
    """Return the constructor of a norm by name.

    Raises:
        InputError: the name is unknown.
    """
    check_known("norm", NORMS, name)
    return NORMS[name]


def resolve_norm(norm: str | Norm | None, weights: str | bool | None, freeze: int, eps: float | None = None) -> Norm:
    """Return the norm constructor for a backbone's arguments.

    Args:
        norm: a name, a callable, or None for "frozen" with weights and "batch" without.
        weights: where pretrained weights come from, or whether there are any; None for random weights.
        freeze: number of parts that stay fixed.
        eps: epsilon of a norm that is given by name; None for 1e-5.

    Raises:
        InputError: the name is unknown, a callable gets an epsilon, or random layers would be fixed. A network of
            frozen random layers does not learn (torchvision issue 2164).
    """
    if norm is None:
        norm = "frozen" if weights else "batch"
    if not weights and (norm == "frozen" or freeze):
        setting = "norm='frozen'" if norm == "frozen" else f"freeze={freeze}"
        raise InputError(
            f"{setting} without weights would fix random layers; give weights, or norm='batch' and freeze=0"
        )
    if not callable(norm):
        return partial(norm_constructor(norm), eps=1e-5 if eps is None else eps)
    if eps is not None:
        raise InputError(f"norm_eps={eps:g} needs a norm given by name; a callable norm sets its epsilon itself")
    return norm


def convert_norm(module: nn.Module, to: str) -> nn.Module:
    """Replace every batch norm of a built model by another kind with the same statistics and affine values.

    Args:
        module: any model; it is changed in place.
        to: "frozen", "batch", "batch_eval" or "sync".

    Returns:
        `module`, or its replacement if it is a norm layer itself.

    Raises:
        InputError: `to` is unknown or has no statistics.
    """
    check_known("norm with statistics", set(NORMS) - {"group"}, to)
    if isinstance(module, (FrozenBatchNorm2d, *BATCH_NORMS)):
        if type(module) is NORMS[to]:
            return module
        if type(module) not in (FrozenBatchNorm2d, BatchNormEval2d, *BATCH_NORMS):
            raise InputError(f"cannot convert {type(module).__name__}: a subclass of batch norm may do more")
        mean = module.running_mean
        assert mean is not None, "a norm without running statistics cannot be converted"
        with mean.device:
            new = NORMS[to](len(mean), eps=module.eps).to(mean)
        new.load_state_dict(module.state_dict(), strict=False)  # frozen norms do not count batches
        new.momentum = vars(module).get("momentum", 0.1)
        return new.requires_grad_(all(p.requires_grad for p in module.parameters())).train(module.training)
    for name, child in module.named_children():
        replacement = convert_norm(child, to)
        if replacement is not child:
            setattr(module, name, replacement)
    return module


@contextmanager
def keep_running_statistics(model: nn.Module) -> Iterator[None]:
    """Undo what forward passes inside the context do to buffers of modules in training mode, bit for bit.

    These are the running statistics of live batch norms and their number of batches. Batches are still normalised with
    their own statistics. For passes without gradients: a backward pass after the context raises an error, because
    autograd keeps the running statistics.
    """
    buffers = [buffer for module in model.modules() if module.training for buffer in module.buffers(recurse=False)]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved):
                buffer.copy_(value)


def check_sync_norms(model: nn.Module, device: torch.device) -> None:
    """Check that "sync" norms can train in several processes on this device.

    In a single process without a process group they are batch norms, on any device.

    Raises:
        InputError: the model has a `torch.nn.SyncBatchNorm`, which needs a GPU.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    if names and device.type == "cpu":
        raise InputError(
            f"norm='sync' of {shorten(names[0])} needs a GPU in a distributed training; use norm='batch' or "
            "norm='group' on a CPU"
        )
