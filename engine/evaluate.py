"""Evaluation loop: run a model over a dataset for its metrics or its validation losses."""

from typing import Any

import torch
from accelerate.utils import send_to_device
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from ..data.loader import evaluation_loader
from ..errors import InputError
from ..layers.fuse import fuse_for_inference
from .task import Task


def progress_bars(console: Console) -> Progress:
    """Return progress bars that show in a terminal only. Every bar has a text field `note`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def drop_unreadable(task: Task, items: list, skipped: set[str]) -> list:
    """Return the readable items of a batch, and add the error messages of the others to `skipped`.

    Raises:
        InputError: An item cannot be read, and the config does not set `skip_unreadable`.
    """
    problems = [task.unreadable(item) for item in items]
    skipped |= {problem for problem in problems if problem is not None}
    if skipped and not task.config.skip_unreadable:
        raise InputError(f"{min(skipped)}; skip_unreadable=true skips such items")
    return [item for item, problem in zip(items, problems, strict=True) if problem is None]


@torch.inference_mode()
def evaluate(
    task: Task,
    model: nn.Module,
    dataset: Any,
    device: torch.device,
    workers: int,
    skipped: set[str],
    progress: Progress,
) -> tuple[dict[str, float], Any]:
    """Return the metrics of a model on a dataset, and the evaluator with its predictions.

    Args:
        task: decides what is predicted and how it is scored.
        model: the unwrapped model, on `device`; it is left in evaluation mode.
        dataset: the validation data.
        device: of the model.
        workers: loading processes.
        skipped: output; the error message of each unreadable item is added. Such items count as without predictions.
        progress: a bar is added to it.
    """
    model.eval()
    if device.type == "cpu":  # on a GPU the copy would drop the compiled modules
        model = fuse_for_inference(model)
    evaluator = task.evaluator(dataset)
    bar = progress.add_task("evaluate", total=len(dataset), note="")
    for batch in evaluation_loader(dataset, workers):
        items = drop_unreadable(task, batch, skipped)
        outputs = task.predict(model, send_to_device(items, device)) if items else []
        evaluator.update(items, send_to_device(outputs, "cpu"))
        progress.advance(bar)
    progress.update(bar, visible=False)
    return evaluator.compute(), evaluator


@torch.inference_mode()
def validation_losses(
    task: Task, model: nn.Module, dataset: Any, device: torch.device, workers: int, skipped: set[str]
) -> dict[str, float]:
    """Return the mean over items of every loss in evaluation mode as "val_<name>", and of their sum as "val_loss".

    The arguments are those of `evaluate`; the dataset is the task's `validation_loss_dataset`.

    Random sampling in the losses has a fixed seed, so that values of one run compare; the random state outside is kept.
    """
    model.eval()
    sums: dict[str, float] = {}
    count = 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for batch in evaluation_loader(dataset, workers):
            items = drop_unreadable(task, batch, skipped)
            losses = task.losses(model, send_to_device(items, device)) if items else {}
            values = {name.removeprefix("loss_"): float(value) for name, value in losses.items()}
            for name, value in {"loss": sum(values.values()), **values}.items():
                sums[f"val_{name}"] = sums.get(f"val_{name}", 0.0) + value * len(items)
            count += len(items)
    return {name: value / max(count, 1) for name, value in sums.items()}
