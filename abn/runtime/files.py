"""Files that are whole or not there at all, also when the power fails, and room for them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abn.runtime.errors import DiskError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: on the disk it takes its place, on an error it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        settle(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def settle(part: Path, path: Path) -> None:
    """Give the finished file `part` the name `path`, so that a power cut leaves it whole or old.

    Without the first sync the name may survive without the content, without the second vanish.
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
    """DiskError unless `size` more bytes fit on the disk that holds `folder`."""
    if (free := shutil.disk_usage(folder).free) < size:
        what = f"{size:,} bytes are needed, {free:,} are free"
        raise DiskError(what, folder, "make room there and run again")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """DiskError that names `path` where the disk, or who may write to it, refuses."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise DiskError(what, path, "make room or give write access there and run again") from error
