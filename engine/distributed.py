"""Several processes as one run, through Accelerate: `torchrun --nproc-per-node=8 tools/train_coco.py ...`."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast, gather_object
from torch import Tensor, nn

from ..errors import InputError, RunError
from .signals import ignore_stop_signals

LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")  # number of processes started
LOST_PROCESS = ("connection closed by peer", "connection reset by peer", "broken pipe", "remote process exited")

Result = TypeVar("Result")


def launched_processes() -> tuple[str, int]:
    """Return the environment variable with the number of processes that a launcher has started, and the number."""
    names = ["WORLD_SIZE"] if "WORLD_SIZE" in os.environ else LAUNCHERS
    numbers = {name: int(value) for name in names if (value := os.environ.get(name, "")).isdigit()}
    return max(numbers.items(), key=lambda item: item[1], default=("WORLD_SIZE", 1))


def make_accelerator(precision: str, **options: Any) -> Accelerator:
    """Return the connection of this process to the others.

    Args:
        precision: of the forward pass: "no", "bf16" or "fp16".
        options: other arguments of Accelerator.

    Raises:
        InputError: The machine does not support the precision, or a launcher was not detected.
    """
    variable, launched = launched_processes()
    _begin_restarted_group()
    on_cpu = launched > 1 and not torch.cuda.is_available()  # otherwise Accelerate takes every process for a lone one
    AcceleratorState._reset_state()  # a program may run several configs, one after another
    options["kwargs_handlers"] = [DistributedDataParallelKwargs(gradient_as_bucket_view=True)]  # saves memory
    try:
        accelerator = Accelerator(mixed_precision=precision, cpu=on_cpu or None, **options)
    except (ValueError, ImportError) as error:
        raise InputError(f"precision={precision} cannot be used: {' '.join(str(error).split())}") from None
    if accelerator.num_processes != launched:
        raise InputError(
            f"a launcher started {launched} processes ({variable}={launched}), but Accelerate finds "
            f"{accelerator.num_processes}; start them with torchrun or accelerate launch, or set RANK, LOCAL_RANK, "
            "WORLD_SIZE, MASTER_ADDR and MASTER_PORT (for a single process: WORLD_SIZE=1)"
        )
    return accelerator


def _begin_restarted_group() -> None:
    """Start the process group of a launch that torchrun has restarted on one node.

    torchrun keeps its store over a restart. Without keys of its own the new group could take the addresses of processes
    that have ended, and would wait for them (torch 2.14).
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("GROUP_WORLD_SIZE") != "1" or dist.is_initialized():
        return
    store, rank, processes = next(dist.rendezvous("env://"))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=dist.PrefixStore(f"restart-{attempt}", store), rank=rank, world_size=processes
    )


class SharedError(Exception):
    """An InputError or RunError that every process raises at the same point, see `raise_shared`."""

    def __init__(self, error: InputError | RunError):
        super().__init__(str(error))
        self.error = error
        self.exit_status = error.exit_status


def any_process(accelerator: Accelerator, condition: bool) -> bool:
    """Return whether a condition holds on one of the processes."""
    flag = torch.tensor(float(condition), device=accelerator.device)
    return bool(accelerator.reduce(flag, reduction="sum").item())


def raise_shared(accelerator: Accelerator, error: InputError | RunError | None) -> None:
    """Raise a SharedError of the first error of all processes, if one has any. Every process has to call this."""
    if accelerator.num_processes == 1:
        if error is not None:
            raise error
        return
    if not any_process(accelerator, error is not None):
        return
    errors = gather_object([error])
    failed = [rank for rank, each in enumerate(errors) if each is not None]
    first = errors[failed[0]]
    if failed[0] > 0:
        first.args = (f"process {failed[0]}: {first}",)
    raise SharedError(first)


def _same_error(error: Exception) -> InputError | RunError | None:
    return error if isinstance(error, (InputError, RunError)) else None


def together(
    accelerator: Accelerator,
    function: Callable[[], Result],
    explain: Callable[[Exception], InputError | RunError | None] = _same_error,
) -> Result:
    """Call a function on every process; if it fails on one, all end with that error.

    Args:
        accelerator: the connection to the other processes.
        function: what is called.
        explain: turns an exception into the error that all processes raise; None for an exception that this process
            alone raises, because it is a fault of the program. Default: InputError and RunError are shared.
    """
    error = result = None
    try:
        result = function()
    except Exception as caught:
        error = explain(caught)
        if error is None:
            raise
    raise_shared(accelerator, error)
    return cast(Result, result)


class LostProcess(RunError):
    """Another process of the run has ended."""


@contextlib.contextmanager
def one_error_message(accelerator: Accelerator) -> Iterator[None]:
    """Turn an error that all processes have into one on the main process, and end the others without a message.

    A launcher ends all processes as soon as one ends: the others wait a little, and the signal to stop does not cut the
    message off.
    """
    try:
        yield
    except Exception as error:
        if accelerator.num_processes > 1:
            ignore_stop_signals()
        if isinstance(error, (SharedError, LostProcess)) and not accelerator.is_main_process:
            time.sleep(1)
            sys.exit(error.exit_status)
        if isinstance(error, SharedError):
            raise error.error from None
        raise


def from_main_process(accelerator: Accelerator, function: Callable[[], Result]) -> Result:
    """Call a function on the main process alone, and return its result on every process."""
    result = together(accelerator, lambda: function() if accelerator.is_main_process else None)
    return cast(Result, gather_object([result])[0])


def main_process_first(accelerator: Accelerator, function: Callable[[], Result]) -> Result:
    """Call a function on the main process, then on the others, which find what it has downloaded or cached.

    If it raises an InputError or RunError on one process, all end with that error.
    """
    result = together(accelerator, lambda: function() if accelerator.is_main_process else None)
    return cast(Result, together(accelerator, lambda: result if accelerator.is_main_process else function()))


def end_processes() -> None:
    """End the connection between the processes, at the end of a program."""
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_over_processes(accelerator: Accelerator, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sum over all processes of each scalar; every process has the same names."""
    if accelerator.num_processes == 1:
        return dict(values)
    summed = accelerator.reduce(torch.stack(list(values.values())), reduction="sum")
    return dict(zip(values, summed.unbind(), strict=True))


def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the main process, such as running statistics, which each keeps for itself."""
    broadcast(list(model.buffers()))


def is_lost_process(error: BaseException) -> bool:
    """Return whether an error of torch.distributed means that another process has ended."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in LOST_PROCESS)
