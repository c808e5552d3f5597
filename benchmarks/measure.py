"""Compare the contenders of a benchmark, then time them in turn and measure the memory of each."""

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch.utils.benchmark import timer
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError, RunError
from . import data, networks, runtimes
from .networks import FUSED, OURS, RunAndOutput, Settings
from .peers import BACKBONE_PEERS

MATMUL_SHARE = 0.1  # of the fastest contender's time, that one matrix product may take


class Benchmark(NamedTuple):
    """What is measured.

    Attributes:
        build: (name of a contender, settings) -> (function to time, function from its output to a dict of tensors and
            numbers, which must agree).
        contenders: their names, the reference first.
        tolerance: allowed relative error against the reference, in float32.
    """

    build: Callable[[str, Settings], RunAndOutput]
    contenders: tuple[str, ...]
    tolerance: float


BENCHMARKS = {
    "features": Benchmark(networks.features, (*BACKBONE_PEERS, OURS, FUSED), 1e-4),
    "step": Benchmark(networks.step, (*BACKBONE_PEERS, OURS), 1e-3),  # the gradient of 101 layers amplifies float noise
    "train": Benchmark(networks.train, ("torchvision", OURS), 0.05),  # float noise changes which proposals are sampled
    # torchvision's stride of P6 is wrong if a side is not a multiple of 64 (60 for 480 pixels)
    "infer": Benchmark(networks.infer, ("torchvision", OURS, FUSED), 0.1),
    "runtimes": Benchmark(runtimes.features, runtimes.CONTENDERS, 1e-4),
    "runtimes-detector": Benchmark(runtimes.detections, runtimes.CONTENDERS, 0.02),
    "evaluation": Benchmark(data.evaluation, ("pycocotools", OURS), 1e-12),
    "annotations": Benchmark(data.annotations, ("pycocotools", OURS), 1e-4),
    "loader": Benchmark(data.loader, ("torchvision", OURS), 0.05),
    "import": Benchmark(data.imports, tuple(data.IMPORTS), 0.0),
}


def time_run(run: Callable[[], Any], clock: str = "wall") -> float:
    """Return the seconds that `run` takes, with a GPU's work: torch's timer waits for it.

    The clock "cpu" counts the time of all threads on a processor, also while other processes wait for the same one.
    """
    read = {"wall": timer, "cpu": time.process_time}[clock]
    gc.collect()
    start = read()
    run()
    return read() - start


def relative_error(actual: Mapping[Any, Any], expected: Mapping[Any, Any]) -> float:
    """Return the largest max|a - b| / max|b| of tensors and numbers; infinity if keys or shapes differ."""
    if actual.keys() != expected.keys():
        return float("inf")
    pairs = [[torch.as_tensor(values[key]).double().cpu() for values in (actual, expected)] for key in expected]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    errors = [(a - b).abs().max() / b.abs().max().clamp(min=1e-30) for a, b in pairs if b.numel()]
    return max((error.item() for error in errors), default=0.0)


def matmul_rate(settings: Settings, max_seconds: float) -> float:
    """Return the best rate of square matrix products, in operations per second (a multiply-add is two).

    The side grows until the next product would take more than `max_seconds`: some processors have no fast form for a
    dtype, and the probe must stay cheaper than the work that it is compared with.
    """
    side, rate, next_seconds = 128, 0.0, 0.0
    while next_seconds <= max_seconds:
        a, b = torch.randn(2, side, side, device=settings.device, dtype=getattr(torch, settings.dtype))
        seconds = min(time_run(partial(torch.matmul, a, b)) for _ in range(3))
        rate = max(rate, 2 * side**3 / seconds)
        side, next_seconds = side * 3 // 2, seconds * 1.5**3
    return rate


def resident_memory(key: str) -> float:
    """Return MiB of this process now ("VmRSS") or at its peak ("VmHWM")."""
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0]) / 1024


def peak_of_this_process(benchmark: str, name: str, settings: Settings) -> float:
    """Build and run one contender; return the peak in MiB above what was in use before (on a GPU the allocator's)."""
    before = resident_memory("VmRSS")
    run, _ = BENCHMARKS[benchmark].build(name, settings)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # return freed heap to the operating system
    Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM
    for _ in range(2):
        run()
    return torch.cuda.max_memory_allocated() / 2**20 if settings.device == "cuda" else resident_memory("VmHWM") - before


def peak_memory(benchmark: str, name: str, settings: Settings) -> float | None:
    """Return the peak of one contender in MiB, measured in a process of its own; None if Linux does not report it.

    Raises:
        RunError: the process crashed.
    """
    if not (settings.memory and Path("/proc/self/clear_refs").exists()):
        return None
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(peak_of_this_process, benchmark, name, settings).result()
        except Exception as error:
            raise RunError(f"the process that measures the memory of {name} crashed: {error!r}") from error


def build_and_compare(
    benchmark: Benchmark, settings: Settings, console: Console
) -> tuple[dict[str, Callable[[], Any]], dict[str, float], int]:
    """Build the contenders, without those whose output differs from the reference's.

    In lower precision the reference in float32 is the truth. Each library rounds in its own way, so a contender may be
    twice as far from it as the reference in the same precision.

    Returns:
        Functions to time by name, relative errors by name, and the number of operations of the reference.
    """
    runs, errors, tolerance, operations = {}, {}, benchmark.tolerance, 0
    for name in benchmark.contenders:
        try:
            run, comparable = benchmark.build(name, settings)
        except (ImportError, NotImplementedError) as error:
            console.print(f"without {name}: {error}", style="yellow", markup=False)
            continue
        counter = FlopCounterMode(display=False)
        with nullcontext() if runs else counter:  # the counter would make compiled contenders compile twice
            output = comparable(run())
        if not runs:
            expected, operations = output, counter.get_total_flops()
            if operations and settings.dtype != "float32":
                exact_run, _ = benchmark.build(name, settings.model_copy(update={"dtype": "float32"}))
                expected = comparable(exact_run())
                tolerance = max(tolerance, 2 * relative_error(output, expected))
        errors[name] = relative_error(output, expected)
        if errors[name] <= tolerance:
            runs[name] = run
        else:
            console.print(f"{name}: output differs from the reference by {errors[name]:.1e}, not timed", style="red")
    return runs, errors, operations


def measure(benchmark: str, settings: Settings, console: Console) -> dict[str, Any]:
    """Run a benchmark: contenders take turns, round after round.

    Returns:
        "gflop" of a run and "rows", one per contender: "name", "milliseconds" (median), "spread" (half the distance
        between the quartiles), "speed" (median over the rounds of the reference's time / its own), "memory" in MiB,
        "of_peak" (share of the rate of a matrix product) and "error" against the reference. None without a meaning.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda cannot be used: torch finds no CUDA device")
    runs, errors, operations = build_and_compare(BENCHMARKS[benchmark], settings, console)
    seconds = np.array([[time_run(run, settings.clock) for run in runs.values()] for _ in range(settings.rounds)])
    lower, medians, upper = np.quantile(seconds, (0.25, 0.5, 0.75), axis=0)
    speeds = np.median(seconds[:, :1] / seconds, axis=0)
    rate = matmul_rate(settings, MATMUL_SHARE * medians.min()) if operations else 0
    rows = [
        {
            "name": name,
            "milliseconds": medians[index] * 1e3,
            "spread": (upper[index] - lower[index]) / 2 * 1e3,
            "speed": speeds[index],
            "memory": peak_memory(benchmark, name, settings) if operations else None,
            "of_peak": operations / medians[index] / rate if rate else None,
            "error": errors[name],
        }
        for index, name in enumerate(runs)
    ]
    return {"gflop": operations / 1e9, "rows": rows}
