"""What stops a training from outside: it ends in one line, after a checkpoint from which it goes on exactly."""

import errno
import itertools
import json
import multiprocessing
import os
import shutil
import signal

import pytest
import torch
from tiny_runs import EXACT, NARROW, assert_same_weights, logged_losses, read_log

from detbackbones import InputError
from detbackbones.engine import trainer as trainer_module
from detbackbones.engine.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.detection import DetectionTask
from detbackbones.engine.evaluate import Evaluation
from detbackbones.engine.runs import run
from detbackbones.engine.signals import STOP_SIGNALS
from detbackbones.engine.training_step import TrainingStep
from detbackbones.errors import Interrupted, RunError

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def train(shapes, here):
    def train(**overrides):
        settings = {"data_root": str(shapes), **NARROW, **EXACT, "max_iters": 4, "work_dir": "run", **overrides}
        return run(load_config(DEFAULT_CONFIG, settings), "test")

    return train


@pytest.fixture
def at_step(monkeypatch):
    """Return a function that makes something happen at the begin of a step."""

    def at_step(number, action):
        original = TrainingStep.backward

        def backward(step, batches, iteration, samples):
            if iteration == number:
                action()
            return original(step, batches, iteration, samples)

        monkeypatch.setattr(TrainingStep, "backward", backward)

    return at_step


def logged_iterations(folder):
    return [entry["iteration"] for entry in read_log(folder) if "lr" in entry]


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_after_the_step_and_the_run_goes_on_exactly(train, at_step, here, monkeypatch, number):
    at_step(2, lambda: os.kill(os.getpid(), number))
    with pytest.raises(
        Interrupted, match=f"stopped by {number.name} at iteration 2 of 4, saved; resume=true work_dir="
    ):
        train()
    assert Interrupted("", 128 + number).exit_status == 128 + number
    assert read_checkpoint("run")["iteration"] == 2
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    if number == signal.SIGTERM:
        monkeypatch.undo()
        monkeypatch.chdir(here)
        train(resume=True)
        train(work_dir="whole")
        assert_same_weights("run", "whole")


def test_a_signal_in_an_evaluation_loses_nothing(train, monkeypatch):
    original = Evaluation._readable_items

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from original(*arguments)

    monkeypatch.setattr(Evaluation, "_readable_items", interrupted)
    with pytest.raises(Interrupted, match="stopped by SIGTERM in an evaluation"):
        train(max_iters=2)
    assert read_checkpoint("run")["iteration"] == 2


FAILURES = {
    "memory of a GPU": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
    "memory": (MemoryError(), "out of memory"),
    "memory of the CPU": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        "batch_size=2",
    ),
    "disk of the data": (OSError(errno.EIO, "Input/output error", "a.jpg"), "Input/output error: a.jpg"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_of_the_machine_is_one_line_after_a_checkpoint(train, monkeypatch, name):
    failure, words = FAILURES[name]
    original, calls = DetectionTask.counted_losses, itertools.count()

    def fail(*arguments):
        if next(calls) == 2:
            raise failure
        return original(*arguments)

    monkeypatch.setattr(DetectionTask, "counted_losses", fail)
    with pytest.raises(RunError, match=words) as error:
        train()
    assert str(error.value).endswith("; iteration 2 is saved; resume=true work_dir=run continues")
    assert "\n" not in str(error.value)
    assert read_checkpoint("run")["iteration"] == 2


def test_a_fault_of_the_program_keeps_its_traceback_and_saves(train, at_step):
    def fail():
        raise ZeroDivisionError("a bug")

    at_step(3, fail)
    with pytest.raises(ZeroDivisionError) as error:
        train()
    assert error.value.__notes__ == ["iteration 2 is saved; resume=true work_dir=run continues"]


def test_a_killed_loading_process(train, at_step):
    at_step(3, lambda: multiprocessing.active_children()[0].kill())
    with pytest.raises(RunError, match=r"a loading process ended .*\(now 1\).*; iteration 2 is saved"):
        train(workers=1, max_iters=12)  # two batches are loaded ahead


@pytest.mark.parametrize("skip", [False, True])
def test_data_that_disappears(train, at_step, shapes, here, skip):
    shutil.copytree(shapes, here / "data")
    at_step(3, lambda: shutil.rmtree(here / "data/images"))
    with pytest.raises(InputError, match="iteration 2 is saved; resume=true work_dir=run continues$") as error:
        train(data_root="data", skip_unreadable=skip)
    assert ("no training item can be read" in str(error.value)) == skip


@pytest.fixture
def full_disk(monkeypatch):
    """Return a function after which checkpoints of some iterations cannot be written."""

    def full_disk(iterations):
        def save(path, content, keep=1):
            if content["iteration"] in iterations:
                raise CheckpointError(f"{path} cannot be written: No space left on device")
            save_checkpoint(path, content, keep)

        monkeypatch.setattr(trainer_module, "save_checkpoint", save)

    return full_disk


def test_a_run_goes_on_while_the_disk_is_full(train, full_disk, capsys):
    full_disk({2, 3})
    train(checkpoint_every=1)
    printed = capsys.readouterr().out
    assert printed.count("cannot be written: No space left on device; the run goes on, an older checkpoint exists") == 2
    assert read_checkpoint("run")["iteration"] == 4


def test_a_run_whose_last_checkpoint_cannot_be_written_says_so_at_the_end(train, full_disk, here):
    full_disk({3, 4})
    with pytest.raises(RunError, match="last.pt cannot be written: No space left on device"):
        train(checkpoint_every=1)
    assert read_checkpoint("run")["iteration"] == 2
    assert logged_iterations(here / "run") == [1, 2, 3, 4]


def test_a_run_without_any_checkpoint_ends_if_the_disk_is_full(train, full_disk, here):
    full_disk({2})
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        train(checkpoint_every=2)
    assert logged_iterations(here / "run") == [1, 2]


def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(train, at_step, monkeypatch):
    def spoil(trainer):
        with torch.no_grad():
            next(trainer.unwrapped_model.parameters()).fill_(torch.inf)

    original = trainer_module.Trainer._save_last

    def save(trainer):
        if trainer.iteration == 3:
            spoil(trainer)
        original(trainer)

    monkeypatch.setattr(trainer_module.Trainer, "_save_last", save)
    with pytest.raises(
        RunError, match="state after iteration 3 has a value that is not finite.*; iteration 2 is saved"
    ):
        train(checkpoint_every=1)
    assert read_checkpoint("run")["iteration"] == 2


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(train, here, capsys):
    train(checkpoint_every=2)
    assert read_checkpoint("run")["iteration"] == 4
    data = bytearray((here / "run/last.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (here / "run/last.pt").write_bytes(data)
    train(checkpoint_every=2, resume=True)
    printed = capsys.readouterr().out
    assert "last-1.pt is used because last.pt cannot be read" in printed
    assert "resuming at iteration 2 of 4 (sample 4)" in printed
    train(work_dir="whole")
    assert_same_weights("run", "whole")


def test_a_changed_batch_size_goes_on_at_the_right_sample(train, here, capsys, monkeypatch):
    seen = []
    original = DetectionTask.counted_losses

    def record(task, model, items):
        seen.extend(target["image_id"] for _, target in items)
        return original(task, model, items)

    monkeypatch.setattr(DetectionTask, "counted_losses", record)
    train(max_iters=2, batch_size=3)
    train(max_iters=5, batch_size=2, resume=True)
    assert "resuming at iteration 2 of 5 (sample 6)" in capsys.readouterr().out
    first, seen[:] = list(seen), []
    train(max_iters=12, batch_size=1, work_dir="whole")
    assert first == seen


def test_a_run_whose_folder_was_taken_over_does_not_write(train, at_step, here):
    """As after a suspension during which another host waited for its counter."""

    def take_over():
        record = json.loads((here / "run/.lock").read_text())
        (here / "run/.lock").write_text(json.dumps(record | {"token": "another", "pid": 1, "host": "elsewhere"}))

    at_step(3, take_over)
    with pytest.raises(RunError, match="was taken over by process 1 on elsewhere .*; iteration 2 is saved"):
        train(checkpoint_every=1)
    assert read_checkpoint("run")["iteration"] == 2


def test_auto_resume_starts_and_continues(train, here):
    train(max_iters=2, auto_resume=True)
    train(auto_resume=True)
    train(work_dir="whole")
    assert_same_weights("run", "whole")
    assert logged_losses(here / "run") == logged_losses(here / "whole")


def test_an_unknown_best_metric_is_found_before_the_training(train, here):
    with pytest.raises(InputError, match="unknown best_metric 'bbox/AP5O'; did you mean"):
        train(best_metric="bbox/AP5O")
    with pytest.raises(InputError, match="best_metric=val_loss is a validation loss, which needs val_loss=true"):
        train(best_metric="val_loss")
    assert not (here / "run").exists()


def test_a_best_checkpoint_that_could_not_be_written_is_written_later(train, here, monkeypatch):
    def save(path, content, keep=1):
        if path.name == "best.pt" and content["iteration"] == 2:
            raise CheckpointError(f"{path} cannot be written: No space left on device")
        save_checkpoint(path, content, keep)

    monkeypatch.setattr(trainer_module, "save_checkpoint", save)
    train(eval_every=2, best_metric="val_loss", val_loss=True)
    assert read_checkpoint(here / "run/best.pt")["iteration"] == 4


def test_a_finished_run_is_evaluated_again(train, here):
    metrics = train(max_iters=3)
    assert train(max_iters=2, resume=True) == metrics
    assert [entry["iteration"] for entry in read_log(here / "run") if "lr" not in entry] == [3]


def test_a_missing_evaluation_is_made_up_for_when_the_run_is_resumed(train, here, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "metrics", fail)
        with pytest.raises(RunError, match="out of memory.*; iteration 2 is saved"):
            train(eval_every=2)
    train(eval_every=2, resume=True)
    assert [entry["iteration"] for entry in read_log(here / "run") if "lr" not in entry] == [2, 4]
