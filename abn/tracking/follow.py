"""A stage's side of the mirror to MLflow: one process beside the stages sends what they write.

To import MLflow takes seconds. So the process (abn.tracking.follower) stays a while for the next
stage of the same folder, which finds it by a socket in `.cache/tracking`.

The stage waits for a store at its end only, and not long. What is late arrives with the next stage
or `abn sync`; only a store that refuses or does not answer is a warning.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

from abn.experiments import dvc
from abn.runtime.progress import say
from abn.tracking import outbox

FINISHED, STOPPED = 12.0, 5.0  # seconds that a stage waits at its end; if it was stopped
TRIES, PAUSE = 3, 2.0  # how often a stage calls again where it was cut off, and seconds before
# Prefixes of what a store may read. Other variables are set by the libraries of single stages.
LEADING = (
    *("MLFLOW", "AWS", "AZURE", "GOOGLE", "DATABRICKS", "PG", "MYSQL", "ODBC", "SSL", "REQUESTS"),
    *("CURL", "HTTP", "ALL_PROXY", "NO_PROXY", "HOME", "NETRC", "PYTHONPATH"),
)


@contextmanager
def following() -> Iterator[None]:
    """Mirror to MLflow while a stage runs in the current folder; also a decorator."""
    line, patience = Line() if outbox.enabled() else None, STOPPED
    try:
        yield
        patience = FINISHED
    finally:
        if line:
            line.end(patience)


class Line:
    """The line from a stage to the process beside it."""

    def __init__(self) -> None:
        self._hello = hello()
        self._ended = threading.Event()
        self._connection = self._call()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def end(self, patience: float) -> None:
        """The stage has ended: wait `patience` seconds for the last look at its files."""
        self._ended.set()
        self._hang_up()
        self._listener.join(patience)  # if it is late, it goes on alone

    def _call(self) -> socket.socket | None:
        """A connection to the process, which is started where none is."""
        try:
            connection = _find() or _start()
        except OSError as error:
            say(f"tracking: not started ({error.strerror}); `abn sync` sends everything later")
            return None
        with suppress(OSError):  # it was killed
            connection.sendall(self._hello)
        return connection

    def _listen(self) -> None:
        """Say what comes. Where the process ends before the stage, call again."""
        for _ in range(1 + TRIES):
            if not self._connection:
                return
            with self._connection, suppress(OSError):
                for line in self._connection.makefile("r", encoding="utf-8"):
                    say(f"tracking: {line.rstrip()}")
            if self._ended.wait(PAUSE):
                return
            self._connection = self._call()
            if self._ended.is_set():
                self._hang_up()

    def _hang_up(self) -> None:
        if self._connection:
            with suppress(OSError):  # the process was killed
                self._connection.shutdown(socket.SHUT_WR)


def hello() -> bytes:
    """What a stage says of itself: where it runs, since when, and in which experiment."""
    about = {"folder": str(Path.cwd()), "since": time.time(), "experiment": dvc.current()}
    return json.dumps(about).encode() + b"\n"


def _find() -> socket.socket | None:
    """A connection to the process that an earlier stage has left."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(_address())
        return connection
    except OSError:  # no such file, or nobody listens
        connection.close()
        return None


def _start() -> socket.socket:
    """A connection to a new process, which ends after this one, however that ends."""
    ours, theirs = socket.socketpair()
    with theirs, socket.socket(socket.AF_UNIX) as listener:
        sockets = [theirs, *([listener] if _listens(listener) else [])]
        numbers = [each.fileno() for each in sockets]
        words = [sys.executable, "-m", "abn.tracking.follower", *map(str, numbers)]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), DEVNULL)
        try:  # in a session of its own: Ctrl-C is not meant for it
            subprocess.Popen(words, **pipes, start_new_session=True, pass_fds=numbers)
        except OSError:
            ours.close()
            raise
    return ours


def _listens(listener: socket.socket) -> bool:
    """Whether later stages can find `listener`; on a disk that holds no sockets they cannot."""
    path = Path(_address())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()
    except OSError:
        return False
    return True


def _address() -> str:
    """Where a process listens that sends as one with this environment and code would.

    It is relative: the address of a socket holds about a hundred characters.
    """
    given = sorted((k, v) for k, v in os.environ.items() if k.upper().startswith(LEADING))
    about = json.dumps([str(dvc.root()), __file__, sys.executable, given])
    key = hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:16]
    return os.path.relpath(outbox.folder() / f"{key}.socket")
