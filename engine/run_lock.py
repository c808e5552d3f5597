"""A lock on the folder of a run, so that two processes never write into it."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from ..errors import InputError, RunError, shorten
from .console import plain_console

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HEARTBEAT = 5.0  # seconds between two increments of the holder's counter
STAND_STILL = 60.0  # seconds after which a counter that stands still belongs to a process that has ended
POLL = 1.0  # seconds between two looks at the counter
SETTLE = 2.0  # seconds after which a claim without flock is looked at again
LOCK_FILE = ".lock"
RECORD_BYTES = 1024  # written at once, so that a reader sees all of it

_inherited: set[int] = set()  # descriptors that a forked process closes, or it would keep the lock of its dead parent


def _close_inherited() -> None:
    for descriptor in _inherited:
        os.close(descriptor)
    _inherited.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


def read_lock(folder: Path) -> dict[str, Any]:
    """Return the record of the last process that held the lock of a folder; {} if there is none that can be read."""
    try:
        record = json.loads((folder / LOCK_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


class RunLock:
    """The lock on the folder of a run, a context that releases it at its end.

    On one host it is `flock`, which the kernel releases when the process ends, however it ends. For other hosts, and on
    systems without flock, a thread of the holder increments a counter in the lock file; another process takes the lock
    if the counter stands still for `STAND_STILL` seconds by its own monotonic clock.

    Args:
        folder: the folder, which exists.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._record: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "token": secrets.token_hex(8),
            "count": 0,
            "launch": "",
            "released": False,
        }
        self._descriptor: int | None = None
        self._access = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InputError: Another process holds it, or the lock file cannot be written.
        """
        try:
            self._descriptor = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            _inherited.add(self._descriptor)
            self._claim(is_exclusive=self._flock())
        except OSError as error:
            self._close()
            raise InputError(f"run folder {shorten(self.folder)} cannot be locked: {error.strerror}") from None
        except BaseException:
            self._close()
            raise
        self._thread.start()

    def mark(self, launch: str) -> None:
        """Write into the lock file which launch of torchrun the run in the folder belongs to."""
        with self._access:
            self._record["launch"] = launch
            self._write()

    def check(self) -> None:
        """Raise RunError if another process has taken the lock, because this one was suspended for too long."""
        if self._is_lost():
            holder = _describe(read_lock(self.folder))
            raise RunError(f"run folder {shorten(self.folder)} was taken over by {holder} while this one stood still")

    def release(self) -> None:
        """Give the lock back; without effect if this process does not hold it."""
        if os.getpid() != self._record["pid"]:  # a forked process
            return
        self._end.set()
        with self._access:
            if self._descriptor is not None and not self._is_lost():
                self._record["released"] = True
                with contextlib.suppress(OSError):
                    self._write()
            self._close()

    def _flock(self) -> bool:
        """Lock the file through the kernel; return whether that is possible on this system and file system."""
        if fcntl is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use(read_lock(self.folder)) from None
        except OSError:
            return False
        return True

    def _claim(self, is_exclusive: bool) -> None:
        """Write the record of this process, when no other process that flock cannot see holds the lock."""
        before = read_lock(self.folder)
        is_held = bool(before) and not before.get("released")
        if is_held and not (is_exclusive and before.get("host") == self._record["host"]):
            self._wait_until_dead(before)
            is_exclusive = False
        self._write()
        if not is_exclusive:  # another process may have found the same and write its own record now
            time.sleep(SETTLE)
            if self._is_lost():
                raise self._in_use(read_lock(self.folder))

    def _wait_until_dead(self, before: dict[str, Any]) -> None:
        """Wait until the counter in `before` has stood still long enough. Raises InputError if it does not."""
        plain_console().print(
            f"{shorten(self.folder)} was used by {_describe(before)}; waiting {STAND_STILL:g} s to see whether it runs"
        )
        start = time.monotonic()
        while time.monotonic() - start < STAND_STILL:
            time.sleep(POLL)
            record = read_lock(self.folder)
            if record.get("released"):
                return
            if record not in ({}, before):
                raise self._in_use(record)

    def _in_use(self, record: dict[str, Any]) -> InputError:
        holder = "another process" if record.get("released") else _describe(record)
        return InputError(
            f"run folder {shorten(self.folder)} is in use by {holder}; wait until it ends, stop it, or choose another "
            "folder with work_dir="
        )

    def _is_lost(self) -> bool:
        return read_lock(self.folder).get("token", self._record["token"]) != self._record["token"]

    def _count(self) -> None:
        """Increment the counter until the lock is released or lost."""
        while not self._end.wait(HEARTBEAT):
            with self._access, contextlib.suppress(OSError):
                if self._descriptor is None or self._is_lost():
                    return
                self._record["count"] += 1
                self._write()

    def _write(self) -> None:
        assert self._descriptor is not None
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, json.dumps(self._record).encode().ljust(RECORD_BYTES))
        os.fsync(self._descriptor)

    def _close(self) -> None:
        if self._descriptor is not None:
            _inherited.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def _describe(record: dict[str, Any]) -> str:
    if not record:
        return "another process"
    return f"process {record.get('pid')} on {shorten(record.get('host'))}"
