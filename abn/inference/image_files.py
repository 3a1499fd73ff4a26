"""The image files that paths, folders, patterns and a list on standard input name."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from abn.datasets.images import FORMATS
from abn.runtime import files

MAGIC = ("*", "?", "[")  # of a pattern


class Found(NamedTuple):
    """Files to read, each once, in the order they were named; those of a folder by name."""

    files: list[Path]
    skipped: Counter[str]  # files of folders that are no images: their suffix -> how many


def find(names: Iterable[str], leave_out: Path | None = None) -> Found:
    """The files that `names` mean: files, folders with all below them, patterns, `-`.

    `-` is a list of names on standard input, one a line or with a zero byte after each. Nothing
    hidden and nothing below `leave_out`, the folder to write to, is taken from a folder. A name
    that is none of these is kept: reading it gives the reason.
    """
    found: dict[Path, Path] = {}
    skipped: Counter[str] = Counter()
    for name in _expanded(names):
        if not os.path.isdir(name):  # noqa: PTH112  # a name may be no path at all
            found.setdefault(files.absolute(name), Path(name))
            continue
        for path in _below(Path(name), leave_out):
            if path.suffix.lower() in _suffixes():
                found.setdefault(files.absolute(path), path)
            else:
                skipped[path.suffix.lower() or "no suffix"] += 1
    return Found(list(found.values()), skipped)


def _expanded(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name == "-":
            data = sys.stdin.buffer.read()
            lines = data.split(b"\0") if b"\0" in data else data.splitlines()
            yield from _expanded(os.fsdecode(line) for line in lines if line and line != b"-")
        elif not os.path.lexists(name) and any(sign in name for sign in MAGIC):
            yield from sorted(glob.glob(name, recursive=True)) or [name]  # noqa: PTH207
        else:
            yield name


def _below(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    """All files below `folder` that are not hidden, by name."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and files.absolute(Path(place, name)) != leave_out
        )
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


@cache
def _suffixes() -> set[str]:
    """Of files of the kinds that are read."""
    return {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}
