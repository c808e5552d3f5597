"""Read a state dict from a file, or from a named source such as `torchvision:IMAGENET1K_V1`."""

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from torch import Tensor
from torchvision.models import get_model_weights

from ..errors import InputError, check_known, shorten
from .checkpoints import backbone_state, find_checkpoint, is_checkpoint, is_run, load_content
from .weight_files import read_weights_metadata


def read_weights(source: str, architecture: str) -> dict[str, Tensor]:
    """Return the state dict of a source.

    Args:
        source: `torchvision:IMAGENET1K_V1`, downloaded once with torchvision's own hash check into torch's hub cache,
            or the path of a file or of a run, see `read_backbone_file`.
        architecture: torchvision's name of the network, such as "resnet50".

    Raises:
        InputError: the source is unknown, cannot be downloaded or cannot be read.
    """
    kind, _, name = str(source).partition(":")
    if kind == "torchvision" and name:
        return _read_torchvision(name, architecture)
    return read_backbone_file(Path(source))


def _read_torchvision(name: str, architecture: str) -> dict[str, Tensor]:
    try:
        enum = get_model_weights(architecture)
    except ValueError:
        raise InputError(f"weights='torchvision:{name}': torchvision has no {architecture}") from None
    check_known(f"torchvision weights of {architecture}:", enum.__members__, name)
    weights = enum[name]
    target = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"cannot download {weights.url} ({reason}); put the file at {target}") from None
    except Exception as error:  # a truncated or foreign file raises whatever torch's unpickler meets
        raise InputError(f"cannot read {target}: {unreadable_reason(error)}; delete it to download again") from None


def read_content(path: Path) -> Any:
    """Return what a `.safetensors` file holds, or a file of `torch.save`, read with `weights_only=True`.

    A folder, and the `last.pt` in it, stand for the file that `find_checkpoint` returns. A `.safetensors` file of ours
    has the keys of a checkpoint.

    Raises:
        InputError: the file does not exist or cannot be read.
    """
    if is_run(path):
        path = find_checkpoint(path)
    if not path.is_file():
        named = "a named source looks like torchvision:IMAGENET1K_V1"
        raise InputError(f"weights file {shorten(path)} does not exist ({named})")
    try:
        return load_content(path)
    except Exception as error:
        raise InputError(f"cannot read weights file {shorten(path)}: {unreadable_reason(error)}") from None


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file or of the last checkpoint of a run.

    A state dict under the key "state_dict" or "model" is unwrapped.

    Raises:
        InputError: the file does not exist, cannot be read or holds anything else, or a value is not finite.
    """
    return _state_dict(read_content(path), path)


def read_backbone_file(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file as `read_file` does; of our own checkpoints, only that of the backbone.

    Raises:
        InputError: as `read_file`, or the model of a checkpoint does not have a backbone.
    """
    content = read_content(path)
    return _state_dict(backbone_state(content, shorten(path)) if is_checkpoint(content) else content, path)


def read_metadata(source: str) -> dict[str, Any]:
    """Return the metadata of a run or checkpoint of ours, such as its images' mean and std; {} for other sources."""
    path = find_checkpoint(source) if is_run(Path(source)) else Path(source)
    if not os.path.isfile(path):
        return {}
    try:
        if path.suffix == ".safetensors":
            return read_weights_metadata(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # reads no tensor
    except Exception:  # a damaged file, or one in torch's old format
        return {}
    return dict(content["metadata"]) if is_checkpoint(content) else {}


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in the content of a file. Raises as `read_file`."""
    state = content
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights file {shorten(path)} does not hold a state dict")
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"weights file {shorten(path)} has a value that is not finite: {shorten(key)}")
    return state


def unreadable_reason(error: Exception) -> str:
    """Return in one line why `torch.load` failed.

    The unpickler's own messages name opcodes or advise to load the file unsafely, so they are replaced.
    """
    if isinstance(error, (OSError, RuntimeError, SafetensorError)):
        return first_line(error)
    return "it is not a file of plain tensors"


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or the name of its class if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
