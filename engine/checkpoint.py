"""What a run leaves and starts from: `last.pt` and `best.pt`, plain tensors and numbers (`weights_only=True` reads them)."""

import os
from pathlib import Path

import torch
from torch import nn

from ..backbones.weights import why_unreadable
from ..registry import InputError

CLASS_LAYERS = ("cls_score.", "bbox_pred.", "mask_fcn_logits.")  # their shape follows the class count


def save_checkpoint(path: Path, content: dict) -> None:
    """Write beside the target, then move: a run that is killed leaves the old file whole."""
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def read_checkpoint(path: str | Path) -> dict:
    """{"model", "config", "classes": {"ids", "names"}, "iteration", ...}; InputError where `path` holds none."""
    path = Path(path)
    if path.is_dir():
        path = path / "last.pt"
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.pt")) if path.parent.is_dir() else []
        raise InputError(f"checkpoint {path} does not exist" + (f"; there: {', '.join(near)}" if near else ""))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"cannot read checkpoint {path}: {why_unreadable(error)}") from None
    if not isinstance(content, dict) or not {"model", "config", "classes"} <= content.keys():
        raise InputError(f"{path} is no checkpoint of this program (it wants model, config, classes)")
    return content


def load_model(model: nn.Module, state: dict, where: str) -> None:
    """All of `state`, exactly. InputError that names the first keys that differ."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise InputError(f"checkpoint {where} does not fit the model: {' '.join(lines)[:300]}") from None


def fine_tune_from(model: nn.Module, state: dict, where: str) -> list[str]:
    """Load `state`, except layers whose shape follows a class count that differs; returns the keys that start anew."""
    own = model.state_dict()
    anew = [key for key, value in own.items() if key in state and state[key].shape != value.shape
            and any(layer in key for layer in CLASS_LAYERS)]  # fmt: skip
    load_model(model, {key: own[key] if key in anew else value for key, value in state.items()}, where)
    return anew
