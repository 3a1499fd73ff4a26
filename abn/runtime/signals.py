"""Being asked to stop: at once, or once the piece of work in hand is whole."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; kill and schedulers; a closed terminal; SLURM's warning before the time is up.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1  # Linux's prctl


class Stopped(KeyboardInterrupt):
    """Someone asked to stop, by Ctrl-C or any other of SIGNALS."""


class Stopper:
    """Turns the first signal into `Stopped`, the second into the end of the process.

    A `patient` one only takes note: its process goes on for as long as others need it.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.asked = False
        self._held = 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """No interruption inside: one that was asked for meanwhile comes at the end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._raise_if_due()

    @contextmanager
    def listening(self) -> Iterator["Stopper"]:
        """Take over the signals of this process, but not what it ignores, as under nohup."""
        heard = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        former = {number: signal.signal(number, self._note) for number in heard}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self.asked and not self._held and not self.patient:
            raise Stopped


def end_with_parent() -> None:
    """On Linux, be asked to stop when the process that started this one dies, however it dies."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was faster
        signal.raise_signal(signal.SIGTERM)
