"""Write and read checkpoints, which hold only what `torch.load(weights_only=True)` accepts."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ..errors import InputError, RunError, shorten
from ..weights.checkpoints import LAST, REQUIRED_KEYS, checkpoint_files, find_checkpoint, load_content
from ..weights.sources import unreadable_reason
from ..weights.weight_files import weights_file_content

TEMPORARY = "*.*-*.tmp"  # pattern of the names that `replace_file` gives to unfinished files


class CheckpointError(RunError):
    """A file of a run cannot be written."""


@contextlib.contextmanager
def replace_file(path: Path, keep: int = 1) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` at the end, when all of it is on the disk.

    After an exception the new file is removed, and `path` is as it was; if the system refuses to rename the new file
    itself, `path` is already the one before it. A process that is killed leaves a temporary file, see
    `remove_leftovers`, and at least one whole file of this rotation.

    Args:
        path: the file to replace.
        keep: number of files to keep, this one included: the one before `name.pt` becomes `name-1.pt`, and so on.

    Raises:
        CheckpointError: The file cannot be written, for example because the disk is full.
    """
    outer = sys.exception()  # that the caller handles
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        names = [path, *(path.with_stem(f"{path.stem}-{number}") for number in range(1, keep))]
        for newer, older in reversed([*pairwise(names)]):
            with contextlib.suppress(FileNotFoundError):
                os.replace(newer, older)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        cause = _cause(error, outer)
        if isinstance(cause, OSError):
            reason = cause.strerror or type(cause).__name__
            raise CheckpointError(f"{shorten(path)} cannot be written: {reason}") from None
        if cause is not error:
            raise cause from None
        raise


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, on systems that can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _cause(error: BaseException, outer: BaseException | None) -> BaseException:
    """Return the error of the system or the interruption after `outer` that torch.save covers with its own error."""
    cause: BaseException | None = error
    while cause not in (None, outer):
        if isinstance(cause, OSError) or not isinstance(cause, Exception):
            return cause
        cause = cause.__context__
    return error


def save_checkpoint(path: Path, content: Mapping[str, Any], keep: int = 1) -> None:
    """Write a checkpoint with `replace_file`. Raises CheckpointError if the system cannot write it."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)  # `damage` needs them
    try:
        with replace_file(path, keep) as file:
            torch.save(content, file)
    finally:
        torch.serialization.set_crc32_options(before)


def save_weights(path: Path, state: Mapping[str, Tensor], config: Mapping, metadata: Mapping) -> None:
    """Write weights alone as a `.safetensors` file, from which a model can be evaluated or fine-tuned.

    Raises:
        CheckpointError: The system cannot write the file, or config or metadata have a value that JSON does not have.
    """
    try:
        content = weights_file_content(state, config, metadata)
    except TypeError as error:
        raise CheckpointError(f"{shorten(path)} cannot be written: JSON has no form of {error}") from None
    with replace_file(path) as file:
        file.write(content)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes, and make the newest whole checkpoint `last.pt`.

    Damaged ones, which would otherwise push it out in the next rotation, are renamed to `<name>.damaged`. Only the
    process that holds the lock of the folder may call this.

    Raises:
        InputError: Every checkpoint is damaged; all of them are left as they are.
        CheckpointError: A file cannot be removed or renamed.
    """
    whole = find_checkpoint(folder)
    files = checkpoint_files(folder)
    try:
        for file in folder.glob(TEMPORARY):
            file.unlink(missing_ok=True)
        for file in files[: files.index(whole)]:
            os.replace(file, file.with_name(f"{file.name}.damaged"))
        os.replace(whole, folder / LAST)
    except OSError as error:
        raise CheckpointError(f"{shorten(folder)} cannot be cleaned: {error.strerror}") from None


def check_finite(state: Mapping[str, Any], where: str) -> None:
    """Raise RunError with the first tensor that has a NaN or infinite value.

    There is one synchronisation per device, not per tensor.

    Args:
        state: tensors by name; dicts, lists and tuples in it are searched too.
        where: what `state` is, for the message, such as "the state after iteration 200".
    """
    flags: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in _named_tensors(state):
        if tensor.is_floating_point() and tensor.numel():
            extremes = torch.stack(torch.aminmax(tensor.detach()))  # NaN if there is a NaN; faster than isfinite()
            flags.setdefault(tensor.device, {})[name] = extremes.isfinite().all()
    for named in flags.values():
        for name, is_finite in zip(named, torch.stack(list(named.values())).tolist()):
            if not is_finite:
                raise RunError(f"{where} has a value that is not finite: {shorten(name)}; it is not saved")


def _named_tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, (Mapping, list, tuple)):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from _named_tensors(value, f"{name}.{key}" if name else str(key))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint: "model", "config", "metadata", and unless it has weights alone, what resuming needs.

    Args:
        path: a file, or the folder of a run, see `find_checkpoint`.

    Raises:
        InputError: The file does not exist, is damaged or is not a checkpoint.
    """
    path = find_checkpoint(path)
    try:
        content = load_content(path)
    except Exception as error:
        raise InputError(f"checkpoint {shorten(path)} cannot be read: {unreadable_reason(error, path)}") from None
    values = content if isinstance(content, Mapping) else {}
    missing = [key for key in REQUIRED_KEYS if not isinstance(values.get(key), Mapping)]
    if missing:
        raise InputError(f"{shorten(path)} is not a detbackbones checkpoint (missing: {', '.join(missing)})")
    return content


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict. Raises InputError with the first differences unless keys and shapes are the model's."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        differences = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise InputError(f"checkpoint {where} does not fit the model: {differences[:300]}") from None


def load_optimizer(optimizer: Any, state: Mapping[str, Any], where: str) -> None:
    """Load the state of an optimizer; settings such as weight decay stay those that it was built with.

    Args:
        optimizer: a torch optimizer, or Accelerate's wrapper of one.
        state: what its `state_dict` returned.
        where: the origin of the state, for error messages.

    Raises:
        InputError: The state does not fit the parameters.
    """
    settings = optimizer.state_dict()["param_groups"]
    try:
        saved = state["param_groups"]
        expected, found = ([len(group["params"]) for group in groups] for groups in (settings, saved))
        if expected != found:
            raise ValueError(f"it has {_sizes(found)}, and the run trains {_sizes(expected)}")
        groups = [new | {"params": old["params"]} for new, old in zip(settings, saved)]
        optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                    shapes = f"{tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                    raise ValueError(f"{shorten(name)} has shape {shapes}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is not the state of an optimizer"
        raise InputError(
            f"the optimizer state of {shorten(where)} does not fit: {shorten(reason, 200)}; keep model, optimizer, "
            "norm_decay, bias_decay and backbone_lr_factor as saved, or start a new run with init_from="
        ) from None


def _sizes(groups: Sequence[int]) -> str:
    return f"{sum(groups)} tensors in {len(groups)} parameter group(s)"
