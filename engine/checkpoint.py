"""Save and load `last.pt` and `best.pt`, which hold only what `torch.load(weights_only=True)` accepts."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..weights.checkpoints import REQUIRED_KEYS, find_checkpoint
from ..weights.sources import unreadable_reason


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write to a temporary file, then rename it, so that an interrupted run keeps the old checkpoint."""
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint: "model", "optimizer", "iteration", "best", "config" and "metadata"."""
    path = find_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"checkpoint {path} cannot be read: {unreadable_reason(error)}") from None
    missing = [key for key in REQUIRED_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path} is not a detbackbones checkpoint (missing: {', '.join(missing)})")
    return content


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict. Raises InputError with the first differences unless keys and shapes are the model's."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        differences = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise InputError(f"checkpoint {where} does not fit the model: {differences[:300]}") from None


def fine_tune(model: nn.Module, state: Mapping[str, Tensor], where: str, resizable: Sequence[str] = ()) -> list[str]:
    """Load a state dict to train on, except layers that depend on the number of classes and differ in shape.

    Buffers `num_batches_tracked` may be missing, as in weights trained with frozen norms. Any other difference is an
    InputError.

    Args:
        model: the model, whose weights are replaced.
        state: the state dict.
        where: its origin, for error messages.
        resizable: parts of keys of the layers that may differ in shape.

    Returns:
        The keys that keep their initial values.
    """
    initial = model.state_dict()
    counters = {key: value for key, value in initial.items() if key.endswith(".num_batches_tracked")}
    state = counters | dict(state)
    class_layers = [key for key in initial if key in state and any(layer in key for layer in resizable)]
    new_keys = [key for key in class_layers if state[key].shape != initial[key].shape]
    load_weights(model, state | {key: initial[key] for key in new_keys}, where)
    return new_keys
