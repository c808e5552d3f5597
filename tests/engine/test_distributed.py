"""Several processes, and several batches per step, give what one process with one large batch gives."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import step_gradients
import torch
from step_gradients import steps_of
from tiny_runs import NARROW, free_port, read_log, words

from detbackbones import InputError
from detbackbones.engine.checkpoint import read_checkpoint
from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.distributed import launched_processes, make_accelerator
from detbackbones.engine.runs import run
from detbackbones.tools import train_coco

TOOL = Path(train_coco.__file__)


def torchrun(
    program: Path, *arguments: str, processes: int = 2, options: Sequence[str] = (), folder: Path | None = None
) -> subprocess.CompletedProcess:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--master-port={free_port()}",
        f"--nproc-per-node={processes}",
    ]
    path = os.pathsep.join([str(Path(step_gradients.__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [*launcher, f"--master-port={free_port()}", *options, str(program), *arguments]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


def assert_same_steps(found, expected):
    """In float64: float noise of 1e-7 switches a ReLU now and then, which changes a gradient by 1e-5 to 1e-3."""
    assert len(found) == len(expected)
    for (losses, gradients), (expected_losses, expected_gradients) in zip(found, expected):
        assert losses == pytest.approx(expected_losses, rel=1e-6)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in expected_gradients.items():
            error = (gradients[name] - gradient).abs().max() / gradient.abs().max()
            assert error <= 1e-6, (name, error)


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_accumulated_batches_have_the_gradients_of_one_batch(shapes, count):
    data = {"data_root": str(shapes)}
    expected, states = steps_of({**data, "batch_size": 4}, count)
    found, _ = steps_of({**data, "batch_size": 2, "accumulate": 2}, count, states)
    assert_same_steps(found, expected)
    counts_of_means = {losses["loss_mask"] for losses, _ in expected}
    assert len(counts_of_means) == count  # the trajectory moves


@pytest.mark.parametrize("count", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_two_processes_have_the_gradients_of_one(shapes, tmp_path, count):
    data = {"data_root": str(shapes)}
    expected, states = steps_of({**data, "batch_size": 4}, count)
    torch.save(states, tmp_path / "states.pt")
    script = Path(step_gradients.__file__)
    ended = torchrun(script, str(tmp_path), json.dumps({**data, "batch_size": 2}))
    assert ended.returncode == 0, ended.stderr
    assert_same_steps(torch.load(tmp_path / "results.pt", weights_only=True), expected)


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """The folder of a run of two iterations."""
    folder = tmp_path_factory.mktemp("trained")
    config = load_config(DEFAULT_CONFIG, {"data_root": str(shapes), **NARROW, "max_iters": 2, "work_dir": str(folder)})
    run(config)
    return folder


def test_two_processes_evaluate_as_one(trained, shapes, tmp_path):
    evaluate = ["eval_only=true", f"checkpoint={trained}", f"data_root={shapes}", "workers=0"]
    for processes in (1, 2):
        ended = torchrun(TOOL, *evaluate, f"work_dir={tmp_path}/{processes}", processes=processes)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("COCO   AP") == 1  # one process prints
    results = ["details.json", "metrics.json", "predictions.json", "predictions_segm.json"]
    for n in "12":
        written = {path.name for path in (tmp_path / n).glob("*.json")}
        assert written == {*results, "environment.json"}
    one, two = ([(tmp_path / n / name).read_bytes() for name in results] for n in "12")
    assert one == two


@pytest.mark.slow
def test_two_processes_train_in_one_numbered_folder(shapes, tmp_path):
    arguments = words({**NARROW, "data_root": shapes, "max_iters": 3, "log_every": 1})
    ended = torchrun(TOOL, *arguments, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert [entry["iteration"] for entry in read_log(folder) if "lr" in entry] == [1, 2, 3]
    assert ended.stdout.count("iteration 2/3") == ended.stdout.count("results in") == 1


@pytest.mark.slow
def test_an_input_error_in_all_processes_is_one_line(tmp_path):
    ended = torchrun(TOOL, "data_root=missing", folder=tmp_path)
    assert ended.returncode != 0
    (line,) = re.findall(r"^error: .*", ended.stderr, re.M)
    assert line.startswith("error: data_root missing does not exist")
    assert not (tmp_path / "runs").exists()


FAULT = """
import os, pathlib, signal

images = 0

def strike(image, target, kind):
    marker = pathlib.Path("struck")
    global images
    images += 1
    if os.environ["RANK"] == "1" and images > int(os.environ["STRIKE_AFTER"]) and not marker.exists():
        marker.touch()
        if kind == "error":
            raise ValueError("the sky is falling")
        os.kill(os.getpid(), getattr(signal, kind))
    return image, target
"""


@pytest.fixture
def train_with_fault(shapes, tmp_path, monkeypatch):
    """Return a function that trains with two processes; the second meets a fault while it loads a step."""
    (tmp_path / "faults.py").write_text(FAULT)

    def train(kind: str, *options: str, step: int = 2, **overrides) -> subprocess.CompletedProcess:
        monkeypatch.setenv("STRIKE_AFTER", str(2 * (step - 1)))  # two images per step
        transforms = [{"type": "Resize", "size": (64, 64)}, {"type": "faults:strike", "kind": kind}]
        settings = {**NARROW, "data_root": shapes, "transforms": transforms, "imports": "faults", "max_iters": 5}
        settings |= {"work_dir": "run", "checkpoint_every": 1, "log_every": 1, **overrides}
        return torchrun(TOOL, *words(settings), options=options, folder=tmp_path)

    return train


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3])  # DistributedDataParallel exchanges data in the second forward pass
def test_an_error_on_one_process_ends_all_with_its_message(train_with_fault, step):
    ended = train_with_fault("error", step=step)
    assert ended.returncode != 0
    (line,) = re.findall(r"^error: .*", ended.stderr, re.M)
    assert line.startswith("error: process 1: transforms[1] (strike) failed at image ")
    assert re.search(r"ValueError: the sky is falling; iteration . is saved; resume=true work_dir=run continues$", line)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_a_checkpoint(train_with_fault, tmp_path):
    ended = train_with_fault("SIGKILL")
    assert ended.returncode != 0
    assert "another process of the run ended" in ended.stderr
    assert "trainer.py" not in ended.stderr  # torchrun has a traceback, the run does not
    assert read_checkpoint(tmp_path / "run")["iteration"] >= 1


@pytest.mark.slow
def test_a_restart_by_torchrun_continues_the_run(train_with_fault, tmp_path):
    ended = train_with_fault("SIGKILL", "--max-restarts=1")
    assert ended.returncode == 0, ended.stderr
    assert "resuming at iteration" in ended.stdout
    assert [entry["iteration"] for entry in read_log(tmp_path / "run") if "lr" in entry] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(train_with_fault, tmp_path):
    ended = train_with_fault("SIGUSR1")
    (iteration,) = re.findall("^stopped by SIGUSR1 at iteration (.) of 5, saved; resume=true work", ended.stderr, re.M)
    assert read_checkpoint(tmp_path / "run")["iteration"] == int(iteration)


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_launcher_that_accelerate_does_not_detect(variable, monkeypatch):
    monkeypatch.setenv(variable, "2")
    assert launched_processes() == (variable, 2)
    expected = rf"a launcher started 2 processes \({variable}=2\), but Accelerate finds 1; start them with"
    with pytest.raises(InputError, match=expected):
        make_accelerator("no")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert make_accelerator("no").num_processes == 1
