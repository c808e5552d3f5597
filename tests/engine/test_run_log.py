"""The record of a run: lines of the log, what is printed, and faults that must not end the run."""

import errno
import io
import json
import math
import os
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_runs import read_log as lines_of

from detbackbones.engine import run_log, slowdowns
from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.run_log import LOG_FILE, RunLog, read_log

HOSTILE = ["[/]", "[red]x[/red]", "a\nb\x1b]0;c\x07", "猫" * 200, "\ud800", "", "iteration", "lr", "{task}"]
KEYS = ["iteration", "lr", "seconds", "images_per_second", "data_seconds", "memory_mb", "loss", "loss_cls"]


class FakeTracker:
    name = "fake"

    def __init__(self):
        self.logged, self.pictures, self.is_finished = [], [], False

    def log(self, values, step):
        self.logged.append((step, values))

    def log_images(self, values, step):
        self.pictures.append((step, {name: array.shape for name, array in values.items()}))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def start(tmp_path):
    """A function that returns a log in the temporary folder, not yet started, with its output in `console.file`."""

    def make(terminal=False, main=True, processes=1, trackers=(), iteration=0, console=None, **config):
        accelerator = SimpleNamespace(
            device=torch.device("cpu"), is_main_process=main, num_processes=processes, trackers=list(trackers)
        )
        config = load_config(DEFAULT_CONFIG, {"max_iters": 100, "batch_size": 2, "log_every": 20} | config)
        output = Console(file=io.StringIO(), force_terminal=terminal, width=200)
        return RunLog(tmp_path, config, accelerator, console or output, iteration)

    return make


def step(log, iteration, seconds=0.5, data_seconds=0.1, **losses):
    log.step(iteration, {"loss": 1.23456789, "loss_cls": 0.5} | losses, 0.01, seconds, data_seconds)


def printed(log):
    return log.console.file.getvalue()


# --- lines of the log


def test_the_first_the_last_and_every_20th_step_have_a_line(start, tmp_path):
    with start() as log:
        for iteration in range(1, 101):
            step(log, iteration)
    assert [entry["iteration"] for entry in lines_of(tmp_path)] == [1, 20, 40, 60, 80, 100]


def test_a_line_has_the_losses_and_what_was_measured_since_the_line_before(start, tmp_path):
    with start(processes=4, accumulate=3) as log:
        step(log, 1, seconds=9.0, data_seconds=8.0)
        for iteration in range(2, 21):
            step(log, iteration, seconds=0.5, data_seconds=0.1 if iteration % 2 else 0.3)
    entry = lines_of(tmp_path)[1]
    assert list(entry) == KEYS
    assert (entry["lr"], entry["seconds"], entry["loss"], entry["loss_cls"]) == (0.01, 0.5, 1.23457, 0.5)
    assert entry["images_per_second"] == 2 * 4 * 3 / 0.5
    assert entry["data_seconds"] == pytest.approx((10 * 0.3 + 9 * 0.1) / 19, abs=1e-4)
    assert 10 < entry["memory_mb"] < 1e6


def test_small_losses_keep_their_digits(start, tmp_path):
    with start() as log:
        step(log, 1, loss_tiny=1.23456e-9)
    assert lines_of(tmp_path)[0]["loss_tiny"] == 1.23456e-9


def test_metrics_that_are_not_finite_become_null(start, tmp_path):
    with start() as log:
        log.metrics(20, {"bbox/AP": math.nan, "val_loss": math.inf, "bbox/AP50": -1.0})
    text = (tmp_path / LOG_FILE).read_text()
    strict = json.loads(text, parse_constant=pytest.fail)
    assert strict == {"iteration": 20, "bbox/AP": None, "val_loss": None, "bbox/AP50": -1.0}


def test_a_resumed_run_appends(start, tmp_path):
    with start() as log:
        step(log, 20)
    with start(iteration=20) as log:
        step(log, 40)
    assert [entry["iteration"] for entry in lines_of(tmp_path)] == [20, 40]
    assert read_log(tmp_path) == lines_of(tmp_path)


def test_only_the_main_process_writes_and_prints(start, tmp_path, capsys):
    tracker = FakeTracker()
    log = start(main=False, trackers=[tracker], console=Console())
    with log:
        step(log, 1)
        log.metrics(1, {"bbox/AP": 0.5})
        log.picture(1, tmp_path / "absent.png")
        log.warn("fault")
    assert list(tmp_path.iterdir()) == []
    assert "".join(capsys.readouterr()) == ""
    assert (tracker.logged, tracker.is_finished) == ([], False)


# --- reading


def test_damaged_and_foreign_lines_are_not_read(start, tmp_path):
    good = {"iteration": 7, "loss": 1.0}
    lines = ['{"iteration": 3, "lo', "", "[1]", "null", '{"iteration": "7"}', '{"loss": 1}', json.dumps(good), "\0\0"]
    (tmp_path / LOG_FILE).write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    assert read_log(tmp_path) == [good]


# --- faults


class FullDisk:
    """A file that takes the first bytes of a line and then has no space."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def tell(self):
        return self.file.tell()

    def truncate(self, size):
        return self.file.truncate(size)

    def write(self, content):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(content[: self.room])


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_gives_one_warning_and_whole_lines(start, tmp_path, monkeypatch, room):
    with start() as log:
        step(log, 1)
        with monkeypatch.context() as patch:
            patch.setattr(run_log, "open", lambda *args, **kw: FullDisk(open(*args, **kw), room), raising=False)
            for iteration in (20, 40):
                step(log, iteration)
        step(log, 60)
    assert [entry["iteration"] for entry in lines_of(tmp_path)] == [1, 60]
    (warning,) = [line for line in printed(log).splitlines() if "warning" in line]
    assert f"{tmp_path / LOG_FILE} cannot be written" in warning
    assert "space" in warning


class LostOutput(io.StringIO):
    """A terminal that is closed, or a file whose disk becomes full."""

    is_lost = False

    def write(self, text):
        if self.is_lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(text)


@pytest.mark.parametrize("terminal", [False, True])
def test_an_output_that_cannot_be_written_does_not_end_the_run(start, tmp_path, terminal):
    tracker = FakeTracker()
    log = start(console=Console(file=LostOutput(), force_terminal=terminal), trackers=[tracker])
    log.progress.live.auto_refresh = False  # a thread, whose exceptions pytest reports
    with log:
        log.console.file.is_lost = True
        step(log, 1)
        log.metrics(1, {"bbox/AP": 0.5})
    assert tracker.is_finished
    assert len(lines_of(tmp_path)) == 2


def test_a_picture_of_curves_that_cannot_be_drawn_gives_one_warning(start, monkeypatch):
    monkeypatch.setattr(run_log, "save_learning_curves", lambda path, entries: 1 / 0)
    with start() as log:
        log.metrics(20, {"bbox/AP": 0.5})
        log.metrics(40, {"bbox/AP": 0.6})
    assert printed(log).count("warning: curves.png cannot be drawn (division by zero); the run goes on") == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_hostile_names_of_losses_and_metrics(start, tmp_path, terminal):
    values = {name: 0.5 for name in HOSTILE}
    with start(terminal=terminal) as log:
        log.step(1, {"loss": 1.0} | values, 0.01, 0.5, 0.1)
        log.progress.refresh()  # a markup error would come from here
        log.metrics(1, {f"{name}/{name}": 0.5 for name in HOSTILE} | values)
    entry, evaluation = lines_of(tmp_path)
    assert (entry["iteration"], entry["lr"], evaluation["iteration"]) == (1, 0.01, 1)
    assert set(HOSTILE) - {"iteration"} <= entry.keys() & evaluation.keys()
    assert "\x1b]0" not in printed(log)


# --- what is printed


def test_lines_outside_a_terminal(start, monkeypatch):
    clock = iter([0.0, 190.0])
    monkeypatch.setattr(run_log.time, "monotonic", lambda: next(clock))
    with start() as log:
        step(log, 1, seconds=10.0)
        for iteration in range(2, 21):
            log._start = log._start or pytest.fail("the first step starts the clock")
            step(log, iteration)
    first, later = printed(log).splitlines()
    assert first == "iteration 1/100 loss 1.235 lr 0.01 10.00 s 0.2 images/s"
    assert later == "iteration 20/100 loss 1.235 lr 0.01 0.50 s 4 images/s ETA 0:13:20"  # 80 steps of 10 s


def test_a_terminal_has_a_bar_with_losses_speed_and_memory(start):
    with start(terminal=True) as log:
        step(log, 37)
        log.progress.refresh()
        text = printed(log)
    for part in ("37/100", "4 images/s", "MB", "lr 0.01", "loss 1.235", "cls 0.500"):
        assert part in text, part
    assert "iteration 37" not in text


def test_an_evaluation_prints_the_main_metrics(start):
    metrics = {"bbox/AP": 0.31234, "bbox/AP50": 0.5, "segm/AP": 0.29, "segm/AP50": 0.4, "val_loss": 1.5, "val_cls": 0.3}
    with start() as log:
        log.metrics(20, metrics)
    assert printed(log) == "evaluation at iteration 20/100 bbox/AP 0.3123 segm/AP 0.29 val_loss 1.5\n"


def test_a_note_on_a_starved_loader_comes_once(start):
    with start(workers=0, max_iters=500) as log:
        for iteration in range(1, 200):
            step(log, iteration, seconds=1.0, data_seconds=0.5)
    (note,) = [line for line in printed(log).splitlines() if line.startswith("note")]
    assert "steps wait for data 50% of the time" in note


def test_a_note_on_memory_comes_once(start, monkeypatch):
    monkeypatch.setattr(slowdowns, "memory_use", lambda: (95 << 30, 100 << 30))
    with start() as log:
        for iteration in range(1, 61):
            step(log, iteration)
    (note,) = [line for line in printed(log).splitlines() if line.startswith("note")]
    assert "memory is nearly full (95.0 of 100.0 GB in use)" in note


# --- trackers and pictures


def test_trackers_get_the_lines_the_metrics_and_the_pictures(start, tmp_path):
    tracker = FakeTracker()
    Image.new("RGB", (30, 20)).save(tmp_path / "predictions.png")
    with start(trackers=[tracker]) as log:
        step(log, 1)
        log.metrics(1, {"bbox/AP": 0.5})
        log.picture(1, tmp_path / "predictions.png")
    (_, losses), metrics = tracker.logged
    assert list(losses) == [f"train/{key}" for key in KEYS[1:]]
    assert metrics == (1, {"bbox/AP": 0.5})
    assert tracker.pictures == [(1, {"predictions": (1, 20, 30, 3)})]
    assert tracker.is_finished


def test_a_missing_picture_gives_one_warning(start, tmp_path):
    with start(trackers=[FakeTracker()]) as log:
        for iteration in (1, 2):
            log.picture(iteration, tmp_path / "absent.png")
    assert printed(log).count("absent.png cannot be sent to the trackers (No such file or directory)") == 1


def test_curves_are_drawn_at_every_evaluation(start, tmp_path):
    with start() as log:
        step(log, 1)
        assert not (tmp_path / "curves.png").exists()
        log.metrics(1, {"bbox/AP": 0.5})
        first = (tmp_path / "curves.png").read_bytes()
        log.metrics(20, {"bbox/AP": 0.7})
    assert (tmp_path / "curves.png").read_bytes() != first
