"""Send the log of a run to experiment trackers through Accelerate, such as TensorBoard, W&B, MLflow and Trackio."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration
from PIL import Image

from ..errors import InputError, check_known, shorten
from .config import TrainConfig, flatten

RUN_NAME = {"wandb": "name", "trackio": "name", "mlflow": "run_name", "swanlab": "experiment_name"}
ONE_PICTURE = ("aim", "clearml")  # their trackers take an array H x W x 3 in place of a list of them


def tracker_arguments(config: TrainConfig) -> dict[str, Any]:
    """Return the arguments of `Accelerator` that choose the trackers of a run.

    Args:
        config: has `log_with`.

    Raises:
        InputError: A tracker is unknown or not installed.
    """
    names = [config.log_with] if isinstance(config.log_with, str) else list(config.log_with)
    if not names:
        return {}
    check_known("log_with", LOGGER_TYPE_TO_CLASS, *names)
    built_in, installed = set(map(str, LoggerType)), set(map(str, get_available_trackers()))
    for name in names:
        if name in built_in - installed:
            raise InputError(f"log_with={name} needs the package {name}, which is not installed: pip install {name}")
    # Accelerate refuses some trackers without a folder; `start_trackers` sets the real one
    return {"log_with": names, "project_config": ProjectConfiguration(logging_dir=".")}


def start_trackers(accelerator: Accelerator, config: TrainConfig, folder: Path, name: str) -> None:
    """Start the trackers on the main process with the config of the run.

    Args:
        accelerator: made with `tracker_arguments`.
        config: sent as text and numbers by dotted key.
        folder: folder of the run, which exists; trackers that write files write them there.
        name: name of the project or experiment. The name of the run in it is that of its folder.

    Raises:
        InputError: A tracker does not start, for example because nobody is logged in.
    """
    if not accelerator.log_with or not accelerator.is_main_process:
        return
    accelerator.project_configuration.logging_dir = str(folder)
    run_names = {tracker: {argument: folder.name} for tracker, argument in RUN_NAME.items()}
    try:
        accelerator.init_trackers(name, _plain(config.model_dump()), run_names)
    except Exception as error:  # each library has exceptions of its own
        names = ", ".join(map(str, accelerator.log_with))
        reason = shorten(f"{type(error).__name__}: {error}", 200)
        raise InputError(f"log_with={names} does not start: {reason}; set it up, or leave log_with out") from None


class Trackers:
    """The started trackers of the main process. One that fails is left out from then on, and the run goes on.

    Args:
        accelerator: see `start_trackers`.
        warn: called with a line of text if a tracker fails.
    """

    def __init__(self, accelerator: Accelerator, warn: Callable[[str], None]):
        self.active: list[GeneralTracker] = list(accelerator.trackers) if accelerator.is_main_process else []
        self.warn = warn

    def log(self, values: Mapping[str, float], iteration: int) -> None:
        """Send numbers by name."""
        self._each(lambda tracker: tracker.log(dict(values), step=iteration))

    def log_picture(self, path: Path, iteration: int) -> None:
        """Send a picture, under the name of its file, to the trackers that take pictures."""
        if not any(hasattr(tracker, "log_images") for tracker in self.active):
            return
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))

        def send(tracker: Any) -> None:
            if hasattr(tracker, "log_images"):
                options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                values = pixels if tracker.name in ONE_PICTURE else pixels[None]
                tracker.log_images({path.stem: values}, step=iteration, **options)

        self._each(send)

    def finish(self) -> None:
        """Send what is left, and close the connections."""
        self._each(lambda tracker: tracker.finish())
        self.active = []

    def _each(self, send: Callable[[Any], None]) -> None:
        for tracker in list(self.active):
            try:
                send(tracker)
            except Exception as error:  # each library has exceptions of its own, most of them about the network
                self.active.remove(tracker)
                reason = shorten(f"{type(error).__name__}: {error}", 200)
                self.warn(f"tracker {tracker.name} does not get the rest of the log: {reason}")


def _plain(values: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the config as one level of dotted keys, as trackers take it; other characters become "_"."""
    return {
        re.sub(r"[^\w.-]", "_", key): value if isinstance(value, (bool, int, float, str)) else shorten(value, 500)
        for key, value in flatten(values)
    }
