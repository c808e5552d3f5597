"""Our own checkpoints, which the engine writes into the folder of a run: find, verify and read them and their parts."""

import functools
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, shorten
from .torch_files import load_torch_file
from .unpickling import is_plain_pickle, read_array_pickle
from .weight_files import read_weights_file

REQUIRED_KEYS = ("model", "config", "metadata")
BACKBONE, STAGE = "backbone.", "roi_heads.stage."  # prefixes of a detector's keys
LAST = "last.pt"
WEIGHTS_FILE = "model.safetensors"  # weights alone, of a finished run or of a saved model


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in the folder of a run from which it can go on, newest first: last.pt, last-1.pt, ..."""
    matches = [(re.fullmatch(r"last(?:-(\d+))?\.pt", path.name), path) for path in folder.glob("last*.pt")]
    numbered = {path: int(match[1] or 0) for match, path in matches if match}
    return sorted(numbered, key=numbered.__getitem__)


def is_run(path: Path) -> bool:
    """Return whether a path is a folder, or the `last.pt` in the folder of a run."""
    return os.path.isdir(path) or (path.name == LAST and bool(checkpoint_files(path.parent)))


def find_checkpoint(path: str | Path) -> Path:
    """Return the file that a path of a checkpoint or of the folder of a run stands for.

    For a folder, or the `last.pt` in it, that is `last.pt`, or if that is missing or damaged the newest checkpoint
    before it; then a line is printed. A folder without any of these, such as that of a saved model, stands for its
    `model.safetensors`.

    Raises:
        InputError: It does not exist, or every checkpoint of the run is damaged.
    """
    path = Path(path)
    if is_run(path):
        folder = path if os.path.isdir(path) else path.parent
        path = _newest_whole(folder) or folder / LAST
        if not path.exists() and (folder / WEIGHTS_FILE).is_file():
            path = folder / WEIGHTS_FILE
    if not os.path.isfile(path):
        siblings = ", ".join(sorted(p.name for p in path.parent.glob("*") if p.suffix in (".pt", ".safetensors")))
        parent = shorten(path.parent)
        raise InputError(
            f"checkpoint {shorten(path)} does not exist; {parent} has {shorten(siblings) or 'no checkpoint'}"
        )
    return path


def _newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint of a run that is not damaged; None if the folder does not have a checkpoint."""
    files = checkpoint_files(folder)
    problems = [] if not files or files[0].name == LAST else [f"{LAST} is missing"]
    for file in files:
        reason = damage(file)
        if reason is None:
            if problems:
                print_once(f"{shorten(folder)}: {file.name} is used because {'; '.join(problems)}")
            return file
        problems.append(f"{file.name} cannot be read ({reason})")
    if files:
        raise InputError(f"{shorten(folder)} has no checkpoint that can be used: {shorten('; '.join(problems), 600)}")
    return None


@functools.cache
def print_once(line: str) -> None:
    """Print a line once per process, and of several processes in the main one only."""
    if os.environ.get("RANK", "0") == "0":
        print(line)


def damage(path: Path) -> str | None:
    """Return in one line why a file of `save_checkpoint` is damaged, or None if all its checksums are right.

    torch.save writes a zip archive with a CRC-32 of every tensor, which torch.load does not check.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # an entry that says it is a folder: torch.load returns tensors of its name with any values
            folders = (entry.filename for entry in archive.infolist() if entry.external_attr)
            member = next(folders, None) or archive.testzip()
        if member is not None:
            return f"wrong checksum of {shorten(member)}"
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # checks headers that zipfile ignores
    except OSError as error:
        return error.strerror or type(error).__name__
    except pickle.UnpicklingError:  # it is whole, and has something that torch refuses to load
        return None
    except Exception:  # zipfile raises many kinds for damaged headers
        return "it is cut off, damaged or not a checkpoint"
    return None


def load_content(path: Path) -> Any:
    """Return what a file holds: `.safetensors`, a pickle of NumPy arrays, or else a file of `torch.save`.

    No reader runs code that a file contains: see `load_torch_file` and `read_array_pickle`.

    Raises:
        InputError: The file is a pickle that wants anything but arrays.
        RuntimeError: The file is a checkpoint of ours and damaged.
        Exception: Whatever the reader raises for any other file that it cannot read.
    """
    if path.suffix == ".safetensors":
        return read_weights_file(path)
    if is_plain_pickle(path):
        return read_array_pickle(path)
    reason = damage(path) if zipfile.is_zipfile(path) else None
    try:
        content = load_torch_file(path)
    except Exception:
        if reason is None:
            raise
        raise RuntimeError(reason) from None
    if reason is not None and is_checkpoint(content):  # torch can be told to write other files without checksums
        raise RuntimeError(reason)
    return content


def is_checkpoint(content: Any) -> bool:
    """Return whether a file that torch has loaded is one of our checkpoints."""
    return isinstance(content, Mapping) and all(isinstance(content.get(key), Mapping) for key in REQUIRED_KEYS)


def part_config(checkpoint: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the config of a part of the model, such as "backbone"; empty if the model's config does not have it.

    A saved backbone, which is a model by itself, has its config under "backbone".
    """
    model = checkpoint["config"].get("model", checkpoint["config"])
    config = model.get(part, {}) if isinstance(model, Mapping) else {}
    return {"type": config} if isinstance(config, str) else dict(config) if isinstance(config, Mapping) else {}


def part_state(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """Return the state dict of a part of the model, by the prefix of its keys."""
    return {key.removeprefix(prefix): value for key, value in checkpoint["model"].items() if key.startswith(prefix)}


def popped_stage(checkpoint: Mapping[str, Any]) -> str | None:
    """Return the level of the stage that RoI heads of the C4 form took from the backbone, such as "c5", or None."""
    stage = part_config(checkpoint, "roi_heads").get("stage")
    return stage if isinstance(stage, str) and re.fullmatch(r"c\d", stage) else None


def backbone_state(checkpoint: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Return the backbone's state dict, with the stage that RoI heads took from it; all of a saved backbone.

    Args:
        checkpoint: the content of a checkpoint.
        where: its name in the error message.

    Raises:
        InputError: the model does not have a backbone.
    """
    if "model" not in checkpoint["config"] and part_config(checkpoint, "backbone"):
        return dict(checkpoint["model"])
    state = part_state(checkpoint, BACKBONE)
    if not state:
        raise InputError(f"the model in {where} does not have a backbone: no key starts with {BACKBONE!r}")
    stage = popped_stage(checkpoint)
    if stage is not None:  # torchvision's key of the stage: c5 is layer4
        prefix = f"layer{int(stage[1:]) - 1}."
        state |= {prefix + key: value for key, value in part_state(checkpoint, STAGE).items()}
    return state
