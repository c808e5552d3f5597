"""Checkpoints: what is on the disk at every moment, and what they refuse."""

import errno
import os
import subprocess
from contextlib import contextmanager

import pytest
import torch
from helpers import input_error
from torch import nn

from detbackbones import InputError
from detbackbones.engine import checkpoint
from detbackbones.engine.checkpoint import (
    CheckpointError,
    check_finite,
    load_optimizer,
    read_checkpoint,
    remove_leftovers,
    replace_file,
    save_checkpoint,
    save_weights,
)
from detbackbones.errors import RunError, shorten

CONTENT = {"model": {"w": torch.arange(256.0)}, "config": {"model": {}}, "metadata": {}}


def save(path, iteration, keep=1):
    save_checkpoint(path, CONTENT | {"iteration": iteration}, keep)


def iterations(folder) -> dict[str, int]:
    """The files of a folder with the iterations of the checkpoints among them."""
    return {path.name: read_checkpoint(path)["iteration"] for path in folder.iterdir()}


def test_what_is_not_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pt does not exist"):
        read_checkpoint(tmp_path / "nowhere.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"broken\.pt cannot be read"):
        read_checkpoint(tmp_path / "broken.pt")
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt is not a detbackbones checkpoint \(missing: config, metadata\)"):
        read_checkpoint(tmp_path / "other.pt")
    torch.save({"model": {}, "config": "text", "metadata": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt is not a detbackbones checkpoint \(missing: config\)"):
        read_checkpoint(tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"last\.pt does not exist.*broken\.pt, other\.pt"):
        read_checkpoint(tmp_path)


def test_a_failed_save_keeps_the_old_file(tmp_path):
    save(tmp_path / "last.pt", 1)
    with pytest.raises(AttributeError):
        save_checkpoint(tmp_path / "last.pt", {"model": lambda: None})  # cannot be pickled
    assert iterations(tmp_path) == {"last.pt": 1}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_checkpoints_before_the_last_are_kept(tmp_path, keep):
    for iteration in range(1, 6):
        save(tmp_path / "last.pt", iteration, keep)
    expected = {"last.pt": 5, "last-1.pt": 4, "last-2.pt": 3}
    assert iterations(tmp_path) == dict(list(expected.items())[:keep])


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_at(number, is_after):
    """Make the process "end" before or after a renaming; a killed process does not clean up."""
    calls = []

    def rename(source, target):
        calls.append(target)
        if len(calls) == number and not is_after:
            raise Killed
        rename_really(source, target)
        if len(calls) == number:
            raise Killed

    rename_really = os.replace
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", rename)
        patch.setattr(checkpoint.Path, "unlink", lambda *_, **__: None)
        yield


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("keep,number", [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)])
def test_at_every_moment_of_a_save_there_is_a_whole_checkpoint(tmp_path, keep, number, is_after):
    for iteration in (1, 2, 3):
        save(tmp_path / "last.pt", iteration, keep)
    with killed_at(number, is_after):
        save(tmp_path / "last.pt", 4, keep)
    is_moved = is_after and number == keep
    newest = 4 if is_moved else 3
    assert read_checkpoint(tmp_path)["iteration"] == newest
    assert len(list(tmp_path.glob("*.tmp"))) == 1 - is_moved
    remove_leftovers(tmp_path)
    found = iterations(tmp_path)
    assert found["last.pt"] == newest and len(found) >= max(keep - 1, 1)
    save(tmp_path / "last.pt", 5, keep)
    found = iterations(tmp_path)
    assert found["last.pt"] == 5 and found.get("last-1.pt") == (newest if keep > 1 else None)


def damage_file(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_leftovers_are_removed_and_the_newest_whole_checkpoint_becomes_the_last(tmp_path, capsys):
    for iteration in range(1, 5):
        save(tmp_path / "last.pt", iteration, keep=4)
    for name in ("last.pt.12-0af3.tmp", "log.jsonl.9-0af3.tmp", "mine.tmp", "notes.txt"):
        (tmp_path / name).touch()
    damage_file(tmp_path / "last.pt")
    damage_file(tmp_path / "last-1.pt")
    remove_leftovers(tmp_path)
    assert "last-2.pt is used because last.pt cannot be read (wrong checksum of" in capsys.readouterr().out
    names = {"last.pt", "last-3.pt", "last.pt.damaged", "last-1.pt.damaged", "mine.tmp", "notes.txt"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert read_checkpoint(tmp_path)["iteration"] == 2
    assert capsys.readouterr().out == ""  # said once
    save(tmp_path / "last.pt", 3, keep=2)
    assert read_checkpoint(tmp_path / "last-1.pt")["iteration"] == 2


def test_if_every_checkpoint_is_damaged_none_is_renamed(tmp_path):
    for iteration in (1, 2):
        save(tmp_path / "last.pt", iteration, keep=2)
    for name in ("last.pt", "last-1.pt"):
        damage_file(tmp_path / name)
    with input_error("no checkpoint that can be used", "last.pt cannot be read", "last-1.pt cannot be read"):
        remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "last-1.pt"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), SystemExit(3)])
def test_an_exception_while_a_file_is_written(tmp_path, error):
    (tmp_path / "file").write_text("old")
    with pytest.raises(type(error)) as caught, replace_file(tmp_path / "file", keep=2) as file:
        file.write(b"new")
        raise error
    assert caught.value is error
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


class FullDisk:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file, capacity, error):
        self.file, self.capacity, self.error = file, capacity, error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.capacity -= len(data)
        if self.capacity < 0:
            raise self.error
        return self.file.write(data)


@pytest.mark.parametrize("capacity", [0, 100, 700, 1500])
def test_a_full_disk_is_one_line_and_leaves_everything_as_it_was(tmp_path, monkeypatch, capacity):
    for iteration in (1, 2):
        save(tmp_path / "last.pt", iteration, keep=2)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    full = lambda *arguments: FullDisk(open(*arguments), capacity, error)  # noqa: E731
    monkeypatch.setattr(checkpoint, "open", full, raising=False)
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path / "last.pt", 3, keep=2)
    assert str(caught.value) == f"{shorten(tmp_path / 'last.pt')} cannot be written: No space left on device"
    assert iterations(tmp_path) == {"last.pt": 2, "last-1.pt": 1}


def test_ctrl_c_while_torch_writes_stays_ctrl_c(tmp_path, monkeypatch):
    full = lambda *arguments: FullDisk(open(*arguments), 700, KeyboardInterrupt())  # noqa: E731
    monkeypatch.setattr(checkpoint, "open", full, raising=False)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "last.pt", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call,name", [("replace", "rename"), ("fsync", "sync")])
def test_a_system_call_that_fails(tmp_path, monkeypatch, call, name):
    def fail(*_):
        raise OSError(errno.EIO, f"cannot {name}")

    save(tmp_path / "last.pt", 1)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(CheckpointError, match=rf"last\.pt cannot be written: cannot {name}"):
        save(tmp_path / "last.pt", 2, keep=2)
    monkeypatch.undo()
    assert iterations(tmp_path) == {"last.pt": 1}


def test_an_error_that_is_being_handled_is_not_taken_for_the_cause(tmp_path):
    try:
        raise OSError(errno.ENOSPC, "of something else")
    except OSError:
        with pytest.raises(AttributeError):
            save_checkpoint(tmp_path / "last.pt", {"model": lambda: None})


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.name != "posix", reason="needs mount")
def test_a_disk_that_is_really_full(small_disk):
    values = torch.zeros(4096)  # 16 KiB
    for iteration in (1, 2):
        save_checkpoint(small_disk / "last.pt", CONTENT | {"iteration": iteration, "values": values}, keep=2)
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be written: No space left on device$"):
        save_checkpoint(small_disk / "last.pt", CONTENT | {"iteration": 3, "values": values.repeat(3)}, keep=2)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_weights(small_disk / "model.safetensors", {"values": values.repeat(4)}, {}, {})
    assert iterations(small_disk) == {"last.pt": 2, "last-1.pt": 1}
    save_checkpoint(small_disk / "last.pt", CONTENT | {"iteration": 3, "values": values}, keep=2)
    assert iterations(small_disk) == {"last.pt": 3, "last-1.pt": 2}


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be written: No such file or directory"):
        save(tmp_path / "nowhere" / "last.pt", 1)


def test_checksums_are_written_whatever_torch_is_told(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save(tmp_path / "last.pt", 1)
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(True)
    assert iterations(tmp_path) == {"last.pt": 1}
    damage_file(tmp_path / "last.pt")
    with input_error("last.pt", "wrong checksum"):
        read_checkpoint(tmp_path)


def test_weights_alone_are_read_as_a_checkpoint(tmp_path):
    config, metadata = {"model": {"type": "x", "levels": (2, 3)}}, {"category_names": ["a"]}
    save_weights(tmp_path / "model.safetensors", CONTENT["model"], config, metadata)
    content = read_checkpoint(tmp_path / "model.safetensors")
    assert torch.equal(content["model"]["w"], CONTENT["model"]["w"])
    assert content["config"] == config and content["metadata"] == metadata
    damage_file(tmp_path / "model.safetensors")
    with input_error("model.safetensors", "its checksum is wrong"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_weights_with_a_config_that_json_does_not_have(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be written: JSON has no form of Tensor"):
        save_weights(tmp_path / "model.safetensors", {}, {"value": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite(value, dtype):
    weights = torch.zeros(3, 3, dtype=dtype)
    weights[1, 2] = value
    state = {"model": {"a.weight": torch.zeros(2)}, "optimizer": {"state": {0: {"buffers": [weights.abs(), weights]}}}}
    with pytest.raises(
        RunError, match=r"^the state has a value that is not finite: optimizer\.state\.0\.buffers\.[01];"
    ):
        check_finite(state, "the state")


def test_values_that_are_finite():
    tensors = [torch.zeros(0), torch.tensor(3), torch.tensor([True]), torch.full((2,), torch.finfo().max), None, "nan"]
    check_finite({"model": {str(number): value for number, value in enumerate(tensors)}, "steps": 3}, "the state")
    check_finite({}, "the state")


def trained(widths=(3, 4), **settings):
    """A model and an optimizer that has made a step."""
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(widths, widths[1:])))
    optimizer = torch.optim.AdamW(model.parameters(), **{"lr": 0.1} | settings)
    model(torch.ones(1, widths[0])).sum().backward()
    optimizer.step()
    return optimizer


def test_an_optimizer_gets_its_state_and_keeps_its_settings():
    saved, optimizer = trained(weight_decay=0.5), trained(weight_decay=0.1)
    state = saved.state_dict()
    state["state"][0]["exp_avg"] = torch.full((4, 3), 7.0)
    load_optimizer(optimizer, state, "last.pt")
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], torch.full((4, 3), 7.0))


@pytest.mark.parametrize(
    "state,words",
    [
        (trained((3, 4, 5)).state_dict(), ["it has 4 tensors in 1 parameter group(s), and the run trains 2 tensors"]),
        (trained((2, 4)).state_dict(), ["exp_avg has shape (4, 2) for a parameter of (4, 3)"]),
        ({}, ["it is not the state of an optimizer"]),
        ({"param_groups": 3, "state": None}, ["it is not the state of an optimizer"]),
    ],
)
def test_an_optimizer_state_that_does_not_fit(state, words):
    with input_error("the optimizer state of last.pt does not fit", *words, "init_from="):
        load_optimizer(trained(), state, "last.pt")
