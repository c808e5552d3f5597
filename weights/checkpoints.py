"""Parts of the models in our own checkpoints, which the engine writes into the folder of a run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import InputError, shorten

REQUIRED_KEYS = ("model", "config", "metadata")
BACKBONE, STAGE = "backbone.", "roi_heads.stage."  # prefixes of a detector's keys


def find_checkpoint(path: str | Path) -> Path:
    """Return `path`, or `last.pt` in it if it is the folder of a run. Raises InputError if it does not exist."""
    path = Path(path)
    path = path / "last.pt" if path.is_dir() else path
    if not path.is_file():
        siblings = ", ".join(sorted(p.name for p in path.parent.glob("*.pt")))
        parent = shorten(path.parent)
        raise InputError(
            f"checkpoint {shorten(path)} does not exist; {parent} has {shorten(siblings) or 'no checkpoint'}"
        )
    return path


def is_checkpoint(content: Any) -> bool:
    """Return whether a file that torch has loaded is one of our checkpoints."""
    return isinstance(content, Mapping) and all(isinstance(content.get(key), Mapping) for key in REQUIRED_KEYS)


def part_config(checkpoint: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the config of a part of the model, such as "backbone"; empty if the model's config does not have it."""
    model = checkpoint["config"].get("model")
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
    """Return the backbone's state dict, with the stage that RoI heads took from it.

    Args:
        checkpoint: the content of a checkpoint.
        where: its name in the error message.

    Raises:
        InputError: the model does not have a backbone.
    """
    state = part_state(checkpoint, BACKBONE)
    if not state:
        raise InputError(f"the model in {where} does not have a backbone: no key starts with {BACKBONE!r}")
    stage = popped_stage(checkpoint)
    if stage is not None:  # torchvision's key of the stage: c5 is layer4
        prefix = f"layer{int(stage[1:]) - 1}."
        state |= {prefix + key: value for key, value in part_state(checkpoint, STAGE).items()}
    return state
