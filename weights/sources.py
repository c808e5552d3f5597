"""Read files of weights: safetensors, torch.save, pickles of arrays, and our own checkpoints."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import InputError, first_line, shorten
from .checkpoints import backbone_state, find_checkpoint, is_checkpoint, is_run, load_content
from .file_problems import describe_wrong_file
from .recognition import peel
from .weight_files import read_weights_metadata

OUTER_PREFIX = r"(?:module|_orig_mod|model|backbone)\."  # added by what a network is wrapped in
MAX_REPEATED = 1 << 30  # bytes of a tensor that repeats its values, see torch.Tensor.expand


def read_content(path: Path) -> Any:
    """Return what a file of weights holds, see `load_content`.

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
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read weights file {shorten(path)}: {unreadable_reason(error, path)}") from None


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Return the state dict in a file of another library. Raises as `read_content` and `peel`."""
    return peel(read_content(path), shorten(path)).state


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file or of the last checkpoint of a run.

    A state dict under the key "state_dict" or "model" is unwrapped.

    Raises:
        InputError: the file does not exist, cannot be read or holds anything else, or a value is not finite.
    """
    return _state_dict(read_content(path), path)


def read_network_file(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a network of any family: `read_file` without wrappers and prefixes.

    Of our own checkpoints it is that of the backbone.

    Raises:
        InputError: as `read_file`, or the model of a checkpoint does not have a backbone.
    """
    content, where = read_content(path), shorten(path)
    if is_checkpoint(content):
        state = backbone_state(content, where)
    else:
        state = peel(content, where).state
        while all(re.match(OUTER_PREFIX, key) for key in state) and len({key.split(".")[0] for key in state}) == 1:
            state = {key.partition(".")[2]: value for key, value in state.items()}
    check_finite(state, where)
    return state


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
    check_finite(state, shorten(path))
    return state


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raise InputError if a value of a state dict is infinite or not a number."""
    for key, value in state.items():
        if value.numel() * value.element_size() > max(MAX_REPEATED, value.untyped_storage().nbytes()):
            raise InputError(f"weights file {where}: {shorten(key)} has {value.numel()} values from few bytes")
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"weights file {where} has a value that is not finite: {shorten(key)}")


def unreadable_reason(error: Exception, path: Path) -> str:
    """Return in one line why a file cannot be read.

    The messages of torch's unpickler name opcodes or advise to load the file unsafely, so they are replaced.
    """
    problem = describe_wrong_file(path)
    if problem:
        return f"it is {problem}"
    wanted = re.search(r"(?:Unsupported global:|unsupported) GLOBAL (\S+)", str(error))
    if wanted:
        return f"it is not a file of plain tensors: it wants to import {shorten(wanted[1])}; nothing was run"
    if isinstance(error, (OSError, RuntimeError, SafetensorError)):
        return first_line(error)
    return "it is not a file of plain tensors"
