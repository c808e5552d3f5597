"""Find what slows a run down or may end it: steps that wait for data, memory near its limit."""

from collections import deque
from pathlib import Path

import psutil
import torch

from ..data.loader import usable_cores
from .config import TrainConfig

WINDOW = 50  # steps
FIRST_STEPS = 10  # left out: loading processes start, kernels are chosen
MAX_WAITING = 0.3  # share of a step
MAX_GPU_MEMORY, MAX_MEMORY = 0.95, 0.9  # shares of what there is
CGROUPS = Path("/sys/fs/cgroup")
MB, GB = 1 << 20, 1 << 30


class Slowdowns:
    """Find causes of slowness, each once per run.

    Args:
        config: names what can be changed.
        device: where the model runs.
        workers: loading processes of this process.
    """

    def __init__(self, config: TrainConfig, device: torch.device, workers: int):
        self.config, self.device, self.workers = config, device, workers
        self.steps = 0
        self.recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self.noted: set[str] = set()

    def note_step(self, seconds: float, data_seconds: float) -> str | None:
        """Take in the seconds of a step and how many of them it waited for data; return a note or None."""
        self.steps += 1
        if self.steps > FIRST_STEPS:
            self.recent.append((seconds, data_seconds))
        waiting = sum(wait for _, wait in self.recent) / max(sum(step for step, _ in self.recent), 1e-9)
        if len(self.recent) < WINDOW or waiting <= MAX_WAITING or "data" in self.noted:
            return None
        self.noted.add("data")
        cores = usable_cores()
        remedy = f"raise workers={self.workers} ({cores} cores per training process)"
        if self.workers >= cores:
            remedy = f"{self.workers} workers use all {cores} cores: make the images on disk smaller, or use more cores"
        return f"steps wait for data {waiting:.0%} of the time; {remedy}"

    def note_memory(self) -> str | None:
        """Return a note if memory is nearly full, or None."""
        batch = f"reduce batch_size={self.config.batch_size} and raise accumulate={self.config.accumulate}"
        if self.device.type == "cuda":
            used = torch.cuda.max_memory_allocated(self.device)
            total = torch.cuda.get_device_properties(self.device).total_memory
            if used > MAX_GPU_MEMORY * total and "gpu" not in self.noted:
                self.noted.add("gpu")
                return f"GPU memory is nearly full ({used / GB:.1f} of {total / GB:.1f} GB at the peak); {batch}"
        used, total = memory_use()
        if used > MAX_MEMORY * total and "memory" not in self.noted:
            self.noted.add("memory")
            remedy = f"use fewer than workers={self.workers}, or " if self.workers else ""
            return f"memory is nearly full ({used / GB:.1f} of {total / GB:.1f} GB in use); {remedy}{batch}"
        return None


def used_megabytes(device: torch.device) -> float:
    """Return the peak memory of the model's GPU, or on the CPU the memory that this process has now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MB
    return psutil.Process().memory_info().rss / MB


def memory_use() -> tuple[int, int]:
    """Return bytes in use and the limit, of the machine or of the control group that is closer to its limit."""
    machine = psutil.virtual_memory()
    pairs = [(machine.total - machine.available, machine.total), *_cgroup_memory()]
    return max(pairs, key=lambda pair: pair[0] / pair[1])


def _cgroup_memory() -> list[tuple[int, int]]:
    """Return use and limit of the control groups (version 2) that this process is in, as containers and SLURM set them.

    Memory of files that can be dropped does not count as used.
    """
    pairs = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    except OSError:  # not Linux
        return []
    for folder in (CGROUPS / own, *(CGROUPS / own).parents):
        try:
            limit, used = int((folder / "memory.max").read_text()), int((folder / "memory.current").read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            pairs.append((used - int(statistics.get("inactive_file", 0)), limit))
        except (OSError, ValueError):  # no such group, or the limit is "max"
            continue
    return [pair for pair in pairs if pair[1] > 0]
