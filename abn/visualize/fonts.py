"""Fonts for the names of classes in pictures: matplotlib's own, then what is installed."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FaceFlags, FT2Font

from abn.runtime.progress import say

FIRST = "DejaVu Sans"  # comes with matplotlib
REMEDY = "or install one (Debian: fonts-noto)"
LISTED = 10  # names in a message
NO_LETTERS = ("lastresort", "blank", "notdef")  # in names of fonts that have a box for everything


@contextmanager
def drawing(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Draw in fonts that have the letters of `names`; yields them as pictures write them.

    Matplotlib takes each letter from the first font that has it, and its settings are its defaults,
    whatever a user's matplotlibrc says. A name that no installed font can write comes with its
    number, "#3 ...", counted from 0; that is said once.
    """
    families, missing = _families(names)
    if missing:
        listed = ", ".join(f"#{i} {names[i]}" for i in missing[:LISTED])
        more = f" and {len(missing) - LISTED} more classes" if len(missing) > LISTED else ""
        say(
            f"pictures: no font on this machine can write {listed}{more}: see the numbers, {REMEDY}"
        )
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams["font.family"] = families
        warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
        yield tuple(f"#{i} {name}" if i in missing else name for i, name in enumerate(names))


def _families(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The fonts to draw `names` with, best first, and the places of those that none can write."""
    families, missing = [FIRST], []
    letters = _letters(font_manager.findfont(FIRST))
    for place, name in enumerate(names):
        wanted = {ord(letter) for letter in name if letter.isprintable()}
        while (rest := wanted - letters) and (path := _best(rest)):
            font_manager.fontManager.addfont(path)
            families.append(FT2Font(path).family_name)
            letters |= _letters(path)
        if rest:
            missing.append(place)
    return families, missing


def _best(wanted: set[int]) -> str | None:
    """The installed font that has most of the letters `wanted`, the first of equals; None: none."""
    best, most = None, 0
    for path in _installed():
        if (count := len(wanted & _letters(path))) > most:
            best, most = path, count
        if most == len(wanted):
            break
    return best


def _installed() -> list[str]:
    """The files of the fonts on this machine now, plain ones without serifs first.

    Matplotlib's own list is as old as its cache.
    """

    def order(path: str) -> tuple[bool, bool, str]:
        name = Path(path).name.lower()
        return "sans" not in name, "regular" not in name, name

    paths = sorted(font_manager.findSystemFonts(), key=order)
    return [p for p in paths if not any(word in Path(p).name.lower() for word in NO_LETTERS)]


@cache
def _letters(path: str) -> frozenset[int]:
    """The characters that the font in the file `path` can draw at any size."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # not a font after all
        return frozenset()
    return frozenset(font.get_charmap() if FaceFlags.SCALABLE in font.face_flags else ())
