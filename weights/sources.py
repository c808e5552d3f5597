"""Where pretrained weights come from: `torchvision:<name of its enum>` or the path of a state dict."""

import os
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from ..errors import InputError, did_you_mean


def read_weights(source: str, architecture: str) -> dict[str, Tensor]:
    """The state dict that `source` names, for a torchvision architecture such as "resnet50".

    `torchvision:IMAGENET1K_V1` downloads once, with a progress bar and torchvision's own hash check, into torch's hub
    cache; a path is read with `weights_only=True`. Raises InputError where there is nothing to read.
    """
    kind, _, name = str(source).partition(":")
    if kind == "torchvision" and name:
        return _from_torchvision(name, architecture)
    return read_file(Path(source))


def _from_torchvision(name: str, architecture: str) -> dict[str, Tensor]:
    try:
        enum = get_model_weights(architecture)
    except ValueError:
        raise InputError(f"weights='torchvision:{name}': torchvision has no {architecture}") from None
    if name not in enum.__members__:
        raise InputError(f"torchvision has no weights {name!r} for {architecture}; {did_you_mean(name, enum.__members__)}")
    weights = enum[name]
    target = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(weights.url)
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"cannot download {weights.url} ({reason}); put the file at {target}") from None
    except Exception as error:  # a cut or foreign file: whatever torch's unpickler says of it
        raise InputError(f"cannot read {target}: {why_unreadable(error)}; delete it to download again") from None


def read_file(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of torch.save (read with `weights_only=True`) or in a .safetensors file."""
    if not path.is_file():
        raise InputError(f"weights file {path} does not exist (a named source looks like torchvision:IMAGENET1K_V1)")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"cannot read weights file {path}: {why_unreadable(error)}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights file {path} holds no state dict")
    return state


def why_unreadable(error: Exception) -> str:
    """What torch.load's error means; the unpickler's own words are an opcode, or the advice to load the file unsafely."""
    return first_line(error) if isinstance(error, (OSError, RuntimeError, SafetensorError)) else "no file of plain tensors"


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """The first convolution's weight, O x 3 x k x k, for images of another number of channels.

    One channel gets the sum over RGB, others RGB repeated and scaled to keep the response (timm's `adapt_input_conv`).
    """
    given = weight.shape[1]
    if channels == given:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, -(-channels // given), 1, 1)[:, :channels] * (given / channels)


def load_state(module: nn.Module, state: dict[str, Tensor], unwanted: tuple[str, ...], fresh: tuple[str, ...], source: str) -> None:
    """Load `state`; it must fit exactly, but for what is named here.

    Args:
        unwanted: starts of keys to leave out.
        fresh: parts of keys that `state` need not have.
        source: what the error calls the weights.

    BatchNorm's `num_batches_tracked` may be absent on either side. Raises InputError that lists the keys which are
    missing, unexpected, of another shape or not finite.
    """
    state = {k: v for k, v in state.items() if not k.startswith(unwanted)} if unwanted else state
    wanted = module.state_dict()
    optional = (".num_batches_tracked",)
    problems = [f"wrong shape {k}: {tuple(state[k].shape)} for {tuple(v.shape)}"
                for k, v in wanted.items() if k in state and state[k].shape != v.shape]  # fmt: skip
    problems += [f"missing {k}" for k in wanted
                 if k not in state and not k.endswith(optional) and not any(part in k for part in fresh)]  # fmt: skip
    problems += [f"unexpected {k}" for k in state if k not in wanted and not k.endswith(optional)]
    problems += [f"not finite {k}" for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise InputError(f"weights {source} do not fit: {'; '.join(problems[:6])}{more}")
    module.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=False)
