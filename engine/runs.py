"""Run folders, and the entry points that train or evaluate from a config."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text
from torch import nn

from ..data.loader import worker_count
from ..errors import InputError, shorten
from .checkpoint import load_weights, read_checkpoint
from .config import TrainConfig, save_config
from .console import plain_console
from .evaluate import evaluate, progress_bars
from .task import Split, Task, build_task
from .trainer import Trainer

RUNS = Path("runs")
RUN_FILES = ("config.py", "log.jsonl", "metrics.json", "last.pt", "best.pt")
RESULT_FILES = (
    *("predictions.json", "predictions_segm.json", "per_class.csv", "details.json"),
    *("predictions.png", "pr_curves.png", "confusion_matrix.png"),
)


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
    return (evaluate_checkpoint if config.eval_only else train)(config, name, console or plain_console())


def train(config: TrainConfig, name: str, console: Console) -> dict[str, float]:
    """Train a model from its config, or continue a run."""
    folder = resolve_work_dir(config, name)
    state = read_checkpoint(folder) if config.resume else None
    task = build_task(config)
    training, validation = _open_splits(task)
    if state is not None:
        task.adopt_metadata(training, state["metadata"], "the training data")
        saved = state["config"]["optimizer"]["type"]
        if saved != config.optimizer["type"]:
            raise InputError(f"optimizer.type must stay {saved} to resume {folder}, got {config.optimizer['type']}")
    metadata = task.metadata(training)
    task.adopt_metadata(validation, metadata, "the validation data")
    torch.manual_seed(config.seed)
    model = _initial_model(task, metadata, state, console)
    trainer = Trainer(task, model, training, validation, folder, console, state)
    create_work_dir(folder, config)
    save_config(config, folder / "config.py")
    console.print(Text(f"{name}: {len(training)} training and {len(validation)} validation items -> {folder}"))
    metrics = trainer.fit()
    _report(task, metrics, trainer.evaluator, trainer.unwrapped_model, validation, trainer.skipped, folder, console)
    return metrics


def evaluate_checkpoint(config: TrainConfig, name: str, console: Console) -> dict[str, float]:
    """Evaluate the checkpoint that a config names, with the model that it was trained as."""
    state = read_checkpoint(str(config.checkpoint))
    config = config.model_copy(update={"model": state["config"]["model"]})
    task = build_task(config)
    validation = task.open_split("val")
    task.adopt_metadata(validation, state["metadata"], "the validation data")
    model = task.build_model(state["metadata"], load_weights=False)
    load_weights(model, state["model"], str(config.checkpoint))
    folder = resolve_work_dir(config, f"{name}-eval")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = worker_count(config.workers, device, processes=1)
    skipped: set[str] = set()
    with progress_bars(console) as progress:
        metrics, evaluator = evaluate(task, model.to(device), validation, device, workers, skipped, progress)
    create_work_dir(folder, config)
    _report(task, metrics, evaluator, model, validation, skipped, folder, console)
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
        for file in (*RUN_FILES, *RESULT_FILES):
            (folder / file).unlink(missing_ok=True)


def saved_run(path: str) -> tuple[dict[str, Any], str]:
    """Return the config and the name of the run that a checkpoint, or a folder with one, belongs to."""
    resolved = Path(path).resolve()
    return read_checkpoint(path)["config"], resolved.name if resolved.is_dir() else resolved.parent.name


def _open_splits(task: Task) -> tuple[Any, Any]:
    """Open both splits; one error names the problems of both."""
    datasets, problems = [], []
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        try:
            datasets.append(task.open_split(split))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(" | ".join(dict.fromkeys(problems)))  # both splits may have the same, such as a missing folder
    return datasets[0], datasets[1]


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
        new_parts = f"; new, because the classes differ: {new_keys}" if new_keys else ""
        console.print(Text(f"started from {init_from}{new_parts}"))
    return model


def _report(
    task: Task,
    metrics: Mapping[str, float],
    evaluator: Any,
    model: nn.Module,
    validation: Any,
    skipped: set[str],
    folder: Path,
    console: Console,
) -> None:
    """Print the metrics and what was skipped; write `metrics.json`, the results and the pictures of the task."""
    if skipped:
        console.print(Text(f"skipped {len(skipped)} item(s), first: {shorten(min(skipped), 200)}"))
    console.print(task.metrics_table(metrics))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    details = task.save_results(evaluator, folder, is_last=True)
    if details is not None:
        console.print(details)
    task.save_pictures(model, validation, folder, next(model.parameters()).device)
    console.print(Text(f"results in {folder}"))
