"""Atomic writes that survive a power cut, and disk space."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abn.runtime.errors import DiskError

SYSTEM = re.compile(r"\.DS_Store|\.directory|Thumbs\.db|desktop\.ini")  # what file browsers leave


def absolute(path: str | os.PathLike[str]) -> Path:
    """`path` from the root, without `..`; links are not followed, unlike by Path.resolve."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def partial(path: Path) -> Path:
    """Where `path` is written before it has its name: hidden, beside it, and a name of ours only.

    What is there is a rest of a killed process of ours, so it may be removed.
    """
    return path.with_name(f".{path.name}.abn.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, renamed to `path` at the end of the block; removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = partial(path)
    part.unlink(missing_ok=True)
    try:
        yield part
        settle(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(folder: Path, ours: re.Pattern[str]) -> Iterator[Path]:
    """A new folder to fill, put in place of `folder` at the end of the block; removed on an error.

    DiskError, before anything is removed, where `folder` is a link or a file, or holds a file whose
    name is not one of `ours`.
    """
    require_only(folder, ours)
    part = partial(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for file in part.iterdir():
            sync(file)
        require_only(folder, ours)
        if folder.exists():
            shutil.rmtree(folder)
        settle(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def require_only(folder: Path, ours: re.Pattern[str]) -> None:
    """DiskError unless `folder` is missing, or a folder of files with names of `ours`."""
    require_not_here(folder)
    is_other = folder.is_symlink() or folder.is_file()
    for path in [folder] if is_other else sorted(folder.glob("*")):
        if path.is_dir() or not (ours.fullmatch(path.name) or SYSTEM.fullmatch(path.name)):
            what = "not written by this project, and in the place of an output"
            raise DiskError(what, path, "move it elsewhere, then run the same command again")


def require_not_here(folder: Path) -> None:
    """DiskError if `folder` is the working folder or one above it: replaced, it would be lost."""
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise DiskError("the working folder is in it", folder, "name a new folder")


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
