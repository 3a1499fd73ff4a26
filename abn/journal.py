"""What a run has to tell MLflow, on disk until MLflow has it: a file a run, a JSON object a line.

The first line is the head, every other an event with the time at which it happened. A journal is
locked for as long as a process that writes or sends it lives. Nothing waits for the disk here: a
machine that loses power loses the last events at most, and the files they tell of hold them too.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LIMIT = 256 * 2**20  # bytes of one journal: weeks of events

Count = Annotated[int, Field(ge=0, lt=2**53)]
Status = Literal["FINISHED", "FAILED", "KILLED"]
Line = TypeVar("Line", "Head", "Event")


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, ser_json_inf_nan="constants")


class Head(_Line):
    """Which run a journal tells of, and in which store it belongs."""

    store: str  # its address without secrets
    key: dict[str, str]  # the tags by which the run is found again
    name: str
    began: Count


class Event(_Line):
    """What happened at a time; mostly one thing."""

    time: Count
    points: dict[str, float] = {}  # on curves at `step`, or scores where there is none
    step: Count | None = None
    load: dict[str, float] = {}  # of the machine
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    artifact: str | None = None  # the path of a file
    end: Status | None = None
    backfill: bool = False  # counts only if the run was new or left unfinished


class Writer:
    """A new journal in `folder`, locked; it appears there with its head or not at all."""

    def __init__(self, folder: Path, head: Head) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{time.time_ns()}-{os.getpid()}.jsonl"
        part = self.path.with_suffix(".part")
        self.file = os.open(part, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX)
            append(self.file, head)
            part.rename(self.path)
        except OSError:
            self.close()
            part.unlink()
            raise

    def add(self, event: Event) -> None:
        """Append `event`; OSError where the disk refuses it."""
        append(self.file, event)

    def keep(self, path: Path) -> Path:
        """A second name for the content of `path`, which outlives it."""
        folder = _kept(self.path) / str(time.time_ns())
        folder.mkdir(parents=True)
        copy = folder / path.name
        try:
            os.link(path, copy)
        except OSError:  # another file system
            shutil.copyfile(path, copy)
        return copy

    def close(self) -> None:
        """Let go of it; it stays locked while another process holds the same open file."""
        os.close(self.file)


def append(file: int, line: Head | Event, limit: int = LIMIT) -> None:
    """Add a line to the open journal `file`, in one piece even beside another writer.

    It begins with a line break too, which ends what a full disk cut off before.
    """
    text = f"\n{line.model_dump_json(exclude_defaults=True)}\n".encode()
    if os.fstat(file).st_size + len(text) > limit:
        raise OSError(errno.EFBIG, f"it has {limit >> 20} MB, which is all it may hold")
    if os.write(file, text) < len(text):
        os.write(file, b"\n")  # raises what cut the line off: no room
        raise OSError(errno.ENOSPC, "a line was cut off")


def read(path: Path, start: int = 0) -> tuple[list[Event], int]:
    """The events in `path` from the byte `start` on, and the byte to go on from.

    A line that is not whole yet waits; one that is torn or no event is left out.
    """
    with path.open("rb") as file:
        file.seek(start)
        lines = file.read()
    whole = lines.rfind(b"\n") + 1
    events = (_parsed(Event, line) for line in lines[:whole].split(b"\n"))
    return [event for event in events if event], start + whole


def head(path: Path) -> Head | None:
    """The head of `path`, unless that is torn or has just been sent and removed."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        return next(filter(None, (_parsed(Head, line) for line in file)), None)
    return None


def _parsed(kind: type[Line], line: bytes) -> Line | None:
    try:
        return kind.model_validate_json(line)
    except ValidationError:
        return None


def heads(folder: Path) -> Iterator[tuple[Path, Head]]:
    """The journals in `folder` with their heads, oldest first."""
    for path in sorted(folder.glob("*.jsonl")):
        if found := head(path):
            yield path, found


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Lock `path` for the block: True, or False where it is gone or another process has it."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        yield _locked(file.fileno()) and path.exists()  # sent and removed since it was opened
        return
    yield False


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove(path: Path) -> None:
    """Forget a journal that MLflow has."""
    path.unlink(missing_ok=True)
    shutil.rmtree(_kept(path), ignore_errors=True)


def _kept(path: Path) -> Path:
    return path.with_suffix(".files")
