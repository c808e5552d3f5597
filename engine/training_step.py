"""One optimizer step over several batches and processes, with the gradients of one large batch."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn

from ..errors import RunError
from ..layers.norm import keep_running_statistics
from .distributed import any_process, sum_over_processes
from .failures import attempt
from .signals import StopSignals
from .task import Task

Result = TypeVar("Result")
Losses = Mapping[str, Tensor]


class LossNotFinite(RunError):
    """The loss is NaN or infinite."""


class TrainingStep:
    """Make optimizer steps.

    One step sees `batch_size` x `accumulate` x processes images. Each loss is the mean over the things that it counts
    (such as sampled RoIs) in all of them, as if they were one batch.

    Args:
        task: the task, with the config of the run.
        model: the model, prepared by Accelerate.
        optimizer: its optimizer, prepared by Accelerate.
        accelerator: the connection to the other processes.
        signals: signals to this process.

    Attributes:
        data_seconds: time that the last step waited for data.
    """

    def __init__(self, task: Task, model: nn.Module, optimizer: Any, accelerator: Accelerator, signals: StopSignals):
        self.task, self.config = task, task.config
        self.model, self.optimizer = model, optimizer
        self.accelerator, self.processes = accelerator, accelerator.num_processes
        self.signals = signals
        self.data_seconds = 0.0
        self._iteration = self._samples = 0
        self._agreed_signal = 0

    @property
    def num_images(self) -> int:
        """Images per step, of all processes."""
        return self.config.batch_size * self.config.accumulate * self.processes

    @property
    def stop_signal(self) -> int:
        """The signal after which all processes stop; 0 for none."""
        return self.signals.received if self.processes == 1 else self._agreed_signal

    def backward(self, batches: Iterator[list], iteration: int, samples: int) -> dict[str, float]:
        """Compute the gradients of a step; return each loss, and their sum as "loss".

        Args:
            batches: yields this process's batches.
            iteration: number of the step, from 1.
            samples: samples seen before.

        Raises:
            InputError, RunError, SharedError: The step cannot be made.
        """
        self.model.train()
        self._iteration, self._samples = iteration, samples
        # loaded before the forward pass, in which processes exchange data and would wait for one that cannot load
        step_batches = self._attempt(lambda: self._load(batches))
        self._agree_on_signal()
        totals, only_batch = self._attempt(lambda: self._count(step_batches))
        if totals is not None:
            totals = sum_over_processes(self.accelerator, totals)
        means: dict[str, Tensor] = {}
        for index, items in enumerate(step_batches):
            is_last = index + 1 == len(step_batches)
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                losses, counts = only_batch or self._attempt(partial(self._forward, items, index))
                weighted = {name: loss * self._weight(name, counts, totals) for name, loss in losses.items()}
                # DistributedDataParallel takes the mean of the gradients over the processes
                self.accelerator.backward(self.processes * torch.stack(list(weighted.values())).sum())
            for name, value in weighted.items():
                means[name] = means.get(name, 0) + value.detach()
        means = sum_over_processes(self.accelerator, means)
        values = dict(zip(means, torch.stack(list(means.values())).tolist(), strict=True))
        return {"loss": sum(values.values()), **values}

    def update(self) -> None:
        """Change the weights by the gradients."""
        if self.config.clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _attempt(self, function: Callable[[], Result]) -> Result:
        return attempt(self.accelerator, self.config, function)

    def _load(self, batches: Iterator[list]) -> list[list]:
        start = time.perf_counter()
        step_batches = [next(batches) for _ in range(self.config.accumulate)]
        self.data_seconds = time.perf_counter() - start
        return step_batches

    def _agree_on_signal(self) -> None:
        if self.processes > 1 and any_process(self.accelerator, self.signals.received > 0):
            self._agreed_signal = max(gather_object([self.signals.received]))

    def _count(self, step_batches: list[list]) -> tuple[Losses | None, tuple[Losses, Losses] | None]:
        """Count what the losses of a step are means over.

        Returns:
            This process's counts by loss, None if all losses are means over the images; and losses and counts of the
            batch if it is the only one.
        """
        if len(step_batches) == 1:
            only_batch = self._forward(step_batches[0], 0)
            return only_batch[1], only_batch
        model = self.accelerator.unwrap_model(self.model)
        if not self.task.counts_vary(model):
            return None, None
        # the first backward pass needs the counts of all batches, and the graphs of all would not fit in memory
        with torch.no_grad(), keep_running_statistics(model):
            counts = [self._forward(items, index)[1] for index, items in enumerate(step_batches)]
        return {name: torch.stack([each[name] for each in counts]).sum() for name in counts[0]}, None

    def _forward(self, items: list, index: int) -> tuple[Losses, Losses]:
        """Return losses and counts of the batch number `index` of the step; the losses are finite."""
        # for randomness that does not have a seed per image, such as dropout
        rank = self.accelerator.process_index
        torch.manual_seed(self.config.seed + self._samples + index * self.processes + rank)
        on_device = send_to_device(items, self.accelerator.device, non_blocking=True)
        losses, counts = self.task.counted_losses(self.model, on_device)
        values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        total = sum(values.values())
        if not math.isfinite(total):
            where = f"iteration {self._iteration}, {self.task.describe_items(items)}"
            text = ", ".join(f"{name} {value:g}" for name, value in {"loss": total, **values}.items())
            raise LossNotFinite(f"the loss is not finite at {where}: {text}")
        return losses, counts

    def _weight(self, name: str, counts: Losses, totals: Losses | None) -> Tensor:
        """Return the weight of a batch's loss in the step: its share of what the loss counts."""
        if totals is None:
            return counts[name] / self.num_images
        return torch.where(totals[name] > 0, counts[name] / totals[name].clamp(min=1e-6), 0)
