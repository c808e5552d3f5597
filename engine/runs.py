"""Run folders, and the entry points that train or evaluate from a config."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from ..data.loader import worker_count
from ..errors import InputError
from .checkpoint import load_weights, read_checkpoint
from .config import TrainConfig, save_config
from .evaluate import evaluate, progress_bars
from .task import Task, build_task
from .trainer import Trainer

RUNS = Path("runs")
RUN_FILES = ("config.py", "log.jsonl", "metrics.json", "last.pt", "best.pt")


def run(config: TrainConfig, name: str = "run", console: Console | None = None) -> dict[str, float]:
    """Train a model, or evaluate one if the config sets `eval_only`.

    Args:
        config: a loaded config.
        name: the folder is `runs/<name>-<n>` unless the config has a `work_dir`.
        console: where progress is printed.

    Returns:
        The metrics, which are also written to `metrics.json`.

    Raises:
        InputError: An input cannot be used. All input is checked before anything is written.
        RunError: The loss is not finite.
    """
    return (evaluate_checkpoint if config.eval_only else train)(config, name, console or Console())


def train(config: TrainConfig, name: str, console: Console) -> dict[str, float]:
    """Train a model from its config, or continue a run."""
    folder = resolve_work_dir(config, name)
    state = read_checkpoint(folder) if config.resume else None
    task = build_task(config)
    training, validation = task.open_split("train"), task.open_split("val")
    metadata = task.metadata(training)
    _check_metadata(task.metadata(validation), metadata, "the validation data")
    if state is not None:
        _check_metadata(state["metadata"], metadata, f"the checkpoint in {folder}")
        saved = state["config"]["optimizer"]["type"]
        if saved != config.optimizer["type"]:
            raise InputError(f"optimizer.type must stay {saved} to resume {folder}, got {config.optimizer['type']}")
    torch.manual_seed(config.seed)
    model = _initial_model(task, metadata, state, console)
    trainer = Trainer(task, model, training, validation, folder, console, state)
    create_work_dir(folder, config)
    save_config(config, folder / "config.py")
    console.print(f"{name}: {len(training)} training and {len(validation)} validation items -> {folder}")
    metrics = trainer.fit()
    _report(task, metrics, trainer.unwrapped_model, validation, trainer.skipped, folder, console)
    return metrics


def evaluate_checkpoint(config: TrainConfig, name: str, console: Console) -> dict[str, float]:
    """Evaluate the checkpoint that a config names, with the model that it was trained as."""
    state = read_checkpoint(str(config.checkpoint))
    config = config.model_copy(update={"model": state["config"]["model"]})
    task = build_task(config)
    validation = task.open_split("val")
    _check_metadata(task.metadata(validation), state["metadata"], "the validation data")
    model = task.build_model(state["metadata"], load_weights=False)
    load_weights(model, state["model"], str(config.checkpoint))
    folder = resolve_work_dir(config, f"{name}-eval")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = worker_count(config.workers, device, processes=1)
    skipped: set[str] = set()
    with progress_bars(console) as progress:
        metrics = evaluate(task, model.to(device), validation, device, workers, skipped, progress)
    create_work_dir(folder, config)
    _report(task, metrics, model, validation, skipped, folder, console)
    return metrics


def resolve_work_dir(config: TrainConfig, name: str) -> Path:
    """Return the folder of a run without creating it: `work_dir`, the newest run to resume, or the next number."""
    if config.work_dir is not None:
        folder = Path(config.work_dir)
        if any((folder / file).exists() for file in RUN_FILES) and not (config.resume or config.overwrite):
            raise InputError(
                f"work_dir {folder} already holds a run; use resume=true, overwrite=true or another folder"
            )
        return folder
    matches = [re.fullmatch(rf"{re.escape(name)}-(\d+)", path.name) for path in RUNS.glob("*")]
    last = max((int(match[1]) for match in matches if match), default=0)
    if config.resume and not last:
        raise InputError(f"nothing to resume: {RUNS / name}-<n> does not exist; name the run with work_dir=")
    return RUNS / f"{name}-{last if config.resume else last + 1}"


def create_work_dir(folder: Path, config: TrainConfig) -> None:
    """Create the folder of a run; a training run with `overwrite` removes the files of the old one."""
    try:
        folder.mkdir(parents=True, exist_ok=config.work_dir is not None or config.resume)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be created: {error.strerror}") from None
    if config.overwrite and not config.eval_only:
        for file in RUN_FILES:
            (folder / file).unlink(missing_ok=True)


def saved_run(path: str) -> tuple[dict[str, Any], str]:
    """Return the config and the name of the run that a checkpoint, or a folder with one, belongs to."""
    resolved = Path(path).resolve()
    return read_checkpoint(path)["config"], resolved.name if resolved.is_dir() else resolved.parent.name


def _check_metadata(metadata: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise InputError(f"{where} has {key} {str(metadata.get(key)):.80}, expected {str(value):.80}")


def _initial_model(
    task: Task, metadata: Mapping[str, Any], state: Mapping[str, Any] | None, console: Console
) -> nn.Module:
    """Return the model with the weights of the checkpoint to resume, of `init_from`, or as the config builds it."""
    init_from = task.config.init_from
    model = task.build_model(metadata, load_weights=state is None and init_from is None)
    if state is not None:
        load_weights(model, state["model"], "to resume")
    elif init_from is not None:
        new_keys = ", ".join(task.start_from(model, init_from, metadata))
        new_parts = f"; new, because the number of classes differs: {new_keys}" if new_keys else ""
        console.print(f"started from {init_from}{new_parts}")
    return model


def _report(
    task: Task,
    metrics: Mapping[str, float],
    model: nn.Module,
    validation: Any,
    skipped: set[str],
    folder: Path,
    console: Console,
) -> None:
    """Print the metrics and what was skipped; write `metrics.json` and the pictures of the task."""
    if skipped:
        console.print(f"skipped {len(skipped)} item(s), first: {min(skipped)}")
    console.print(task.metrics_table(metrics))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    task.save_pictures(model, validation, folder, next(model.parameters()).device)
    console.print(f"results in {folder}")
