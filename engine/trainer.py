"""Training loop, counted in optimizer steps, on one or several processes."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..data.loader import ReadableItems, TrainingSampler, take_items, training_loader, worker_count
from ..errors import Interrupted, shorten
from ..weights.checkpoints import checkpoint_files
from .checkpoint import CheckpointError, check_finite, load_optimizer, save_checkpoint, save_weights
from .distributed import SharedError, from_main_process, raise_shared, share_buffers
from .evaluate import Evaluation
from .failures import explain_failure
from .optimization import BestMetric, ModelAverage, learning_rate_scale, make_optimizer, set_learning_rate
from .run_log import RunLog
from .signals import StopSignals, ignore_stop_signals, interrupted
from .task import Task
from .training_step import LossNotFinite, TrainingStep


class Trainer:
    """One training run.

    Args:
        task: the task, with the config of the run.
        model: the model, with its initial weights.
        training: training data.
        validation: validation data.
        console: where progress is printed.
        accelerator: the connection to the other processes.
        state: checkpoint to continue from, whose weights the model has.

    Attributes:
        iteration: finished steps.
        samples: training samples that all processes together have seen.
        evaluator: of the evaluation after the last step.
        skipped: error messages of items that could not be read.
        unsaved: why a checkpoint could not be written, by its name; an older one to resume from exists.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        training: Any,
        validation: Any,
        console: Console,
        accelerator: Accelerator,
        state: Mapping[str, Any] | None = None,
    ):
        self.task, self.config = task, task.config
        self.training, self.validation = training, validation
        self.console, self.accelerator = console, accelerator
        self.workers = worker_count(self.config.workers, accelerator.device)
        if self.config.compile:
            for part in task.parts_to_compile(model):
                part.compile()
        scale = learning_rate_scale(self.config, accelerator.num_processes, console)
        optimizer = make_optimizer(self.config, model, scale)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        if isinstance(self.model, DistributedDataParallel):
            self.model.broadcast_buffers = False  # evaluations share the buffers of the main process
        self.average = None
        if self.config.ema_decay is not None:
            self.average = ModelAverage(self.unwrapped_model, self.config.ema_decay)
        self.signals = StopSignals()
        self.step = TrainingStep(task, self.model, self.optimizer, accelerator, self.signals)
        self.best = BestMetric(self.config.best_metric or task.main_metric, self.config.early_stop)
        self.iteration = self.samples = self._evaluated_iteration = 0
        self.evaluator: Any = None
        self.skipped: set[str] = set()
        self.unsaved: dict[str, CheckpointError] = {}
        self._is_updating = False
        if state is not None:
            self._restore(state)
        self._saved_iteration = self.iteration

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without the wrappers of mixed precision and distributed training."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated: the moving average if there is one."""
        return self.unwrapped_model if self.average is None else self.average.module

    @property
    def is_finished(self) -> bool:
        """Whether the last step is made, or the run ends early."""
        return self.iteration >= self.config.max_iters or self.best.is_exhausted

    @property
    def evaluates_first(self) -> bool:
        """Whether `fit` begins with an evaluation: a resumed run that was finished, or that ended in an evaluation."""
        is_missing = self._is_due(self.config.eval_every) and self._evaluated_iteration < self.iteration
        return self.iteration > 0 and (self.is_finished or is_missing)

    def fit(self, folder: Path, check_folder: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Train to `max_iters`, also from a resumed iteration; return the metrics of the last evaluation.

        Args:
            folder: existing folder for log and checkpoints.
            check_folder: called before a checkpoint is written; raises RunError if the folder belongs to another run.

        Raises:
            InputError, RunError, SharedError (by all processes): The run cannot go on; the message tells what is saved.
            Interrupted: A signal ended the run, after the step and a checkpoint.
        """
        self.folder, self._check_folder = folder, check_folder
        log = RunLog(folder, self.config, self.accelerator, self.console, self.iteration)
        with self.signals, log as self.log:
            try:
                return self._fit()
            except Exception as error:
                self._end_after(error)
                raise

    def save_final_weights(self) -> None:
        """Write `model.safetensors`, the weights that were evaluated last."""
        state = self.evaluated_model.state_dict()
        metadata = self.task.metadata(self.training)
        save_weights(self.folder / "model.safetensors", state, self.config.model_dump(), metadata)

    def _fit(self) -> dict[str, float]:
        metrics = self._evaluate() if self.evaluates_first else {}
        batches = self._batches()
        while not self.is_finished:
            self._step(batches)
            if self.step.stop_signal:
                self._save_last()
                saved = "saved" if "last.pt" not in self.unsaved else f"not saved: {self.unsaved['last.pt']}"
                where = f"at iteration {self.iteration} of {self.config.max_iters}, {saved}; {self._how_to_continue}"
                raise_shared(self.accelerator, interrupted(self.step.stop_signal, where))
            if self._is_due(self.config.eval_every) or self._is_due(self.config.checkpoint_every):
                self._save_last()  # before the evaluation, which may fail
            if self._is_due(self.config.eval_every):
                metrics = self._evaluate()
        return metrics

    def _is_due(self, every: int | None) -> bool:
        """Return whether something happens now that happens every so many iterations and at the end."""
        return self.iteration == self.config.max_iters or (every is not None and self.iteration % every == 0)

    def _batches(self) -> Iterator[list]:
        """Yield this process's batches without end."""
        sampler = TrainingSampler(
            len(self.training),
            self.config.seed,
            start=self.samples,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            grouping_flags=self.task.grouping_flags(self.training),
            batch_size=self.config.batch_size,
            repeat_factors=self.task.repeat_factors(self.training),
        )
        readable = ReadableItems(self.training, self.task.unreadable, self.config.skip_unreadable)
        loader = training_loader(readable, self.config.batch_size, self.workers, sampler, ignore_stop_signals)
        for batch in loader:
            yield take_items(batch, self.skipped)

    def _step(self, batches: Iterator[list]) -> None:
        start = time.perf_counter()
        lr = set_learning_rate(self.optimizer, self.config, self.iteration)
        losses = self.step.backward(batches, self.iteration + 1, self.samples)
        self._is_updating = True  # the state cannot be saved until it belongs to one iteration again
        self.step.update()
        if self.average is not None:
            self.average.update(self.unwrapped_model)
        self.iteration += 1
        self.samples += self.step.num_images
        self._is_updating = False
        self.log.step(self.iteration, losses, lr, time.perf_counter() - start, self.step.data_seconds)

    def _evaluate(self) -> dict[str, float]:
        """Evaluate, log the metrics, and save the model if it is the best so far."""
        task, model = self.task, self.evaluated_model
        if self.accelerator.num_processes > 1:
            share_buffers(model)
        evaluation = Evaluation(task, self.accelerator, self.workers, self.log.progress, self.signals, self.skipped)
        metrics, evaluator = evaluation.metrics(model, self.validation)
        losses = {}
        if self.config.val_loss:
            losses = evaluation.losses(model, task.validation_loss_dataset(self.validation))
        before, is_best = self.best.state_dict(), False
        if self._evaluated_iteration < self.iteration:  # a finished run may be evaluated again
            is_best = self.best.update(metrics | losses)
        self._evaluated_iteration = self.iteration
        self.evaluator = evaluator if self.is_finished else None  # predictions are large
        if self.accelerator.is_main_process:
            self._write_results(model, evaluator)
        self.log.metrics(self.iteration, metrics | losses)
        if is_best and not self._save("best.pt"):
            self.best.load_state_dict(before)
        self._save_last()  # again, because a resumed run compares with the best metric
        return metrics

    def _write_results(self, model: nn.Module, evaluator: Any) -> None:
        """Write predictions, which the caller of `fit` does after the last evaluation, and pictures."""
        try:
            if not self.is_finished:
                self.task.save_results(evaluator, self.folder, is_last=False)
            for path in self.task.save_pictures(model, self.validation, self.folder, self.accelerator.device):
                self.log.picture(self.iteration, path)
        except (OSError, CheckpointError) as error:
            self.log.warn(f"results cannot be written into {shorten(self.folder)}: {error}")

    def _content(self) -> dict[str, Any]:
        """Return what a checkpoint holds. All randomness is a function of the seed and of `samples`."""
        content: dict[str, Any] = {
            "model": self.evaluated_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "samples": self.samples,
            "evaluated_iteration": self._evaluated_iteration,
            "best": self.best.state_dict(),
            "config": self.config.model_dump(),
            "metadata": self.task.metadata(self.training),
        }
        if self.average is not None:  # "model" is the average
            content["trained_model"] = self.unwrapped_model.state_dict()
            content["n_averaged"] = self.average.n_averaged.item()
        if self.accelerator.scaler is not None:
            content["scaler"] = self.accelerator.scaler.state_dict()
        return content

    def _restore(self, state: Mapping[str, Any]) -> None:
        load_optimizer(self.optimizer, state["optimizer"], "the checkpoint")
        self.iteration, self.samples = state["iteration"], state["samples"]
        self._evaluated_iteration = state["evaluated_iteration"]
        self.best.load_state_dict(state["best"])
        if self.average is not None and "n_averaged" in state:
            self.average.module.load_state_dict(state["model"])
            self.average.n_averaged.fill_(state["n_averaged"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _save_last(self) -> None:
        """Save `last.pt`; the checkpoint before it stays, unless it is of the same iteration."""
        keep = 1 if self._saved_iteration == self.iteration else self.config.keep_checkpoints
        if self._save("last.pt", keep):
            self._saved_iteration = self.iteration

    def _save(self, name: str, keep: int = 1) -> bool:
        """Save a checkpoint; return False if it cannot be written and there is an older one to resume from."""
        return from_main_process(self.accelerator, lambda: self._write(name, keep))

    def _write(self, name: str, keep: int) -> bool:
        self._check_folder()
        content = self._content()
        tensors = {key: value for key, value in content.items() if key in ("model", "trained_model", "optimizer")}
        check_finite(tensors, f"the state after iteration {self.iteration}")
        try:
            save_checkpoint(self.folder / name, content, keep)
        except CheckpointError as error:
            if not checkpoint_files(self.folder):
                raise
            self.unsaved[name] = error
            self.log.warn(f"{error}; the run goes on, an older checkpoint exists")
            return False
        self.unsaved.pop(name, None)
        return True

    def _end_after(self, error: Exception) -> None:
        """Save the state of the last finished step, and raise one line that says so, on every process."""
        cause = error.error if isinstance(error, SharedError) else explain_failure(error, self.config)
        if isinstance(cause, (Interrupted, CheckpointError)):
            return
        traceback.clear_frames(error.__traceback__)  # they hold the activations of the step
        state = self._saved_state(can_save=not (isinstance(cause, LossNotFinite) or self._is_updating))
        if cause is None:  # a fault of the program, whose traceback is needed
            error.add_note(state)
        else:
            message = type(cause)(f"{cause}; {state}")
            raise SharedError(message) if isinstance(error, SharedError) else message from None

    def _saved_state(self, can_save: bool) -> str:
        """Save `last.pt` if it can be and is not yet; return text on what is saved."""
        if not self.accelerator.is_main_process:
            return "the main process saves what it can"
        if can_save and self._saved_iteration < self.iteration:
            with contextlib.suppress(Exception):  # memory or GPU may be unusable; the cause is more important
                self.optimizer.zero_grad(set_to_none=True)
                if self._write("last.pt", self.config.keep_checkpoints):
                    self._saved_iteration = self.iteration
        if self._saved_iteration == 0:
            return "nothing was trained before it" if self.iteration == 0 else "nothing is saved"
        return f"iteration {self._saved_iteration} is saved; {self._how_to_continue}"

    @property
    def _how_to_continue(self) -> str:
        return f"resume=true work_dir={self.folder} continues"
