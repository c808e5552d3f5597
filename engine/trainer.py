"""Training loop, counted in optimizer steps; writes checkpoints, a log and metrics."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from rich.console import Console
from torch import nn

from ..data.loader import TrainingSampler, training_loader, worker_count
from ..errors import InputError, RunError
from .checkpoint import save_checkpoint
from .config import OPTIMIZERS, Schedule
from .evaluate import drop_unreadable, evaluate, progress_bars, validation_losses
from .task import Task


def learning_rate_factor(schedule: Schedule, iteration: int, max_iters: int) -> float:
    """Return the factor on the learning rate of step number `iteration`, counted from 0."""
    if iteration < schedule.warmup_iters:
        done = iteration / schedule.warmup_iters
        return schedule.warmup_factor * (1 - done) + done
    if schedule.cosine:
        remaining = max(1, max_iters - schedule.warmup_iters)
        return 0.5 * (1 + math.cos(math.pi * (iteration - schedule.warmup_iters) / remaining))
    return schedule.gamma ** sum(iteration >= step for step in schedule.steps)


def make_optimizer(settings: Mapping[str, Any], model: nn.Module, scale: float) -> torch.optim.Optimizer:
    """Return an optimizer of the trainable parameters.

    Args:
        settings: `type` and arguments; it is fused unless they set `fused` or `foreach`.
        model: the model.
        scale: factor on the learning rate.
    """
    arguments = {"lr": settings["lr"] * scale} | {k: v for k, v in settings.items() if k not in ("type", "lr")}
    if not {"fused", "foreach"} & arguments.keys():
        arguments["fused"] = True
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return OPTIMIZERS[settings["type"]](parameters, **arguments)


class Trainer:
    """One training run.

    Args:
        task: the task, with the config of the run.
        model: the model, with its initial weights.
        training: training data.
        validation: validation data.
        folder: folder for log and checkpoints; it must exist when `fit` is called.
        console: where progress is printed.
        state: checkpoint to continue from.

    Raises:
        InputError: The machine does not support the precision.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        training: Any,
        validation: Any,
        folder: Path,
        console: Console,
        state: Mapping[str, Any] | None = None,
    ):
        self.task, self.config = task, task.config
        self.training, self.validation = training, validation
        self.folder, self.console = folder, console
        try:
            self.accelerator = Accelerator(mixed_precision=self.config.precision)
        except (ValueError, ImportError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"precision={self.config.precision} cannot be used: {reason}") from None
        self.device, self.world_size = self.accelerator.device, self.accelerator.num_processes
        self.workers = worker_count(self.config.workers, self.device, self.world_size)
        self.images_per_step = self.config.batch_size * self.config.accumulate * self.world_size
        if self.config.compile:
            for part in task.parts_to_compile(model):
                part.compile()
        self.model, self.optimizer = self.accelerator.prepare(model, self._make_optimizer(model))
        self.base_lr = self.optimizer.param_groups[0]["lr"]
        self.skipped: set[str] = set()
        self.evaluator: Any = None  # of the last evaluation
        self.iteration, self.best = 0, -math.inf
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.iteration, self.best = state["iteration"], state["best"]

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without the wrappers of mixed precision and distributed training."""
        return self.accelerator.unwrap_model(self.model)

    def fit(self) -> dict[str, float]:
        """Train to `max_iters`, also from a resumed iteration; return the metrics of the last evaluation."""
        metrics = None
        batches = self._batches()
        with progress_bars(self.console) as self.progress:
            bar = self.progress.add_task("train", total=self.config.max_iters, completed=self.iteration, note="")
            while self.iteration < self.config.max_iters:
                start = time.perf_counter()
                losses, lr = self._step(batches)
                seconds = time.perf_counter() - start
                self.iteration += 1
                self.progress.update(bar, advance=1, note=f"loss {losses['loss']:.3f} lr {lr:.2g}")
                if self.iteration == 1 or self._is_due(self.config.log_every):
                    self._report(losses, lr, seconds)
                if self._is_due(self.config.eval_every) or self._is_due(self.config.checkpoint_every):
                    self._save("last.pt")  # before the evaluation, which may fail
                if self._is_due(self.config.eval_every):
                    metrics = self._evaluate()
            if metrics is None:  # resumed after the last iteration
                metrics = self._evaluate()
        return metrics

    def _make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        lr, reference = self.config.optimizer["lr"], self.config.reference_batch_size
        scale = self.images_per_step / reference
        if scale != 1:
            product = f"{lr * scale:g} = {lr:g} x {self.images_per_step} / {reference}"
            self.console.print(f"learning rate {product} (images per step / reference_batch_size)")
        return make_optimizer(self.config.optimizer, model, scale)

    def _is_due(self, every: int | None) -> bool:
        """Return whether something happens now that happens every so many iterations and at the end."""
        return self.iteration == self.config.max_iters or (every is not None and self.iteration % every == 0)

    def _step(self, batches: Iterator[list]) -> tuple[dict[str, float], float]:
        """Make one optimizer step over `accumulate` batches; return the mean losses and the learning rate."""
        config = self.config
        lr = self.base_lr * learning_rate_factor(config.schedule, self.iteration, config.max_iters)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        mean_losses: dict[str, float] = {}
        for micro_step in range(config.accumulate):
            items = next(batches)
            # Decides random sampling in the losses. After the batch: a starting loader draws from this generator too.
            global_micro_step = self.iteration * config.accumulate + micro_step
            torch.manual_seed(config.seed + global_micro_step * self.world_size + self.accelerator.process_index)
            is_last = micro_step + 1 == config.accumulate
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                losses = self.task.losses(self.model, send_to_device(items, self.device, non_blocking=True))
                total: Any = sum(losses.values())
                values = {name: value.item() for name, value in {"loss": total, **losses}.items()}
                if not math.isfinite(values["loss"]):
                    where = f"iteration {self.iteration + 1}, {self.task.describe_items(items)}"
                    losses_text = ", ".join(f"{name} {value:g}" for name, value in values.items())
                    raise RunError(f"the loss is not finite at {where}: {losses_text}")
                self.accelerator.backward(total / config.accumulate)
            for name, value in values.items():
                mean_losses[name] = mean_losses.get(name, 0.0) + value / config.accumulate
        if config.clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return mean_losses, lr

    def _batches(self) -> Iterator[list]:
        """Yield batches of usable items without end."""
        sampler = TrainingSampler(
            len(self.training),
            self.config.seed,
            start=self.iteration * self.images_per_step,
            rank=self.accelerator.process_index,
            world_size=self.world_size,
            grouping_flags=self.task.grouping_flags(self.training),
            batch_size=self.config.batch_size * self.world_size,
        )
        unreadable: set[str] = set()
        for items in training_loader(self.training, self.config.batch_size, self.workers, sampler):
            items = drop_unreadable(self.task, items, unreadable)
            self.skipped |= unreadable
            if len(unreadable) == len(self.training):
                raise InputError(f"no training item can be read; the first: {min(unreadable)}")
            if items:
                yield items

    def _evaluate(self) -> dict[str, float]:
        """Evaluate, log the metrics, and save the model if it is the best so far."""
        task, model = self.task, self.unwrapped_model
        settings = (self.device, self.workers, self.skipped)
        metrics, evaluator = evaluate(task, model, self.validation, *settings, self.progress)
        self.evaluator = evaluator if self.iteration == self.config.max_iters else None  # predictions are large
        if self.accelerator.is_main_process and self.iteration < self.config.max_iters:
            task.save_results(evaluator, self.folder, is_last=False)
        losses = {}
        if self.config.val_loss:
            losses = validation_losses(task, model, task.validation_loss_dataset(self.validation), *settings)
        self._log({"iteration": self.iteration, **metrics, **losses})
        if metrics[task.main_metric] > self.best:
            self.best = metrics[task.main_metric]
            self._save("best.pt")
            self._save("last.pt")  # a resumed run compares with this score
        return metrics

    def _save(self, name: str) -> None:
        if self.accelerator.is_main_process:
            content = {
                "model": self.unwrapped_model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "iteration": self.iteration,
                "best": self.best,
                "config": self.config.model_dump(),
                "metadata": self.task.metadata(self.training),
            }
            save_checkpoint(self.folder / name, content)

    def _report(self, losses: Mapping[str, float], lr: float, seconds: float) -> None:
        """Write one iteration's losses, learning rate and seconds to the log, and outside a terminal to the console."""
        rounded = {name: round(value, 5) for name, value in losses.items()}
        self._log({"iteration": self.iteration, "lr": lr, "seconds": round(seconds, 4), **rounded})
        if not self.console.is_terminal:
            progress = f"iteration {self.iteration}/{self.config.max_iters}"
            self.console.print(f"{progress} loss {losses['loss']:.3f} lr {lr:.2g} {seconds:.2f} s")

    def _log(self, entry: Mapping[str, Any]) -> None:
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
