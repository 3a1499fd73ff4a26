"""Locks between processes: the second one waits, then names the first."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from abn.runtime import env
from abn.runtime.errors import BusyError

WAIT = 60.0  # seconds
REFUSED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # by a disk that has no flock


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; BusyError where another process does `what` for too long.

    That is WAIT seconds, or ABN_WAIT. The lock is released when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire(path, env.number("ABN_WAIT", WAIT))
    except Timeout:
        raise BusyError(f"{what} is under way", *_holder(path)) from None
    try:
        if isinstance(lock, FileLock):  # the other kind has its own record in the file
            path.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)  # a waiting process notices and creates it again
        lock.release()


def acquire(path: Path, timeout: float) -> BaseFileLock:
    """A lock that this process holds; filelock's Timeout where another has it for `timeout` s.

    Where the disk refuses flock (NFS without its lock service), a file beside `path` is the lock.
    It names process and machine; the next process on this machine breaks it if that one is dead.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        lock = SoftFileLock(soft(path))
        lock.acquire(timeout=timeout)
    return lock


def soft(path: Path) -> Path:
    """The file that stands for the lock `path` on a disk without flock."""
    return path.with_name(f"{path.name}.soft")


def _holder(path: Path) -> tuple[str, str]:
    """Who holds the lock `path`, and what to do."""
    if not soft(path).exists():
        return f"process {path.read_text('utf-8') or 'unknown'}", "wait for it, or stop it"
    process, host, *_ = [*soft(path).read_text("utf-8").split(), "unknown", "unknown"]
    remedy = f"wait for it, or stop it; if it is gone: rm {soft(path)}"
    return f"process {process} on {host}", remedy
