"""One optimizer step over several batches and processes, with the gradients of one large batch."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor, nn

from ..errors import RunError
from ..layers.norm import keep_running_statistics
from .distributed import raise_shared, sum_over_processes
from .failures import explain_failure
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
        step_batches, totals, first = self._attempt(lambda: self._begin(batches))
        if totals is not None:
            totals = sum_over_processes(self.accelerator, totals)
        means: dict[str, Tensor] = {}
        for index, items in enumerate(step_batches):
            is_last = index + 1 == len(step_batches)
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                losses, counts = first or self._forward(items, index)
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
        """Call a function; if it fails on one process, all end with its error. Notice signals to any process."""
        error = result = None
        try:
            result = function()
        except Exception as caught:
            error = explain_failure(caught, self.config)
            if error is None:
                raise
        if self.processes == 1:
            raise_shared(self.accelerator, error)
            return cast(Result, result)
        flags = torch.tensor([error is not None, self.signals.received > 0], device=self.accelerator.device)
        failed, stopped = self.accelerator.reduce(flags.float(), reduction="sum").tolist()
        if failed:
            raise_shared(self.accelerator, error)
        if stopped:
            self._agreed_signal = max(gather_object([self.signals.received]))
        return cast(Result, result)

    def _begin(self, batches: Iterator[list]) -> tuple[list[list], Losses | None, tuple[Losses, Losses] | None]:
        """Load the batches of a step, and count what its losses are means over.

        Returns:
            The batches; this process's counts by loss, None if all losses are means over the images; and losses and
            counts of the batch if it is the only one.
        """
        start = time.perf_counter()
        step_batches = [next(batches) for _ in range(self.config.accumulate)]
        self.data_seconds = time.perf_counter() - start
        if len(step_batches) == 1:
            first = self._forward(step_batches[0], 0)
            return step_batches, first[1], first
        model = self.accelerator.unwrap_model(self.model)
        if not self.task.counts_vary(model):
            return step_batches, None, None
        # the first backward pass needs the counts of all batches, and the graphs of all would not fit in memory
        with torch.no_grad(), keep_running_statistics(model):
            counts = [self._forward(items, index)[1] for index, items in enumerate(step_batches)]
        return step_batches, {name: torch.stack([each[name] for each in counts]).sum() for name in counts[0]}, None

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
