"""The outbox of a training: a line of JSON per epoch, kept until MLflow has it.

One file per training, `.cache/tracking/FINGERPRINT.jsonl` in the main repository. Each line has
"time" (ms) and one of "start" (params and tags; again when it resumes), "row" (an epoch) and "end"
(tags of the finished weights). The file is locked while its training runs. A torn line is ignored,
and nothing here raises: no training fails because of its outbox.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from abn.experiments import dvc, git
from abn.runtime import redaction
from abn.runtime.progress import say

Add = Callable[[str, Mapping[str, Any]], None]

_warned = False  # once a process


def enabled() -> bool:
    """Whether this process mirrors to MLflow: not with ABN_TRACKING=off."""
    return os.environ.get("ABN_TRACKING") != "off"


def folder() -> Path:
    """Where the outboxes are."""
    return dvc.root() / ".cache" / "tracking"


def warn(line: str) -> None:
    """Print the first warning of this process; the others would say the same."""
    global _warned
    if not _warned:
        say(f"tracking: {line}")
    _warned = True


@contextmanager
def training(fingerprint: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Iterator[Add]:
    """Lock the outbox of a training for the block; yields `add(kind, content)` for its lines."""
    path = folder() / f"{fingerprint}.jsonl"
    file = _open(path) if enabled() else None

    def add(kind: str, content: Mapping[str, Any]) -> None:
        line = json.dumps({"time": time.time_ns() // 1_000_000, kind: content})
        text = f"\n{line}\n".encode()  # the first line break ends a torn line
        try:
            if file is not None and os.write(file, text) < len(text):
                raise OSError("no room for a line")
        except OSError as error:
            _lost(path, error)

    commit = {"git.commit": git.output("rev-parse", "--verify", "--quiet", "HEAD")}
    known = {key: text.strip() for key, text in commit.items() if text} | dvc.current()
    add("start", {"params": redaction.within(params), "tags": {**tags, **known}})
    try:
        yield add
    finally:
        if file is not None:
            os.close(file)


def _open(path: Path) -> int | None:
    """Open and lock `path`; again if it was removed in between."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and path.stat().st_ino == os.fstat(file).st_ino:
                return file
            os.close(file)
    except OSError as error:
        _lost(path, error)
        return None


def _lost(path: Path, error: OSError) -> None:
    what = f"cannot write {path} ({error.strerror or error})"
    warn(f"{what}; training goes on, and MLflow gets the curves from plots/history.csv")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of `path`."""
    lines = []
    for text in path.read_bytes().splitlines():
        with suppress(ValueError):
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict) and "time" in line]


@contextmanager
def stopped(path: Path) -> Iterator[bool]:
    """Whether no training writes to `path`; if so, none begins to in the block."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def remove(path: Path) -> None:
    """Forget what MLflow has, unless the training has begun again or somebody was faster."""
    with suppress(FileNotFoundError), stopped(path) as free:
        if free:
            path.unlink()
