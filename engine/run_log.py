"""Progress of a training run on the console, and its record: log.jsonl, trackers, learning curves."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from rich.text import Text

from ..data.loader import worker_count
from ..errors import shorten
from ..visualization.learning_curves import save_learning_curves
from .config import TrainConfig
from .console import progress_bars
from .slowdowns import Slowdowns, used_megabytes
from .trackers import Trackers

LOG_FILE, CURVES_FILE = "log.jsonl", "curves.png"
NAME_LENGTH, LINE_LENGTH = 20, 2000


class RunLog:
    """Progress and record of a run; only the main process writes. Use it as a context.

    A disk that is full, a tracker that fails and a picture that cannot be drawn give one warning, and the run goes on.

    Args:
        folder: folder of the run; it must exist when the context starts.
        config: the config of the run.
        accelerator: the connection to the other processes, with the started trackers.
        console: a bar on a terminal, else a line per entry of the log.
        iteration: finished steps of a resumed run.

    Attributes:
        progress: progress bars, to which an evaluation adds one.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, accelerator: Accelerator, console: Console, iteration: int = 0
    ):
        self.folder, self.config, self.device = folder, config, accelerator.device
        self.is_main = accelerator.is_main_process
        self.console = console if self.is_main else Console(quiet=True, force_terminal=False)
        self.images_per_step = config.batch_size * config.accumulate * accelerator.num_processes
        self.trackers = Trackers(accelerator, self.warn)
        workers = worker_count(config.workers, accelerator.device)
        self.slowdowns = Slowdowns(config, accelerator.device, workers)
        self.progress = progress_bars(self.console)
        self.iteration = iteration
        self.warned: set[str] = set()
        self._steps: list[tuple[float, float]] = []  # seconds and waiting for data, since the last line
        self._start: tuple[int, float] | None = None  # iteration and time from which the remaining time is computed

    def __enter__(self) -> "RunLog":
        self.progress.start()
        self._bar = self.progress.add_task("train", total=self.config.max_iters, completed=self.iteration, note="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone
            self.progress.stop()
        self.trackers.finish()

    def step(self, iteration: int, losses: Mapping[str, float], lr: float, seconds: float, data_seconds: float) -> None:
        """Record a step.

        Args:
            iteration: finished steps.
            losses: mean losses of the step by name; "loss" is their sum.
            lr: learning rate.
            seconds: duration of the step, with the time that it waited for data.
            data_seconds: time that it waited for data.
        """
        if not self.is_main:
            return
        self._steps.append((seconds, data_seconds))
        images_per_second = self.images_per_step * len(self._steps) / max(sum(s for s, _ in self._steps), 1e-9)
        self._start = self._start or (iteration, time.monotonic())  # the first step is slower than the others
        self._show(iteration, losses, lr, images_per_second)
        note = self.slowdowns.note_step(seconds, data_seconds)
        if note:
            self._print(f"note: {note}")
        is_last = iteration == self.config.max_iters
        if not (iteration == 1 or is_last or iteration % self.config.log_every == 0):
            return
        entry = {
            "lr": lr,
            "seconds": round(seconds, 4),
            "images_per_second": float(f"{images_per_second:.4g}"),
            "data_seconds": round(sum(wait for _, wait in self._steps) / len(self._steps), 4),
            "memory_mb": round(used_megabytes(self.device)),
        }
        entry |= {name: float(f"{value:.6g}") for name, value in losses.items() if name not in entry}
        self._steps = []
        self._write(iteration, entry)
        self.trackers.log({f"train/{name}": value for name, value in entry.items()}, iteration)
        if not self.console.is_terminal:
            progress = f"iteration {iteration}/{self.config.max_iters} loss {losses['loss']:.3f} lr {lr:.2g}"
            speed = f"{seconds:.2f} s {images_per_second:.3g} images/s"
            self._print(f"{progress} {speed}{self._remaining(iteration)}")
        note = self.slowdowns.note_memory()
        if note:
            self._print(f"note: {note}")

    def metrics(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics and validation losses of an evaluation, print the main ones, and draw the curves.

        Args:
            iteration: finished steps.
            metrics: by name. The first one of each prefix is printed, such as "bbox/AP", "segm/AP" and "val_loss".
        """
        if self.is_main:
            self._write(iteration, metrics)
            self.trackers.log(metrics, iteration)
            main: dict[str, str] = {}
            for name in metrics:
                main.setdefault("val_" if name.startswith("val_") else name.rpartition("/")[0], name)
            numbers = " ".join(f"{name} {metrics[name]:.4g}" for name in main.values())
            self._print(f"evaluation at iteration {iteration}/{self.config.max_iters} {numbers}")
            self._try(f"{CURVES_FILE} cannot be drawn", lambda: learning_curves(self.folder))

    def picture(self, iteration: int, path: Path) -> None:
        """Send a picture of the run's folder to the trackers."""
        if self.is_main:
            self._try(f"{path} cannot be sent to the trackers", lambda: self.trackers.log_picture(path, iteration))

    def warn(self, text: str) -> None:
        """Print a warning on the main process."""
        self._print(f"warning: {text}")

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the output may be a file on a disk that is full
            self.console.print(Text(shorten(text, LINE_LENGTH)), soft_wrap=True)

    def _show(self, iteration: int, losses: Mapping[str, float], lr: float, images_per_second: float) -> None:
        if self.console.is_terminal:
            speed = f"{images_per_second:.3g} images/s  {used_megabytes(self.device):.0f} MB"
            names = {name: shorten(name.removeprefix("loss_"), NAME_LENGTH) for name in losses}
            parts = "  ".join(f"{names[name]} {value:.3f}" for name, value in losses.items())
            self.progress.update(self._bar, completed=iteration, note=f"{speed}  lr {lr:.2g}\n{parts}")

    def _remaining(self, iteration: int) -> str:
        """Return the time that is left, at the pace since the first step of this process, with all evaluations."""
        assert self._start is not None
        first, since = self._start
        if iteration == first:
            return ""
        pace = (time.monotonic() - since) / (iteration - first)
        return f" ETA {timedelta(seconds=round(pace * (self.config.max_iters - iteration)))}"

    def _write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append a line to the log; numbers that are not finite, which JSON does not have, become null."""

        def write() -> None:
            finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
            finite.pop("iteration", None)
            append_line(self.folder, json.dumps({"iteration": iteration, **finite}))

        self._try(f"{self.folder / LOG_FILE} cannot be written", write)

    def _try(self, problem: str, function: Callable[[], None]) -> None:
        """Call a function whose failure must not end the run; warn once per kind of failure."""
        try:
            function()
        except Exception as error:
            if problem not in self.warned:
                self.warned.add(problem)
                reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                self.warn(f"{problem} ({shorten(reason, 120)}); the run goes on")


def append_line(folder: Path, line: str) -> None:
    """Append a line to the log, or nothing of it if the disk is full."""
    with open(folder / LOG_FILE, "ab", buffering=0) as file:
        before = file.tell()
        content = f"{line}\n".encode()
        try:
            if file.write(content) < len(content):
                raise OSError("not enough space")
        except OSError:
            file.truncate(before)
            raise


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's log, without damaged lines."""
    entries: list[dict[str, Any]] = []
    for line in (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("iteration"), int):
            entries.append(entry)
    return entries


def learning_curves(folder: Path) -> None:
    """Draw `curves.png` in the folder of a run from its log."""
    save_learning_curves(folder / CURVES_FILE, read_log(folder))
