"""Runs that are killed at any moment, and go on exactly; all of them take long."""

import random
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import torch
from tiny_runs import EXACT, NARROW, assert_same_weights, free_port, logged_losses, words

from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.runs import run
from detbackbones.engine.training_step import TrainingStep
from detbackbones.tools import train_coco

pytestmark = pytest.mark.usefixtures("without_pictures")

# Every combination of two of these settings is in one of the runs below.
RUNS = {
    "workers, accumulation": dict(workers=2, accumulate=2, batch_size=1),
    "workers, jitter, skipped images": dict(workers=2, jitter=True, skipped=True),
    "accumulation, jitter": dict(accumulate=2, jitter=True, batch_size=1),
    "accumulation, skipped images": dict(accumulate=2, skipped=True, batch_size=1),
    "processes, workers, average": dict(processes=2, workers=2, ema_decay=0.9),
    "processes, accumulation": dict(processes=2, accumulate=2, batch_size=1),
    "processes, jitter, skipped images": dict(processes=2, jitter=True, skipped=True),
}


@pytest.fixture
def command(shapes, here):
    """Return the command line of a run that takes a few seconds."""

    def command(folder, processes=1, jitter=False, skipped=False, **overrides):
        data = here / "data"
        if not data.exists():
            shutil.copytree(shapes, data)
        if skipped:
            overrides["skip_unreadable"] = True
            for victim in sorted((data / "images").glob("train*"))[:3]:
                victim.write_bytes(victim.read_bytes()[:500])
        if jitter:
            overrides["transforms"] = [{"type": "LargeScaleJitter", "size": (64, 64)}, {"type": "RandomHorizontalFlip"}]
        settings = {"data_root": data, **NARROW, **EXACT, "work_dir": folder, "checkpoint_every": 1, **overrides}
        program = [train_coco.__file__]
        if processes > 1:
            program = ["-m", "torch.distributed.run", f"--master-port={free_port()}", "--nproc-per-node=2", *program]
        return [sys.executable, *program, *words(settings), "auto_resume=true"]

    return command


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(command, here, name):
    for folder, max_iters in (("whole", 6), ("parts", 3)):
        subprocess.run(command(folder, max_iters=max_iters, **RUNS[name]), check=True, capture_output=True)
    process = subprocess.Popen(command("parts", max_iters=6, **RUNS[name]), stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("iteration 4/6"):
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
    process.wait()
    subprocess.run(command("parts", max_iters=6, **RUNS[name]), check=True, capture_output=True)
    assert_same_weights(here / "whole", here / "parts")
    assert logged_losses(here / "whole") == logged_losses(here / "parts")


@pytest.mark.slow
def test_twenty_kills_in_one_run(command, here):
    """At random moments: in the start, in steps, while a checkpoint is written, in an evaluation."""
    moments, settings = random.Random(0), {"max_iters": 200, "eval_every": 10}
    for number in range(20):
        process = subprocess.Popen(command("run", **settings), stdout=subprocess.PIPE, text=True)
        if number % 4:
            while not process.stdout.readline().startswith("iteration"):
                assert process.poll() is None
        time.sleep(moments.uniform(0, 2))
        assert process.poll() is None
        process.kill()
        process.wait()
    subprocess.run(command("run", **settings), check=True, capture_output=True)
    subprocess.run(command("whole", **settings), check=True, capture_output=True)
    assert_same_weights(here / "run", here / "whole")
    assert logged_losses(here / "run") == logged_losses(here / "whole")
    assert not list((here / "run").glob("*.tmp"))


@pytest.mark.slow
def test_memory_does_not_grow(shapes, here):
    """Over 2,000 iterations, the slope of the resident memory is below 1 kB per iteration after the first 500."""
    memory = []
    original = TrainingStep.backward

    def backward(step, batches, iteration, samples):
        memory.append(psutil.Process().memory_info().rss)
        return original(step, batches, iteration, samples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "backward", backward)
        settings = {"data_root": str(shapes), **NARROW, **EXACT, "max_iters": 2000, "batch_size": 1, "log_every": 100}
        run(load_config(DEFAULT_CONFIG, settings), "test")
    later = torch.tensor(memory[500:], dtype=torch.float64)
    steps = torch.arange(len(later), dtype=torch.float64)
    slope = ((steps - steps.mean()) * (later - later.mean())).sum() / ((steps - steps.mean()) ** 2).sum()
    assert abs(slope) < 1000
