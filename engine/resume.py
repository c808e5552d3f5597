"""Continue a run: what its checkpoint must have, which config keys may have changed, and the log."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..errors import InputError, shorten
from ..weights.cards import STRUCTURE
from .checkpoint import read_checkpoint, replace_file
from .config import TrainConfig, flatten

RESUMABLE: dict[str, type] = {
    "optimizer": Mapping,
    "iteration": int,
    "samples": int,
    "evaluated_iteration": int,
    "best": Mapping,
}
REFUSED = ("task", "optimizer.type", "optimizer.amsgrad", "model")  # the optimizer's state would not fit
IGNORED = ("published",)  # information, which no run depends on


def resumable_state(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint from which a run can go on, as `read_checkpoint` does.

    Raises:
        InputError: It cannot be read, or does not have what resuming needs.
    """
    state = read_checkpoint(path)
    missing = [key for key, kind in RESUMABLE.items() if not isinstance(state.get(key), kind)]
    if missing:
        raise InputError(
            f"checkpoint {shorten(path)} cannot be resumed (missing: {', '.join(missing)}); start a new run from its "
            "weights with init_from="
        )
    return state


def adopt_settled(saved: Mapping[str, Any], config: TrainConfig) -> TrainConfig:
    """Return the config with what the backbone's weights settled when the run began.

    The weights may be gone, and then the config of this invocation does not say it. A run of an older version does not
    say it either; it was built with the defaults.

    Args:
        saved: the config in the checkpoint.
        config: the config of this invocation.
    """
    model = getattr(config, "model", None)
    parts = [values.get("backbone") if isinstance(values, Mapping) else None for values in (saved.get("model"), model)]
    if model is None or not all(isinstance(part, Mapping) for part in parts):
        return config
    old, new = (dict(part) for part in parts if part is not None)
    for name, default in STRUCTURE.items():
        if new.get(name) is None and old.get(name) is not None:
            new[name] = old[name]
        elif name not in old and new.get(name) == default:
            del new[name]
    return config.model_copy(update={"model": {**model, "backbone": new}})


def compare_configs(saved: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Return a line for each config key whose value differs from that in the checkpoint of the run to resume.

    Args:
        saved: the config in the checkpoint.
        config: the config of this invocation.

    Raises:
        InputError: Keys differ on which the model or the state of the optimizer depends.
    """
    old = _comparable(_defaults(type(config))) | _comparable(saved)
    new = _comparable(config.model_dump())
    differing = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    lines, refused = [], []
    for key in differing:
        change = f"{key} {_shown(old.get(key))} -> {_shown(new.get(key))}"
        if key == "init_from" or (key.startswith("model.") and key.endswith(".weights")):
            if new.get(key) is not None:
                lines.append(f"ignored: {key}={_shown(new[key])}, because the weights come from the checkpoint")
        elif any(key == name or key.startswith(f"{name}.") for name in REFUSED):
            refused.append(change)
        elif key.split(".")[0] not in IGNORED:
            lines.append(f"changed: {change}")
    if refused:
        raise InputError(
            f"a run cannot be resumed with other values of {shorten('; '.join(refused), 400)}; leave them as saved, or "
            "start a new run with init_from="
        )
    return lines


def _defaults(config_class: type[TrainConfig]) -> dict[str, Any]:
    """Return the defaults of keys that a config saved by an older version may not have."""
    defaults = {}
    for name, field in config_class.model_fields.items():
        if not field.is_required() and not field.exclude:
            value = field.get_default(call_default_factory=True)
            defaults[name] = value.model_dump() if isinstance(value, BaseModel) else value
    return defaults


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted key; tuples as lists, because a config file may have either."""
    return {key: _as_lists(value) for key, value in flatten(values)}


def _as_lists(value: Any) -> Any:
    return [_as_lists(each) for each in value] if isinstance(value, (list, tuple)) else value


def _shown(value: Any) -> str:
    return "none" if value is None else shorten(value, 40)


def continue_log(path: Path, iteration: int, is_evaluated_again: bool = False) -> None:
    """Remove from a log what a run writes again after it was resumed, and what a killed process left unfinished.

    Args:
        path: the log, one JSON object per line; it may not exist.
        iteration: iteration of the checkpoint; lines of later ones are removed.
        is_evaluated_again: remove also the metrics of this iteration, which are the lines without "lr".

    Raises:
        CheckpointError: The log cannot be written.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _is_kept(line, iteration, is_evaluated_again)]
    if kept != lines:
        with replace_file(path) as file:
            file.writelines(kept)


def _is_kept(line: bytes, iteration: int, is_evaluated_again: bool) -> bool:
    try:
        entry = json.loads(line)
        logged = int(entry.get("iteration", 0))
    except (ValueError, TypeError, AttributeError):
        return False
    is_whole = line.endswith(b"\n")
    return is_whole and (logged < iteration or (logged == iteration and not (is_evaluated_again and "lr" not in entry)))
