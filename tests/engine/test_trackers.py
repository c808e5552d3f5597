"""Trackers get what the log gets; one that fails is left out with one warning."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from helpers import input_error
from PIL import Image

from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.trackers import Trackers, start_trackers, tracker_arguments

INSTALLED = importlib.util.find_spec("tensorboard") is not None
needs_tensorboard = pytest.mark.skipif(not INSTALLED, reason="tensorboard is not installed")


def config(*names, **overrides):
    return load_config(DEFAULT_CONFIG, {"log_with": list(names)} | overrides)


class Recorder(GeneralTracker):
    """A tracker of one's own, as Accelerate takes it."""

    name, requires_logging_directory, main_process_only = "recorder", False, False
    fails_at: tuple[str, ...] = ()

    def __init__(self, run_name="", **_):
        super().__init__()
        self.run_name, self.calls = run_name, []

    @property
    def tracker(self):
        return self.calls

    def _record(self, method, *values):
        if method in self.fails_at:
            raise ConnectionError(f"no network\nin {method}")
        self.calls.append((method, *values))

    def start(self):
        self._record("start")

    def store_init_configuration(self, values):
        self._record("config", values)

    def log(self, values, step=None):
        self._record("log", step, values)

    def finish(self):
        self._record("finish")


class Painter(Recorder):
    name = "painter"

    def log_images(self, values, step=None):
        self._record("images", step, {name: np.asarray(value).shape for name, value in values.items()})


def broken(kind, *methods):
    tracker = kind()
    tracker.fails_at = methods
    return tracker


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps the precision of the first Accelerator of a process; other tests have others."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture
def warnings():
    return []


def trackers(warnings, *active, main=True):
    return Trackers(SimpleNamespace(trackers=list(active), is_main_process=main), warnings.append)


@pytest.fixture
def picture(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "predictions.png")
    return tmp_path / "predictions.png"


# --- choosing


def test_no_tracker_is_the_default(tmp_path):
    assert tracker_arguments(load_config(DEFAULT_CONFIG)) == {}


def test_unknown_trackers_are_named(tmp_path):
    with input_error("log_with", "'tensorbord'", "did you mean tensorboard"):
        tracker_arguments(config("tensorbord"))


def test_a_tracker_that_is_not_installed_names_its_package(monkeypatch):
    monkeypatch.setattr("detbackbones.engine.trackers.get_available_trackers", lambda: [])
    with input_error("log_with=wandb", "pip install wandb"):
        tracker_arguments(config("wandb"))


def test_a_tracker_of_ones_own_gets_the_config_as_flat_keys(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    settings = config("recorder", published={"a b/[x]": {"box_ap": 1.5, "none": None}})
    accelerator = Accelerator(cpu=True)
    accelerator.log_with, accelerator.trackers = [Recorder("run")], []
    start_trackers(accelerator, settings, tmp_path, "name")
    (tracker,) = accelerator.trackers
    (values,) = [call[1] for call in tracker.calls if call[0] == "config"]
    assert values["optimizer.lr"] == settings.optimizer["lr"]
    assert values["published.a_b__x_.box_ap"] == 1.5
    assert values["published.a_b__x_.none"] == "None"
    assert all(type(value) in (str, int, float, bool) for value in values.values())


def test_a_tracker_that_does_not_start_is_one_line(tmp_path):
    accelerator = Accelerator(cpu=True)
    accelerator.log_with = [broken(Recorder, "config")]
    with input_error("does not start", "ConnectionError", "no network", "leave log_with out"):
        start_trackers(accelerator, config(), tmp_path, "name")


def test_other_processes_start_nothing(tmp_path):
    accelerator = SimpleNamespace(log_with=["recorder"], is_main_process=False)
    start_trackers(accelerator, config(), tmp_path, "name")
    tracker = Recorder()
    trackers([], tracker, main=False).log({"loss": 1.0}, 1)
    assert tracker.calls == []


# --- sending


def test_numbers_go_to_all_and_pictures_to_those_that_take_them(warnings, picture):
    recorder, painter = Recorder(), Painter()
    both = trackers(warnings, recorder, painter)
    both.log({"loss": 1.0}, 7)
    both.log_picture(picture, 7)
    both.finish()
    assert recorder.calls == [("log", 7, {"loss": 1.0}), ("finish",)]
    assert painter.calls == [("log", 7, {"loss": 1.0}), ("images", 7, {"predictions": (1, 20, 30, 3)}), ("finish",)]
    assert warnings == []


@pytest.mark.parametrize("name,shape", [("aim", (20, 30, 3)), ("clearml", (20, 30, 3)), ("wandb", (1, 20, 30, 3))])
def test_pictures_have_the_form_that_a_tracker_takes(warnings, picture, name, shape):
    painter = Painter()
    painter.name = name
    trackers(warnings, painter).log_picture(picture, 7)
    assert painter.calls == [("images", 7, {"predictions": shape})]


@pytest.mark.parametrize("method", ["log", "images", "finish"])
def test_a_failing_tracker_is_dropped_with_one_warning(warnings, picture, method):
    failing, other = broken(Painter, method), Painter()
    both = trackers(warnings, failing, other)
    for iteration in (1, 2):
        both.log({"loss": 1.0}, iteration)
        both.log_picture(picture, iteration)
    both.finish()
    assert [call[0] for call in other.calls] == ["log", "images", "log", "images", "finish"]
    (warning,) = warnings
    assert warning.startswith("tracker painter does not get the rest of the log: ConnectionError: no network")
    assert "\n" not in warning


def test_without_a_tracker_a_picture_is_not_read(warnings, tmp_path):
    trackers(warnings, Recorder()).log_picture(tmp_path / "absent.png", 1)
    assert warnings == []


# --- TensorBoard


@needs_tensorboard
def test_tensorboard_has_the_numbers_and_the_picture(warnings, picture, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run-1"
    accelerator = Accelerator(cpu=True, **tracker_arguments(config("tensorboard")))
    folder.mkdir()
    start_trackers(accelerator, config("tensorboard"), folder, "name")
    active = Trackers(accelerator, warnings.append)
    hostile = ["[red]x[/red]", "a\nb\x00", "猫" * 50, ""]
    active.log({"bbox/AP": 0.25, **dict.fromkeys(hostile, 0.5)}, 7)
    active.log_picture(picture, 7)
    active.finish()
    assert warnings == []
    events = EventAccumulator(str(folder / "name")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("bbox/AP")] == [(7, 0.25)]
    (image,) = events.Images("predictions")
    assert (image.step, image.width, image.height) == (7, 30, 20)
