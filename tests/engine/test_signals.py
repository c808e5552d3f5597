"""StopSignals: signals are recorded, and a second Ctrl-C ends the process."""

import os
import signal
import time

import pytest

from detbackbones.engine.signals import StopSignals


def test_a_second_interrupt_leaves_at_once_unless_it_comes_within_a_second():
    with StopSignals() as signals:
        for _ in range(3):  # the terminal and torchrun may both send it
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        signals._since -= 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_an_ignored_signal_stays_ignored():
    """As nohup does with SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == 0
    finally:
        signal.signal(signal.SIGHUP, before)
