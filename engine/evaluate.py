"""Evaluation loop: run a model over a dataset for its metrics or its validation losses."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from rich.progress import Progress
from torch import nn

from ..data.loader import evaluation_loader
from ..errors import InputError
from ..layers.fuse import fuse_for_inference
from .distributed import from_main_process
from .failures import attempt
from .signals import StopSignals, ignore_stop_signals
from .task import Task


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


@dataclass
class Evaluation:
    """Run a model over a dataset; each process takes its share of the items, and all processes get the same numbers.

    Args:
        task: decides what is predicted and how it is scored.
        accelerator: the connection to the other processes.
        workers: loading processes.
        progress: a bar is added to it.
        signals: a signal ends the evaluation.
        skipped: error messages of unreadable items. Such items count as without predictions.
    """

    task: Task
    accelerator: Accelerator
    workers: int
    progress: Progress
    signals: StopSignals
    skipped: set[str] = field(default_factory=set)

    @torch.inference_mode()
    def metrics(self, model: nn.Module, dataset: Any) -> tuple[dict[str, float], Any]:
        """Return the metrics of a model on a dataset, and the evaluator with the predictions for all items.

        Args:
            model: the unwrapped model, on the accelerator's device; it is left in evaluation mode.
            dataset: the validation data.
        """
        model.eval()
        if self.accelerator.device.type == "cpu":  # on a GPU the copy would drop the compiled modules
            model = fuse_for_inference(model)
        evaluator = self.task.evaluator(dataset)

        def predict_share() -> None:
            for items in self._readable_items(dataset):
                with self.accelerator.autocast():
                    outputs = self.task.predict(model, items)
                evaluator.update(items, send_to_device(outputs, "cpu"))

        attempt(self.accelerator, self.task.config, predict_share)
        if self.accelerator.num_processes > 1:
            for predictions in gather_object([evaluator.predictions]):
                evaluator.merge(predictions)
        return from_main_process(self.accelerator, evaluator.compute), evaluator

    @torch.inference_mode()
    def losses(self, model: nn.Module, dataset: Any) -> dict[str, float]:
        """Return the mean over items of every loss in evaluation mode as "val_<name>", of their sum as "val_loss".

        Random sampling in the losses has a fixed seed, so that values of one run compare; the random state outside is
        kept.

        Args:
            model: see `metrics`.
            dataset: the task's `validation_loss_dataset`.
        """
        model.eval()
        device = self.accelerator.device
        values: dict[str, list[float]] = {}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            attempt(self.accelerator, self.task.config, lambda: self._collect_losses(model, dataset, values))
        of_all: dict[str, list[float]] = {}
        for share in gather_object([values]):
            for name, part in share.items():
                of_all.setdefault(name, []).extend(part)
        return {name: math.fsum(part) / len(part) for name, part in of_all.items()}  # exact in any order

    def _collect_losses(self, model: nn.Module, dataset: Any, values: dict[str, list[float]]) -> None:
        for items in self._readable_items(dataset):
            with self.accelerator.autocast():
                losses = {name: float(value) for name, value in self.task.losses(model, items).items()}
            for name, value in {"loss": sum(losses.values()), **losses}.items():
                values.setdefault(f"val_{name.removeprefix('loss_')}", []).append(value)

    def _readable_items(self, dataset: Any) -> Iterator[list]:
        """Yield this process's readable items as lists of one item, on the model's device."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        bar = self.progress.add_task("evaluate", total=len(dataset), note="")
        for batch in evaluation_loader(dataset, self.workers, rank, processes, ignore_stop_signals):
            self.signals.check("in an evaluation; if it is part of a training, the checkpoint was saved before it")
            items = drop_unreadable(self.task, batch, self.skipped)
            if items:
                yield send_to_device(items, self.accelerator.device)
            self.progress.advance(bar, processes)
        self.progress.update(bar, visible=False)
