"""The list of works. A work has contenders, each a function that builds it, the reference first.

Building gives (run, view): `run()` is timed, `view(run())` is what must agree with the reference's.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import data, networks
from .settings import Built, Settings


def imports(settings: Settings) -> dict[str, Callable[[], Built]]:
    """A fresh interpreter each time; ours with every backbone, neck and detector loaded."""

    def build(code: str) -> Built:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True), lambda _: {}

    ours = "import detbackbones as d; d.list_backbones(), d.list_necks(), d.list_detectors()"
    return {"torch and torchvision": partial(build, "import torch, torchvision"), "detbackbones": partial(build, ours)}


@dataclass(frozen=True)
class Work:
    """A row of the list of works.

    Attributes:
        contenders: the reference first.
        tolerance: how far an output may be from the reference's, relative, in float32.
        of_network: operations and memory have a meaning.
        about: what the title says.
    """

    contenders: Callable[[Settings], dict[str, Callable[[], Built]]]
    tolerance: Callable[[Settings], float]
    of_network: bool
    about: str


def network_tolerance(settings: Settings) -> float:
    return 1e-4


def step_tolerance(settings: Settings) -> float:
    """The gradient of 101 layers doubles the noise of the features many times."""
    return 1e-3


def training_tolerance(settings: Settings) -> float:
    """Float noise in the features turns the order of nearly equal proposals, and other RoIs are sampled: the work is alike,
    not the same. And torchvision guesses the stride of P6, wrongly where a side is no multiple of 64 (480 px: 60)."""
    return 0.1


def detection_tolerance(settings: Settings) -> float:
    return 0.1 if any(side % 64 for side in settings.size) else 1e-3


def no_tolerance(settings: Settings) -> float:
    return 0.0


NETWORK = "{backbone}{and_neck}, {batch} x 3 x {size[0]} x {size[1]}, {dtype}, {device}"
WORKS = {
    "features": Work(networks.features, network_tolerance, True, NETWORK),
    "step": Work(networks.step, step_tolerance, True, NETWORK),
    "train": Work(networks.train, training_tolerance, True, f"{{detector}}, {NETWORK}"),
    "infer": Work(networks.infer, detection_tolerance, True, f"{{detector}}, {NETWORK}"),
    "evaluation": Work(data.evaluation, no_tolerance, False, "200,000 boxes, 5000 images, 80 classes"),
    "loader": Work(data.loader, lambda settings: 0.05, False, "{data_root} to 800 x 1333, batches of 2, one thread"),
    "import": Work(imports, no_tolerance, False, "a fresh interpreter"),
}
