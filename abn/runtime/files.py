"""Atomic writes that survive a power cut, and disk space."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abn.runtime.errors import DiskError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to `path` at the end of the block; removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        settle(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def settle(part: Path, path: Path) -> None:
    """Rename the finished file `part` to `path`; after a power cut it is the old or the new file.

    Without the first sync the name could be on the disk before the content is; without the second
    the new name could be lost.
    """
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_room(folder: Path, size: int) -> None:
    """DiskError unless `size` more bytes fit on the disk of `folder`."""
    if (free := shutil.disk_usage(folder).free) < size:
        what = f"{size:,} bytes are needed, {free:,} are free"
        raise DiskError(what, folder, "make room there and run again")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """DiskError that names `path` where an OSError is raised in the block."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise DiskError(
            what, path, "make room or give write access there, then run again"
        ) from error
