"""Stopping: on a signal, or where nobody reads the output; at once, or after a piece of work."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

# Ctrl-C; kill and schedulers; a closed terminal; SLURM's warning before the time is up.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
PR_SET_PDEATHSIG = 1  # Linux's prctl


class Stopped(KeyboardInterrupt):
    """The process was asked to stop, by Ctrl-C or any other of SIGNALS."""


class GracefulStop:
    """Turns the first signal into `Stopped`; the second one ends the process.

    With `ignore`, signals are only noted in `requested`: other processes decide when this one ends.
    """

    def __init__(self, ignore: bool = False) -> None:
        self.ignore = ignore
        self.requested = False
        self._depth = 0  # of `deferred` blocks

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Delay `Stopped` to the end of the block."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        self._raise_if_due()

    @contextmanager
    def install(self) -> Iterator["GracefulStop"]:
        """Handle SIGNALS inside the block, except those the process ignores (as under nohup)."""
        handled = [n for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        former = {number: signal.signal(number, self._handle) for number in handled}
        try:
            yield self
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.requested = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self.requested and not self._depth and not self.ignore:
            raise Stopped


class Output:
    """A text stream; where its reader is gone (`| head -1`), the process is asked to stop.

    It gets SIGTERM, so that a training saves its state. Nothing is printed on it: there is nowhere.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._quiet():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._quiet():
            self._stream.flush()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())  # for what is written from now on
            os.close(null)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # there is nothing to save
                os._exit(128 + signal.SIGPIPE)
            signal.raise_signal(signal.SIGTERM)


def stop_where_nobody_reads() -> None:
    """Make stdout and stderr an `Output` each."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), Output | None):
            setattr(sys, name, Output(getattr(sys, name)))


def end_with_parent() -> None:
    """On Linux, get SIGTERM when the parent process dies, however it dies."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call
        signal.raise_signal(signal.SIGTERM)
