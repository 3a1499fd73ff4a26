"""Names of classes inside other text: in their own direction, and cut to the room there is."""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable

OPEN, CLOSE = "\N{FIRST STRONG ISOLATE}", "\N{POP DIRECTIONAL ISOLATE}"
MARKED = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")
RIGHT_TO_LEFT = {"R", "AL", "AN"}  # of Unicode's bidirectional classes


def mark(name: str) -> str:
    """`name` between directional isolates (Unicode's UAX 9), for `shown` and `cut` to find."""
    return f"{OPEN}{name}{CLOSE}"


def shown(text: str) -> str:
    """`text` with isolates only around the marked names that run from right to left.

    Without them "truth → prediction" would swap sides, and a bracket would move to the other end.
    """
    return MARKED.sub(lambda found: found[0] if _turns(found[1]) else found[1], text)


def apart(name: str) -> str:
    """`name` as a part of a sentence."""
    return shown(mark(name))


def cut(text: str, fits: Callable[[str], bool]) -> str:
    """`shown(text)`, with the longest of its marked names shortened as far as it takes to fit."""

    def within(length: int) -> str:
        return shown(MARKED.sub(lambda found: mark(shorten(found[1], length)), text))

    lengths = range(max(map(len, MARKED.findall(text)), default=0), 1, -1)
    first = bisect_left(lengths, True, key=lambda length: fits(within(length)))
    return within(lengths[first] if first < len(lengths) else 1)


def cut_left(name: str, fits: Callable[[str], bool]) -> str:
    """As much of the end of the path `name` as fits; an ellipsis stands for the rest."""
    if not name or fits(path(name)):
        return path(name)
    starts = range(1, len(name))
    first = bisect_left(starts, True, key=lambda start: fits(path(f"…{name[start:]}")))
    return path(f"…{name[starts[first] :]}" if first < len(starts) else "…")


def path(name: str) -> str:
    """A file's name with the folders that it is in, the outermost left in every script."""
    return "/".join(map(apart, name.split("/")))


def shorten(name: str, length: int) -> str:
    """At most `length` >= 1 characters of `name`, with an ellipsis for the rest."""
    return name if len(name) <= length else f"{start(name, length - 1).rstrip()}…"


def start(name: str, length: int) -> str:
    """The first characters of `name`, at most `length`; no letter is parted from its marks."""
    end = min(length, len(name))
    while 0 < end < len(name) and unicodedata.category(name[end]).startswith("M"):
        end -= 1
    return name[:end]


def _turns(name: str) -> bool:
    return any(unicodedata.bidirectional(letter) in RIGHT_TO_LEFT for letter in name)
