"""Print versions and devices, and what is installed and missing for which feature.

    python tools/doctor.py
    detbackbones doctor

The exit status is 0, whatever is missing.
"""

import functools
import importlib.util
import os
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from detbackbones.data.cache import cache_folder
from detbackbones.engine.console import plain_console
from detbackbones.engine.environment import DISTRIBUTION, describe_environment
from detbackbones.errors import check_known
from detbackbones.tools.cli import run_command

CORE = "core"
FRAMEWORKS = {  # frameworks with an integration that no extra installs -> import name, where to get it
    "detectron2": ("detectron2", "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"),
    "mmdetection": ("mmdet", "https://mmdetection.readthedocs.io/en/latest/get_started.html"),
}
MATRIX_SIDE, ROUNDS = 1024, 3
FAST = 1.2  # times as fast as float32


def read_requirements(pyproject: Path | None = None) -> dict[str, list[Requirement]]:
    """Return what the package and its extras need, from its metadata or, in a clone, from pyproject.toml.

    Args:
        pyproject: the file to read; None for the metadata of the installed package, or else the file of the clone.

    Returns:
        Requirements under "core" and the name of each extra; extras that an extra names are left out.
    """
    if pyproject is None:
        try:
            installed = metadata.metadata(DISTRIBUTION)
        except metadata.PackageNotFoundError:
            return read_requirements(Path(__file__).resolve().parent.parent / "pyproject.toml")
        everything = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
        extras = [CORE, *(installed.get_all("Provides-Extra") or ())]
        needs = {extra: [one for one in everything if _belongs(one, extra)] for extra in extras}
    elif not pyproject.is_file():
        needs = {}
    else:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        lines = {CORE: project["dependencies"], **project.get("optional-dependencies", {})}
        needs = {extra: [Requirement(line) for line in given] for extra, given in lines.items()}
    return {extra: [one for one in given if one.name != DISTRIBUTION] for extra, given in needs.items()}


def _belongs(requirement: Requirement, extra: str) -> bool:
    """Return whether a line of the metadata is one of an extra, or of the package itself."""
    is_of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
    if extra == CORE:
        return not is_of_extra
    return is_of_extra and requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def find_problems(requirements: Sequence[Requirement]) -> Iterator[str]:
    """Yield what is missing, or has a version that does not do."""
    for requirement in requirements:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield f"{requirement.name} is missing"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version} is installed, needed is {requirement.specifier}"


def feature_lines(needs: Mapping[str, Sequence[Requirement]]) -> Iterator[str]:
    """Yield a line per feature: complete, or what is missing and how to install it."""
    for extra, requirements in needs.items():
        problems = "; ".join(find_problems(requirements))
        target = DISTRIBUTION if extra == CORE else f"{DISTRIBUTION}[{extra}]"
        state = f"{problems}; pip install '{target}'" if problems else f"complete ({len(requirements)} packages)"
        yield f"{extra:<14}{state}"
    for name, (module, where) in FRAMEWORKS.items():
        is_installed = importlib.util.find_spec(module) is not None
        yield f"{name:<14}{'installed' if is_installed else f'not installed, see {where}'}"


def bf16_speedup() -> float:
    """Return how many times as fast as in float32 the CPU multiplies matrices in bfloat16."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE).to(dtype)
        rounds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            matrix @ matrix
            rounds.append(time.perf_counter() - start)
        seconds[dtype] = min(rounds)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def device_lines(devices: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line per device, and what they say about precision=bf16."""
    cpu = devices["cpu"]
    facts = f"{cpu['cores']} cores, {cpu['threads']} threads, {cpu['memory_gib']} GiB, {cpu['instructions']}"
    yield f"CPU     {cpu['name']}: {facts}"
    speedup = bf16_speedup()
    advice = "precision=bf16 is worth trying" if speedup > FAST else "precision=bf16 does not pay off"
    yield f"        bfloat16 matrix products are {speedup:.1f} times as fast as float32: {advice}"
    if cpu["instructions"] != "AVX512":
        yield "        torch does not use AVX-512 here; published times of this package may be lower"
    for index, gpu in enumerate(devices["gpus"]):
        bf16 = "has bfloat16" if float(gpu["capability"]) >= 8 else "no bfloat16: use precision=fp16"
        yield f"GPU {index}   {gpu['name']}: {gpu['memory_gib']} GiB, compute capability {gpu['capability']}, {bf16}"
    if not devices["gpus"]:
        yield "GPU     none that torch can use"


def folder_lines() -> Iterator[str]:
    """Yield a line per folder that the package writes to."""
    folders = {
        "cache": cache_folder,
        "weights of torchvision": lambda: Path(torch.hub.get_dir()),
        "working folder": Path.cwd,
    }
    for name, find in folders.items():
        try:
            folder = find()
        except (RuntimeError, OSError) as error:  # no home folder; a folder that was removed
            yield f"{name}: {error}"
            continue
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        state = "can be written" if os.access(existing, os.W_OK) else "CANNOT be written"
        yield f"{name}: {folder} {state}"


def examine(names: Sequence[str], values: dict[str, Any]) -> None:
    """Print everything."""
    check_known("word", (), *names, *values)
    environment, console = describe_environment(), plain_console()
    versions = [f"{name} {value}" for name, value in environment["versions"].items() if value is not None]
    console.print(", ".join(versions))
    console.print(*device_lines(environment["devices"]), sep="\n")
    console.print("", *feature_lines(read_requirements()), "", *folder_lines(), sep="\n")


main = functools.partial(run_command, examine, __doc__, needs_words=False)


if __name__ == "__main__":
    raise SystemExit(main())
