"""The environment of a run: versions, devices and packages, as plain data."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
import torch

DISTRIBUTION = "detbackbones"
ENVIRONMENT_FILE = "environment.json"


def describe_environment(requirements: Callable[[str], list[str] | None] = requires) -> dict[str, Any]:
    """Return what results may depend on, in the form of JSON.

    Args:
        requirements: returns the requirements of an installed distribution.

    Returns:
        "versions": of this package, Python, torch, CUDA and cuDNN (None without) and the operating system; "devices":
        the CPU with its cores, threads and memory, and a dict per GPU; "packages": name -> version of the packages that
        this one declares, None for a missing one (empty in a clone that is not installed).
    """
    cuda = torch.cuda.is_available()
    return {
        "versions": {
            DISTRIBUTION: _version(DISTRIBUTION),
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "cuda": torch.version.cuda if cuda else None,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
            "system": platform.platform(),
        },
        "devices": {
            "cpu": {
                "name": _cpu_name(),
                "instructions": torch.backends.cpu.get_cpu_capability(),
                "cores": _usable_cores(),
                "threads": torch.get_num_threads(),
                "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            },
            "gpus": [_describe_gpu(index) for index in range(torch.cuda.device_count() if cuda else 0)],
        },
        "packages": {name: _version(name) for name in _needed_packages(requirements)},
    }


def save_environment(folder: Path) -> None:
    """Write `environment.json` into the folder of a run."""
    text = json.dumps(describe_environment(), indent=2) + "\n"
    (folder / ENVIRONMENT_FILE).write_text(text, encoding="utf-8")


def _needed_packages(requirements: Callable[[str], list[str] | None]) -> list[str]:
    try:
        lines = requirements(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _describe_gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
    }
