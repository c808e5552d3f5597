"""Read a state dict from a file, or from a named source such as `torchvision:IMAGENET1K_V1`."""

import os
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model_weights

from ..errors import InputError, check_known


def read_weights(source: str, architecture: str) -> dict[str, Tensor]:
    """Return the state dict of a source.

    Args:
        source: `torchvision:IMAGENET1K_V1`, downloaded once with torchvision's own hash check into torch's hub cache,
            or the path of a file, see `read_file`.
        architecture: torchvision's name of the network, such as "resnet50".

    Raises:
        InputError: the source is unknown, cannot be downloaded or cannot be read.
    """
    kind, _, name = str(source).partition(":")
    if kind == "torchvision" and name:
        return _read_torchvision(name, architecture)
    return read_file(Path(source))


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


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a `.safetensors` file, or of a file of `torch.save` read with `weights_only=True`.

    A state dict under the key "state_dict" or "model" is unwrapped.

    Raises:
        InputError: the file does not exist, cannot be read or holds anything else, or a value is not finite.
    """
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist (a named source looks like torchvision:IMAGENET1K_V1)")
    try:
        is_safetensors = path.suffix == ".safetensors"
        state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"cannot read weights file {path}: {unreadable_reason(error)}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights file {path} does not hold a state dict")
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"weights file {path} has a value that is not finite: {key}")
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
