"""What git says of this clone."""

import io
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from abn.runtime.errors import DataError


def output(*words: str) -> str | None:
    """What `git` prints for `words`; None where it refuses, or is not there.

    A name or a message that is not UTF-8 has marks in the place of what cannot be read.
    """
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, encoding="utf-8", errors="surrogateescape"
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def require(folder: Path) -> None:
    """DataError where `folder` is in a repository that git refuses to read, or git is missing."""
    remedy = f"see what `git -C {folder} status` says"
    try:
        words = ["git", "-C", str(folder), "rev-parse", "--git-dir"]
        done = subprocess.run(words, capture_output=True, env=os.environ | {"LC_ALL": "C"})
    except OSError:
        if any((each / ".git").exists() for each in (folder, *folder.parents)):
            raise DataError("git is not installed", folder, "install it") from None
        return
    said = done.stderr.decode(errors="replace")
    if done.returncode and "not a git repository" not in said:
        first = next(iter(said.splitlines()), "git failed").removeprefix("fatal: ")
        raise DataError(first, folder, remedy)


def contents(folder: Path, wanted: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """The content of each file, a commit and a path in `folder`; empty where there is none.

    One process of git reads them all: one for each would take minutes for 200 experiments.
    """
    if not wanted:
        return
    lines = "".join(f"{commit}:./{path.as_posix()}\n" for commit, path in wanted)
    command, output = ["git", "-C", str(folder), "cat-file", "--batch"], io.BytesIO()
    with suppress(OSError):  # no git
        output = io.BytesIO(
            subprocess.run(command, input=lines.encode(), capture_output=True).stdout
        )
    for _ in wanted:
        kind, _, size = output.readline().rpartition(b" ")  # "SHA blob SIZE" or "NAME missing"
        yield output.read(int(size) + 1)[:-1] if kind.endswith(b" blob") else b""
