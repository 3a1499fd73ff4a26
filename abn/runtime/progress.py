"""Progress: a bar on a terminal, a line every ten seconds in a log file."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

_silent = False


def silence() -> None:
    """Turn off all output in this process."""
    global _silent
    _silent = True


class _Lines(tqdm):  # type: ignore[type-arg]
    """A bar for log files: lines instead of carriage returns."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self.fp.write(f"{msg or self}\n")

    def clear(self, nolock: bool = False) -> None:
        """Nothing: a written line stays."""


def bar(label: str, total: int, unit: str) -> "tqdm[Any]":
    """A bar over `total` units on stderr; `unit="B"` counts bytes. Use as a context manager."""
    options: dict[str, Any] = {"desc": label, "total": total, "unit": unit}
    if _silent:
        return tqdm(**options, disable=True)
    if unit == "B":
        options |= {"unit_scale": True, "unit_divisor": 1024}
    if sys.stderr.isatty():
        return tqdm(**options, leave=False, dynamic_ncols=True)
    return _Lines(**options, leave=False, mininterval=10, ncols=80, ascii=True)


def counted(items: Iterable[T], bar: "tqdm[Any]") -> Iterator[T]:
    """Yield `items`; each advances `bar` by one."""
    for item in items:
        yield item
        bar.update()


def say(line: str) -> None:
    """Print `line` to stderr above a bar that is being drawn."""
    if not _silent:
        tqdm.write(line, file=sys.stderr)
