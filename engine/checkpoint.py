"""What a run leaves and starts from: `last.pt` and `best.pt`, plain tensors and numbers (`weights_only=True` reads them)."""

import os
from pathlib import Path

import torch
from torch import nn

from ..weights.sources import why_unreadable
from ..weights.torchvision_detectors import CLASS_LAYERS, is_torchvision_state, torchvision_state
from ..errors import InputError


def save_checkpoint(path: Path, content: dict) -> None:
    """Write beside the target, then move: a run that is killed leaves the old file whole."""
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def _read(path: Path) -> tuple[Path, dict]:
    """What the file, or the `last.pt` of the folder, holds."""
    if path.is_dir():
        path = path / "last.pt"
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.pt")) if path.parent.is_dir() else []
        raise InputError(f"checkpoint {path} does not exist" + (f"; there: {', '.join(near)}" if near else ""))
    try:
        return path, torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"cannot read checkpoint {path}: {why_unreadable(error)}") from None


def read_checkpoint(path: str | Path) -> dict:
    """{"model", "config", "classes": {"ids", "names"}, "iteration", ...}; InputError where `path` holds none."""
    path, content = _read(Path(path))
    if not isinstance(content, dict) or not {"model", "config", "classes"} <= content.keys():
        raise InputError(f"{path} is no checkpoint of this program (it wants model, config, classes)")
    return content


def read_start(path: str | Path, class_names: list[str]) -> dict:
    """The state dict to fine-tune from: a checkpoint's, or one of torchvision's detectors with the rows of these classes."""
    _, content = _read(Path(path))
    if isinstance(content, dict) and is_torchvision_state(content):
        return torchvision_state(content, class_names)
    return read_checkpoint(path)["model"]


def load_model(model: nn.Module, state: dict, where: str) -> None:
    """All of `state`, exactly. InputError that names the first keys that differ."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise InputError(f"checkpoint {where} does not fit the model: {' '.join(lines)[:300]}") from None


def fine_tune_from(model: nn.Module, state: dict, where: str) -> list[str]:
    """Load `state`, except layers whose shape follows a class count that differs; returns the keys that start anew.

    Counters of batches seen may be absent, as in weights trained with frozen norm layers.
    """
    own = model.state_dict()
    state = {key: value for key, value in own.items() if key.endswith(".num_batches_tracked")} | dict(state)
    anew = [key for key, value in own.items() if key in state and state[key].shape != value.shape
            and any(layer in key for layer in CLASS_LAYERS)]  # fmt: skip
    load_model(model, {key: own[key] if key in anew else value for key, value in state.items()}, where)
    return anew
