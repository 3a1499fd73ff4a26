"""Small disks for a while, and what is on them afterwards."""

import ctypes
import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from abn.runtime.errors import DiskError
from tests.faults import NotHere

T = TypeVar("T")

CLONE_NEWNS, MS_RDONLY, MS_PRIVATE_REC = 0x20000, 1, 0x44000  # of linux/sched.h and linux/mount.h


def on_disk(folder: Path, size: int, work: Callable[[], T], read_only: bool = False) -> T:
    """`work()` in a thread to which `folder` is a disk of `size` bytes; nobody else sees it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def run() -> T:
        options, flags = f"size={size}".encode(), MS_RDONLY * read_only
        done = libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_PRIVATE_REC, None)
        if done or libc.mount(b"none", os.fsencode(folder), b"tmpfs", flags, options):
            raise NotHere(f"may not mount a disk ({os.strerror(ctypes.get_errno())})")
        return work()

    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(1) as pool:  # the disk goes with the thread
        return pool.submit(run).result()


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


@contextmanager
def told(words: str, folder: Path) -> Iterator[None]:
    """One DiskError says `words`, and no file is left in `folder`."""
    try:
        yield
        raise AssertionError("no error")
    except DiskError as error:
        assert words in str(error) and "\n" not in str(error), error
    assert left(folder) in ([], ["hog"]), left(folder)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
