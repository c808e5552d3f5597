"""Say in one line why a training step failed, for failures of the machine rather than of the program."""

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator

from ..errors import InputError, RunError, shorten
from .config import TrainConfig
from .distributed import LostProcess, is_lost_process, together

NO_MEMORY = (
    *("can't allocate memory", "not enough memory", "cannot allocate memory", "out of memory"),
    *("alloc_failed", "failed to cuda calloc"),  # cuDNN, cuBLAS; NCCL
)
Result = TypeVar("Result")


def explain_failure(error: Exception, config: TrainConfig) -> InputError | RunError | None:
    """Return an error of one line that names the cause and what to change, or None for any other exception."""
    text = " ".join(str(error).split())
    if isinstance(error, (InputError, RunError)):
        return error
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text.lower() for words in NO_MEMORY):
        return RunError(
            f"out of memory ({shorten(text, 160)}); reduce batch_size={config.batch_size} and raise "
            f"accumulate={config.accumulate}, or use smaller images or precision=bf16"
        )
    if "DataLoader worker" in text or isinstance(error, (EOFError, ConnectionError)):
        workers = "chosen for the machine" if config.workers is None else config.workers
        reason = shorten(text or type(error).__name__, 160)
        return RunError(
            f"a loading process ended ({reason}); the system ends processes if memory runs out: use fewer "
            f"workers (now {workers}) or more shared memory"
        )
    if is_lost_process(error):
        return LostProcess(f"another process of the run ended, see its message ({shorten(text, 160)})")
    if isinstance(error, OSError):
        return RunError(f"{error.strerror or text}: {shorten(error.filename or 'while training')}")
    return None


def attempt(accelerator: Accelerator, config: TrainConfig, function: Callable[[], Result]) -> Result:
    """Call a function on every process; if it fails on one for a reason that is explained, all end with its error."""
    return together(accelerator, function, lambda error: explain_failure(error, config))
