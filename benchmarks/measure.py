"""Timing contenders in turn, and what each needs in memory."""

import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError
from .peers import Absent
from .settings import Settings
from .works import WORKS

MEMORY_REPEATS = 2


@dataclass
class Row:
    """One contender. Milliseconds, MiB and shares; None where a figure has no meaning."""

    name: str
    milliseconds: float
    spread: float
    speed: float
    memory: float | None
    of_peak: float | None
    difference: float


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(run, device: str) -> float:
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def difference(ours: object, reference: object) -> float:
    """Largest relative error max|a - b| / max|b| of two equal structures of tensors and numbers."""
    if isinstance(reference, Mapping):
        if ours.keys() != reference.keys():
            return float("inf")
        return max((difference(ours[key], reference[key]) for key in reference), default=0.0)
    if isinstance(reference, (list, tuple)):
        return max((difference(a, b) for a, b in zip(ours, reference, strict=True)), default=0.0)
    a, b = (torch.as_tensor(value).double().cpu() for value in (ours, reference))
    if a.shape != b.shape:
        return float("inf")
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() if b.numel() else 0.0


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """Operations a second of the fastest of several products of two square matrices; a multiply-add is two."""
    best = 0.0
    for side in (2048, 3072) if device == "cpu" else (8192,):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        best = max(best, *(2 * side**3 / seconds(lambda a=a, b=b: a @ b, device) for _ in range(4)))
    return best


def resident(key: str) -> float:
    """MiB of this process now ("VmRSS") or at its peak ("VmHWM")."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def peak_memory(settings: Settings, name: str, results) -> None:
    """In a process of its own: the peak of one contender, put into `results`."""
    contenders = WORKS[settings.work].contenders(settings)
    before = resident("VmRSS")
    run, _ = contenders[name]()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what building left behind is not the model's
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    for _ in range(MEMORY_REPEATS):
        run()
    results.put(resident("VmHWM") - before)


def measure_memory(settings: Settings, name: str, run) -> float | None:
    if settings.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**20
    if not Path("/proc/self/status").exists():
        return None
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=peak_memory, args=(settings, name, results))
    child.start()
    child.join()
    if child.exitcode:
        raise InputError(f"{name} failed in a process of its own")
    return results.get()


def operations(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def compare(settings: Settings, console: Console) -> tuple[list[Row], float]:
    """Time every contender of a work; returns rows and the number of operations.

    Outputs are compared with the reference's, in lower precision with the reference's in float32: there each rounds in its
    own way, and a contender may be twice as far away as the reference.
    """
    work = WORKS[settings.work]
    runs, errors = {}, {}
    for name, build in work.contenders(settings).items():
        try:
            run, view = build()
        except Absent as reason:
            console.print(f"without {name}: {reason}", style="yellow")
            continue
        output = view(run())
        if not runs:
            flops = operations(run) if work.of_network else 0
            truth, tolerance = output, work.tolerance(settings)
            if work.of_network and settings.dtype != "float32":
                exact, exact_view = work.contenders(replace(settings, dtype="float32"))[name]()
                truth = exact_view(exact())
                tolerance = max(tolerance, 2 * difference(output, truth))
                del exact
        error = difference(output, truth)
        if error > tolerance:
            console.print(f"{name} says something else: {error:.1e} away; it is not timed", style="red")
            continue
        runs[name], errors[name] = run, error
    del output, truth
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(settings.rounds):
        for name, run in runs.items():
            gc.collect()
            times[name].append(seconds(run, settings.device))
    first = times[next(iter(times))]
    peak = matmul_peak(settings.torch_dtype, settings.device) if flops else None
    memory = {name: measure_memory(settings, name, run) if work.of_network and settings.memory else None
              for name, run in runs.items()}  # fmt: skip
    rows = []
    for name, own in times.items():
        low, middle, high = statistics.quantiles(own, n=4) if len(own) > 1 else own * 3
        speed = statistics.median(a / b for a, b in zip(first, own))
        rows.append(Row(name, middle * 1e3, (high - low) / 2 * 1e3, speed, memory[name],
                        flops / middle / peak if peak else None, errors[name]))  # fmt: skip
    return rows, flops
