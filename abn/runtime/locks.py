"""Locks between processes: the second one waits, then names the first."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from abn.runtime import env
from abn.runtime.errors import BusyError

WAIT = 60.0  # seconds


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; BusyError where another process does `what` for too long.

    That is WAIT seconds, or ABN_WAIT. The lock is released when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=env.number("ABN_WAIT", WAIT))
    except Timeout:
        holder = "process " + (path.read_text("utf-8") or "unknown")
        raise BusyError(f"{what} is under way", holder, "wait for it, or stop it") from None
    try:
        path.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)  # a waiting process notices and creates it again
        lock.release()
