"""The outbox of a training: a line of JSON per epoch, kept until MLflow has it.

One file per training, `.cache/tracking/FINGERPRINT.jsonl` in the main repository. Each line has
"time" (ms) and one of "start" (params and tags; again when it resumes), "row" (an epoch) and "end"
(tags of the finished weights). The file is locked while its training runs; no error here stops it.
"""

import fcntl
import functools
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from abn.experiments import dvc, git
from abn.runtime import env, redaction
from abn.runtime.progress import say

OFF, ON = ("off", "0", "no", "false"), ("on", "1", "yes", "true")
Add = Callable[[str, Mapping[str, Any]], None]


def enabled() -> bool:
    """Whether this process mirrors to MLflow: not with ABN_TRACKING=off; ParamsError as `word`."""
    return env.word("ABN_TRACKING", *OFF, *ON) not in OFF


def folder() -> Path:
    """Where the outboxes are."""
    return dvc.root() / ".cache" / "tracking"


@contextmanager
def training(fingerprint: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[Add]:
    """Lock the outbox of a training for the block; yields `add(kind, content)` for its lines."""
    path = folder() / f"{fingerprint}.jsonl"
    file: BinaryIO = io.BytesIO()
    try:
        if enabled():
            path.parent.mkdir(parents=True, exist_ok=True)
            while not os.fstat((file := _locked(path)).fileno()).st_nlink:  # discarded meanwhile
                file.close()
    except OSError as error:
        _warn(path, str(error.strerror))

    def add(kind: str, content: Mapping[str, Any]) -> None:
        line = json.dumps({"time": time.time_ns() // 1_000_000, kind: content})
        try:
            file.write(f"\n{line}\n".encode())  # the first line break ends a torn line
            file.flush()  # what finds no room is kept, for the next time
        except OSError as error:
            _warn(path, str(error.strerror))

    known = {"git.commit": (git.output("rev-parse", "HEAD") or "").strip()} | dvc.current()
    add("start", {"params": redaction.within(params), "tags": {**tags, **known}})
    try:
        yield add
    finally:
        with suppress(OSError):
            file.close()


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def discard(path: Path) -> None:
    """Remove an outbox, unless a training writes to it."""
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


@functools.cache  # once for each reason
def _warn(path: Path, reason: str) -> None:
    what = f"tracking: cannot write {path} ({reason})"
    say(f"{what}; training goes on, and MLflow gets the curves from plots/history.csv")


def read(path: Path) -> tuple[bool, list[dict[str, Any]]]:
    """Whether a training writes to `path`, and its lines."""
    running, lines = True, []
    with path.open("rb") as file:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            running = False
        for text in file:
            with suppress(ValueError):
                lines.append(json.loads(text))
    return running, [line for line in lines if isinstance(line, dict) and "time" in line]
