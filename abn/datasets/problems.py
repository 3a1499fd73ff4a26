"""What is wrong with a data set, said in one go: every file by name, grouped by reason."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from abn.runtime import progress
from abn.runtime.errors import DataError

MOST_LISTED = 50  # beyond it, the whole list is in a file


class Problem(NamedTuple):
    """One thing that keeps a data set from being used."""

    reason: str
    name: str


def shown(name: str) -> str:
    """`name` as a terminal and a UTF-8 file can show it."""
    return name if name.isprintable() else ascii(name)[1:-1]


def fault_of(name: str) -> str | None:
    """What keeps the file `name`, as Python has it from a system, from being written down."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8: rename it"
    has_control = any(unicodedata.category(character) == "Cc" for character in name)
    return "its name has a control character: rename it" if has_control else None


def few(names: Iterable[str], most: int = 5) -> str:
    """The first of `names`, and how many more there are."""
    named = list(names)
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return ", ".join(map(shown, named[:most])) + more


def refused(problems: Sequence[Problem], root: Path, folder: Path) -> DataError:
    """The error to raise for `problems` in `root`, after listing all of them.

    A long list goes to bad-images.txt in `folder`.
    """
    groups = defaultdict(list)
    for reason, name in problems:
        groups[reason].append(name)
    lines = []
    for reason, names in groups.items():
        lines += [f"{reason} ({len(names)}):", *(f"  {shown(name)}" for name in names)]
    place = enumerate_all(lines, folder / "bad-images.txt")
    what = f"{len(problems)} file{'s or folders' * (len(problems) > 1)} cannot be used"
    first = f"{root}: {shown(problems[0].name)} ({problems[0].reason})"
    more = f" and {len(problems) - 1} more" if problems[1:] else ""
    return DataError(what, f"{first}{more}, {place}", "replace or remove them")


def enumerate_all(lines: Sequence[str], file: Path) -> str:
    """Print `lines`, or the first of many and all to `file`; where all of them are."""
    for line in lines[:MOST_LISTED]:
        progress.say(line)
    if len(lines) <= MOST_LISTED:
        return "listed above"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    progress.say(f"... and {len(lines) - MOST_LISTED} more lines, all in {file}")
    return f"listed in {file}"
