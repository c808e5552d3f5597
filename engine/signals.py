"""Stop a run at the end of a step, with a checkpoint, if the system or the user asks for it."""

import signal
import threading
import time
from types import FrameType
from typing import Any

from ..errors import Interrupted

# SIGUSR1 is the warning that SLURM sends before the time limit (--signal); Windows has SIGINT and SIGTERM only.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


class StopSignals:
    """Context in which SIGTERM, SIGINT, SIGHUP and SIGUSR1 are recorded instead of ending the process.

    A second Ctrl-C at least a second after the first signal ends the process at once. torchrun sends SIGINT and SIGTERM
    to its processes within that second, beside the Ctrl-C that the terminal sends to all.

    Attributes:
        received: number of the first signal, 0 if there was none.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in STOP_SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > 1:
            raise KeyboardInterrupt

    def check(self, state: str) -> None:
        """Raise Interrupted if a signal was received; `state` ends its message: what is saved."""
        if self.received:
            raise interrupted(self.received, state)


def interrupted(number: int, state: str) -> Interrupted:
    """Return the exception that ends a run after a signal; the exit status is 128 + number, as the shell reports it."""
    return Interrupted(f"stopped by {signal.Signals(number).name} {state}", 128 + number)


def ignore_stop_signals(worker: int = 0) -> None:
    """Leave stopping to the main process: a terminal or a scheduler sends its signals to loading processes too."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
