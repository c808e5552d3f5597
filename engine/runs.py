"""Entry points that train or evaluate from a config."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console
from rich.text import Text
from torch import nn

from ..data.loader import worker_count
from ..errors import InputError, shorten
from ..layers.norm import check_sync_norms
from ..registry import TASKS, lookup
from ..weights.checkpoints import checkpoint_files
from ..weights.loading import fine_tune
from .checkpoint import CheckpointError, load_weights, read_checkpoint, remove_leftovers
from .config import TrainConfig, save_config
from .console import plain_console, progress_bars
from .distributed import from_main_process, main_process_first, make_accelerator, one_error_message, together
from .environment import save_environment
from .evaluate import Evaluation
from .numerics import check_precision, enable_determinism
from .optimization import check_best_metric
from .resume import adopt_settled, compare_configs, continue_log, resumable_state
from .run_folder import create_work_dir, resolve_work_dir
from .run_lock import RunLock
from .signals import StopSignals
from .task import Split, Task, build_task
from .trackers import start_trackers, tracker_arguments
from .trainer import Trainer


def run(config: TrainConfig, name: str = "run", console: Console | None = None) -> dict[str, float]:
    """Train a model, or evaluate one if the config sets `eval_only`.

    Every process that a launcher such as torchrun has started calls it.

    Args:
        config: a loaded config.
        name: the folder is `runs/<name>-<n>` unless the config has a `work_dir`.
        console: where progress is printed.

    Returns:
        The metrics, which are also written to `metrics.json`.

    Raises:
        InputError: An input cannot be used. All input is checked before anything is written.
        RunError: The run cannot go on; the message tells what is saved.
        Interrupted: A signal ended the run.
    """
    if config.deterministic:
        enable_determinism()
    accelerator = make_accelerator(config.precision, **tracker_arguments(config))
    check_precision(config.precision, accelerator.device)
    body = evaluate_checkpoint if config.eval_only else train
    with one_error_message(accelerator):
        return body(config, name, console or plain_console(), accelerator)


def train(config: TrainConfig, name: str, console: Console, accelerator: Accelerator) -> dict[str, float]:
    """Train a model from its config, or continue a run."""
    place = from_main_process(accelerator, lambda: resolve_work_dir(config, name))
    with contextlib.ExitStack() as stack:
        lock: RunLock | None = None  # the main process has one

        def create_folder() -> Path:
            nonlocal lock
            lock = stack.enter_context(create_work_dir(place, config))
            return lock.folder

        state = None
        if place.resume:  # locked first, or the process that has the folder could write a newer checkpoint
            from_main_process(accelerator, create_folder)
            from_main_process(accelerator, lambda: remove_leftovers(place.path))
            state = together(accelerator, lambda: resumable_state(place.path))
        if state is not None:
            config = adopt_settled(state["config"], config)
        changes = together(accelerator, lambda: compare_configs(state["config"], config) if state else [])
        task = build_task(config)
        training, validation = main_process_first(accelerator, lambda: _open_splits(task, state))
        together(accelerator, lambda: check_best_metric(config, task.metric_names(validation)))
        model = main_process_first(accelerator, lambda: _initial_model(task, training, state, console))
        if accelerator.num_processes > 1:
            together(accelerator, lambda: check_sync_norms(model, accelerator.device))
        trainer = together(accelerator, lambda: Trainer(task, model, training, validation, console, accelerator, state))
        folder = place.path if place.resume else from_main_process(accelerator, create_folder)

        def begin() -> None:
            with _writing(folder):
                save_config(config, folder / "config.py")
                save_environment(folder)
            if state is not None:
                continue_log(folder / "log.jsonl", trainer.iteration, trainer.evaluates_first)
            start_trackers(accelerator, config, folder, name)

        from_main_process(accelerator, begin)
        console.print(Text(f"{name}: {len(training)} training and {len(validation)} validation items -> {folder}"))
        description = task.describe_data(training, validation) if accelerator.is_main_process else None
        if description is not None:
            console.print(description)
        if state is not None:
            where = f"iteration {trainer.iteration} of {config.max_iters} (sample {trainer.samples})"
            console.print(Text(f"resuming at {where}"))
            for line in changes:
                console.print(Text(line))
        metrics = trainer.fit(folder) if lock is None else trainer.fit(folder, lock.check)
        skipped = set(gather_object(sorted(trainer.skipped)))
        if accelerator.is_main_process:
            _report(task, metrics, trainer.evaluator, skipped, folder, console)
            trainer.save_final_weights()
            for error in trainer.unsaved.values():
                raise error
    return metrics


def evaluate_checkpoint(config: TrainConfig, name: str, console: Console, accelerator: Accelerator) -> dict[str, float]:
    """Evaluate the checkpoint that a config names, with the model that it was trained as."""
    trained = together(accelerator, lambda: build_task(config).read_trained(str(config.checkpoint)))
    config, state, metadata = trained
    task = build_task(config)

    def open_validation() -> Any:
        dataset = task.open_split("val")
        task.adopt_metadata(dataset, metadata, "the validation data")
        return dataset

    def build_model() -> nn.Module:
        model = task.build_model(metadata, load_weights=False)
        fine_tune(model, state, str(config.checkpoint))
        return model

    validation = main_process_first(accelerator, open_validation)
    model = together(accelerator, build_model).to(accelerator.device)
    place = from_main_process(accelerator, lambda: resolve_work_dir(config, f"{name}-eval"))
    workers = worker_count(config.workers, accelerator.device)
    with progress_bars(console) as progress, StopSignals() as signals:
        evaluation = Evaluation(task, accelerator, workers, progress, signals)
        metrics, evaluator = evaluation.metrics(model, validation)
    skipped = set(gather_object(sorted(evaluation.skipped)))
    if accelerator.is_main_process:
        with create_work_dir(place, config) as lock:
            with _writing(lock.folder):
                if not checkpoint_files(lock.folder):  # a training run in this folder keeps its own
                    save_config(config, lock.folder / "config.py")
                    save_environment(lock.folder)
                task.save_pictures(model, validation, lock.folder, accelerator.device)
            _report(task, metrics, evaluator, skipped, lock.folder, console)
    return metrics


def saved_run(path: str, task: str = "detection") -> tuple[dict[str, Any], str]:
    """Return the config and the name of the run that a checkpoint, or a folder with one, belongs to.

    A model of another library has the config of its task's `config_of`.
    """
    values = lookup(TASKS, task).config_of(path)  # type: ignore[attr-defined]
    if values is not None:
        return values, re.sub(r"\W+", "_", path.rpartition("/")[2].rpartition(":")[2])
    resolved = Path(path).resolve()
    return read_checkpoint(path)["config"], resolved.name if resolved.is_dir() else resolved.parent.name


def _open_splits(task: Task, state: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """Open both splits, which agree on the metadata; one error names the problems of both."""
    datasets, problems = [], []
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        try:
            datasets.append(task.open_split(split))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(" | ".join(dict.fromkeys(problems)))  # both splits may have the same, such as a missing folder
    training, validation = datasets
    if state is not None:
        task.adopt_metadata(training, state["metadata"], "the training data")
    task.adopt_metadata(validation, task.metadata(training), "the validation data")
    return training, validation


def _initial_model(task: Task, training: Any, state: Mapping[str, Any] | None, console: Console) -> nn.Module:
    """Return the model with the weights of the checkpoint to resume, of `init_from`, or as the config builds it."""
    init_from, metadata = task.config.init_from, task.metadata(training)
    torch.manual_seed(task.config.seed)
    model = task.build_model(metadata, load_weights=state is None and init_from is None)
    if state is not None:
        load_weights(model, state.get("trained_model", state["model"]), "to resume")
    elif init_from is not None:
        new_keys = ", ".join(task.start_from(model, init_from, metadata))
        new_parts = f"; new, because the classes differ: {new_keys}" if new_keys else ""
        console.print(Text(f"started from {init_from}{new_parts}"))
    return model


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn errors of the system into a CheckpointError of one line."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{shorten(folder)} cannot be written: {error.strerror or error}") from None


def _report(
    task: Task, metrics: Mapping[str, float], evaluator: Any, skipped: set[str], folder: Path, console: Console
) -> None:
    """Print the metrics and what was skipped; write `metrics.json` and the results of the task.

    Raises:
        CheckpointError: A file cannot be written.
    """
    if skipped:
        console.print(Text(f"skipped {len(skipped)} item(s), first: {shorten(min(skipped), 200)}"))
    console.print(task.metrics_table(metrics))
    with _writing(folder):
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        details = task.save_results(evaluator, folder, is_last=True)
    if details is not None:
        console.print(details)
    console.print(Text(f"results in {folder}"))
