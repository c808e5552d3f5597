"""One writer per run folder: processes of this host through flock, those of other hosts through a counter."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from helpers import input_error

from detbackbones.engine import run_lock
from detbackbones.engine.run_lock import LOCK_FILE, RECORD_BYTES, RunLock, read_lock
from detbackbones.errors import InputError, RunError

# Takes the lock, runs the code in argv[2], says so and stays.
HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from detbackbones.engine.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
child = 0
exec(sys.argv[2])
print(child, flush=True)
time.sleep(60)
"""
FORK = """
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, b"runs")
    time.sleep(60)
    os._exit(0)
os.read(reader, 4)
"""
EXEC = "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], close_fds=False).pid"
FORK_AND_RELEASE = """
pid = os.fork()
if pid == 0:
    with open(sys.argv[1] + "/other", "w") as file:  # may get the number of the lock's descriptor
        lock.release()
        file.write("text")
    os._exit(0)
os.waitpid(pid, 0)
"""


@contextmanager
def holder(folder, code=""):
    """Start another process that holds the lock of a folder; yield it and the pid of the child that it has."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), code], stdout=subprocess.PIPE) as process:
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            process.kill()
            if child:
                os.kill(child, 9)


def acquire(folder):
    """Take the lock of a folder and release it."""
    with RunLock(folder) as lock:
        lock.acquire()


@pytest.fixture
def quick(monkeypatch):
    """Seconds become fractions."""
    for name, seconds in {"HEARTBEAT": 0.02, "STAND_STILL": 0.4, "POLL": 0.05, "SETTLE": 0.3}.items():
        monkeypatch.setattr(run_lock, name, seconds)


def write_record(folder, **values):
    """Write what a process of another host would have written."""
    record = {"host": "elsewhere", "pid": 7, "token": "abc", "count": 5, "launch": "", "released": False} | values
    (folder / LOCK_FILE).write_bytes(json.dumps(record).encode().ljust(RECORD_BYTES))


@contextmanager
def counting(folder):
    """Increment the counter of another host's record, as its process would."""
    end = threading.Event()

    def count():
        number = 5
        while not end.wait(0.02):
            number += 1
            write_record(folder, count=number)

    write_record(folder)
    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, capsys):
    with holder(tmp_path) as (process, _):
        with input_error(f"process {process.pid} on {socket.gethostname()}", tmp_path.name, "work_dir="):
            acquire(tmp_path)
        process.kill()
        process.wait()
        acquire(tmp_path)
    assert "waiting" not in capsys.readouterr().out


@pytest.mark.parametrize("code", [FORK, EXEC], ids=["fork", "exec"])
def test_children_that_outlive_the_holder_do_not_keep_the_lock(tmp_path, code):
    with holder(tmp_path, code) as (process, child):
        process.kill()
        process.wait()
        acquire(tmp_path)
        os.kill(child, 0)  # it runs


def test_a_forked_child_does_not_release_the_lock_of_its_parent(tmp_path):
    with holder(tmp_path, FORK_AND_RELEASE):
        assert not read_lock(tmp_path)["released"]
        assert (tmp_path / "other").read_text() == "text"
        with input_error("is in use"):
            acquire(tmp_path)


def test_a_released_lock_is_free(tmp_path):
    for _ in range(2):
        with RunLock(tmp_path) as lock:
            lock.acquire()
            with input_error("is in use"):
                acquire(tmp_path)
        lock.release()  # again, without effect


def test_a_counter_of_another_host_that_stands_still_is_waited_for(tmp_path, quick, capsys):
    write_record(tmp_path)
    start = time.monotonic()
    acquire(tmp_path)
    assert time.monotonic() - start >= 0.4
    assert "was used by process 7 on elsewhere; waiting 0.4 s" in capsys.readouterr().out
    assert read_lock(tmp_path)["host"] == socket.gethostname()


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_counter_of_another_host_that_moves_is_in_use(tmp_path, quick, monkeypatch, has_flock):
    monkeypatch.setattr(run_lock, "STAND_STILL", 60.0)
    if not has_flock:
        monkeypatch.setattr(run_lock, "fcntl", None)
    with counting(tmp_path), input_error("is in use by process 7 on elsewhere"):
        acquire(tmp_path)
    assert read_lock(tmp_path)["host"] == "elsewhere"


def test_a_lock_that_another_host_released_is_free_at_once(tmp_path, capsys):
    write_record(tmp_path, released=True)
    acquire(tmp_path)
    assert "waiting" not in capsys.readouterr().out


def test_a_lock_that_another_host_releases_meanwhile_is_taken(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(run_lock, "STAND_STILL", 60.0)
    write_record(tmp_path)
    threading.Timer(0.1, write_record, [tmp_path], {"released": True}).start()
    start = time.monotonic()
    acquire(tmp_path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("year", [1990, 2090])
def test_clock_and_file_times_do_not_matter(tmp_path, quick, monkeypatch, year):
    seconds = (year - 1970) * 365.25 * 86400
    monkeypatch.setattr(time, "time", lambda: seconds)
    with counting(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (seconds, seconds))
        with input_error("is in use"):
            acquire(tmp_path)
    os.utime(tmp_path / LOCK_FILE, (seconds, seconds))
    start = time.monotonic()
    with RunLock(tmp_path) as lock:
        lock.acquire()
        assert time.monotonic() - start >= 0.4
        os.utime(tmp_path / LOCK_FILE, (seconds, seconds))
        with input_error("is in use"):
            acquire(tmp_path)


def test_without_flock_one_of_several_that_start_together_gets_the_lock(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    monkeypatch.setattr(run_lock, "STAND_STILL", 60.0)
    results = []

    def start():
        with RunLock(tmp_path) as lock:
            try:
                lock.acquire()
                results.append("has it")
            except InputError as error:
                results.append(str(error))
            ready.wait()

    ready = threading.Barrier(4)  # nobody releases it before all have tried
    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("has it") == 1
    assert sum("is in use" in result for result in results) == 3


def test_without_flock_the_last_of_two_that_claim_at_one_moment_gets_the_lock(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    other = threading.Timer(0.1, write_record, [tmp_path])
    other.start()
    with input_error("is in use by process 7 on elsewhere"):
        acquire(tmp_path)
    other.join()
    assert read_lock(tmp_path)["host"] == "elsewhere"


def test_the_counter_moves_until_the_lock_is_released(tmp_path, quick):
    with RunLock(tmp_path) as lock:
        lock.acquire()
        lock.mark("launch 3")
        end = time.monotonic() + 10
        while read_lock(tmp_path)["count"] < 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert read_lock(tmp_path)["count"] >= 3
        assert read_lock(tmp_path)["launch"] == "launch 3"
    last = read_lock(tmp_path)
    time.sleep(0.1)
    assert read_lock(tmp_path) == last and last["released"]


def test_a_lock_that_was_taken_over_is_reported_and_left_alone(tmp_path, quick):
    with RunLock(tmp_path) as lock:
        lock.acquire()
        lock.check()
        with counting(tmp_path):
            time.sleep(0.2)
        time.sleep(0.1)
        with pytest.raises(RunError, match="was taken over by process 7 on elsewhere"):
            lock.check()
    record = read_lock(tmp_path)
    assert record["host"] == "elsewhere" and not record["released"]


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[1]", b'{"host": "elsew'])
def test_an_unreadable_record_does_not_lock(tmp_path, content):
    (tmp_path / LOCK_FILE).write_bytes(content)
    assert read_lock(tmp_path) == {}
    acquire(tmp_path)
    assert read_lock(tmp_path)["pid"] == os.getpid()


def test_a_lock_file_that_cannot_be_written(tmp_path):
    (tmp_path / LOCK_FILE).mkdir()
    with input_error(tmp_path.name, "cannot be locked", "directory"):
        acquire(tmp_path)
