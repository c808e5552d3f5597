"""Notes on what slows a run down: each comes once, says how much, and names the key to change."""

import mmap
import os

import pytest
import torch

from detbackbones.engine import slowdowns
from detbackbones.engine.config import DEFAULT_CONFIG, load_config
from detbackbones.engine.slowdowns import FIRST_STEPS, WINDOW, Slowdowns, memory_use, usable_cores, used_megabytes

GB = 1 << 30


def make(workers=2, device="cpu"):
    config = load_config(DEFAULT_CONFIG, {"batch_size": 6, "accumulate": 3})
    return Slowdowns(config, torch.device(device), workers)


def notes(watch, steps):
    """Return the notes on steps, each (seconds, seconds of waiting), by the number of the step."""
    found = {number: watch.note_step(*step) for number, step in enumerate(steps, start=1)}
    return {number: note for number, note in found.items() if note}


# --- waiting for data


def test_waiting_is_noted_once_as_soon_as_the_window_is_full():
    found = notes(make(), [(1.0, 0.4)] * 500)
    assert list(found) == [FIRST_STEPS + WINDOW]
    assert "steps wait for data 40% of the time" in found[FIRST_STEPS + WINDOW]


@pytest.mark.parametrize(
    "steps",
    [
        [(1.0, 0.29)] * 500,
        [(30.0, 29.0)] * FIRST_STEPS + [(1.0, 0.1)] * 500,
        ([(1.0, 0.1)] * 49 + [(10.0, 9.0)]) * 5,
        [(1.0, 0.9)] * (FIRST_STEPS + WINDOW - 1),
        [(0.0, 0.0)] * 100,
    ],
    ids=["little", "the first steps", "one slow step", "few steps", "no time"],
)
def test_what_is_not_noted(steps):
    assert notes(make(), steps) == {}


def test_waiting_that_begins_late_is_noted():
    (number,) = notes(make(), [(1.0, 0.1)] * 1000 + [(1.0, 0.8)] * 100)
    assert 1000 < number <= 1050


@pytest.mark.parametrize(
    "workers,cores,remedy",
    [(0, 4, "raise workers=0 (4 cores"), (3, 4, "raise workers=3 (4 cores"), (4, 4, "4 workers use all 4 cores")],
)
def test_the_remedy_fits_the_cores(monkeypatch, workers, cores, remedy):
    monkeypatch.setattr(slowdowns, "usable_cores", lambda: cores)
    (note,) = notes(make(workers), [(1.0, 0.9)] * 60).values()
    assert remedy in note


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    assert usable_cores() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert usable_cores() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100")
    assert usable_cores() == 1


# --- memory


@pytest.mark.parametrize("workers,remedy", [(2, "use fewer than workers=2, or reduce"), (0, "in use); reduce")])
def test_full_memory_is_noted_once(monkeypatch, workers, remedy):
    used = [80, 89, 91, 99]
    monkeypatch.setattr(slowdowns, "memory_use", lambda: (used.pop(0) * GB, 100 * GB))
    watch = make(workers)
    first, second, note, later = (watch.note_memory() for _ in range(4))
    assert (first, second, later) == (None, None, None)
    assert "memory is nearly full (91.0 of 100.0 GB in use)" in note
    assert remedy in note
    assert "reduce batch_size=6 and raise accumulate=3" in note


def test_full_memory_of_a_gpu_is_noted_once(monkeypatch):
    properties = type("Properties", (), {"total_memory": 80 * GB})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: used * GB)
    monkeypatch.setattr(slowdowns, "memory_use", lambda: (0, GB))
    watch = make(device="cuda")
    used = 75
    assert watch.note_memory() is None
    used = 77
    assert "GPU memory is nearly full (77.0 of 80.0 GB at the peak); reduce batch_size=6" in watch.note_memory()
    assert watch.note_memory() is None


def test_memory_of_this_machine_is_measured():
    used, total = memory_use()
    assert 0 < used < total
    before = used_megabytes(torch.device("cpu"))
    with mmap.mmap(-1, 64 << 20) as block:  # memory that no allocator has kept from earlier tests
        block.write(b"\x01" * (64 << 20))
        assert 40 < used_megabytes(torch.device("cpu")) - before < 200


def write_group(folder, limit, used, inactive):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


def test_the_control_group_nearest_to_its_limit_counts(tmp_path, monkeypatch):
    """Only the part of the memory counts that cannot be dropped."""
    if not os.path.exists("/proc/self/cgroup"):
        pytest.skip("control groups are a part of Linux")
    monkeypatch.setattr(slowdowns, "CGROUPS", tmp_path)
    assert slowdowns._cgroup_memory() == []
    write_group(tmp_path, 10_000, 9_999, 2_000)
    assert slowdowns._cgroup_memory() == [(7_999, 10_000)]
    assert memory_use() == (7_999, 10_000) or memory_use()[0] / memory_use()[1] > 0.79
    write_group(tmp_path, "max", 9_999, 2_000)
    assert slowdowns._cgroup_memory() == []
