"""What a data set turned out to hold: a line for each class, and whether classes are unequal."""

import csv
import io
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from abn.datasets.problems import shown
from abn.runtime import progress
from abn.runtime.spreadsheet import escaped

MOST = 20  # classes that a screen shows; of more, the largest and the smallest
UNEQUAL = 2.0  # the largest class over the smallest in train, from which a remedy is named
NAME = 32  # columns of a class's name on the console
HEAD = ("class", "train", "val", "train_masks", "val_masks", "smallest_side", "largest_side")


class Entry(NamedTuple):
    """An image of a class."""

    split: str
    has_mask: bool
    sides: tuple[int, int]  # pixels, of the file


class Row(NamedTuple):
    """A class: images of each split, those with a mask, the shortest and longest side in pixels."""

    name: str
    train: int
    val: int
    train_masks: int
    val_masks: int
    smallest: int
    largest: int

    def line(self) -> str:
        """As the console shows it."""
        masks = self.train_masks + self.val_masks
        sides = f"{self.smallest} to {self.largest}"
        return f"  {_cell(self.name)} {self.train:7} {self.val:7} {masks:7}   {sides}"


class Summary:
    """Notes the images of a data set, and says at the end what there was."""

    def __init__(self, classes: Sequence[str], folder: Path) -> None:
        self.classes, self.file = classes, folder / "found.csv"
        self.entries: dict[int, list[Entry]] = defaultdict(list)  # by label

    def note(self, label: int, entry: Entry) -> None:
        """Remember an image of the class `label`."""
        self.entries[label].append(entry)

    def say(self) -> None:
        """One screen on the console; every class in found.csv."""
        rows = [_row(name, self.entries[label]) for label, name in enumerate(self.classes)]
        for line in lines(rows):
            progress.say(line)
        if len(rows) > MOST:
            progress.say(f"  all {len(rows)} classes are in {self.file}")
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([HEAD, *((escaped(row.name), *row[1:]) for row in rows)])
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(table.getvalue(), encoding="utf-8")


def lines(rows: Sequence[Row]) -> list[str]:
    """The head, at most MOST classes, and what to do where they are unequal."""
    head = f"  {'class':{NAME}} {'train':>7} {'val':>7} {'masks':>7}   sides (pixels)"
    ordered = sorted(rows, key=lambda row: -row.train)
    shown_rows = [row.line() for row in rows]
    if len(rows) > MOST:
        largest, smallest = ordered[: MOST // 2], ordered[-MOST // 2 :]
        gap = f"  ... {len(rows) - MOST} classes between these in size"
        shown_rows = [*(r.line() for r in largest), gap, *(r.line() for r in smallest)]
    most, least = ordered[0], ordered[-1]
    ratio = most.train / max(least.train, 1)
    if ratio < UNEQUAL:
        return [head, *shown_rows]
    sizes = f"{shown(most.name)} has {ratio:.1f} times the images of {shown(least.name)}"
    advice = "unless that is as it will be in use, train.balance: weights (or sampling)"
    return [head, *shown_rows, f"unequal classes: {sizes}; {advice}"]


def _cell(name: str) -> str:
    """`name` in NAME columns of a terminal."""
    text = shown(name)
    if _columns(text) > NAME:
        while _columns(text) > NAME - 3:
            text = text[:-1]
        text += "..."
    return text + " " * (NAME - _columns(text))


def _columns(text: str) -> int:
    """Columns that a terminal needs for `text`: a letter of Chinese or Japanese takes two."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _row(name: str, entries: Sequence[Entry]) -> Row:
    train, val = (_counts(entries, split) for split in ("train", "val"))
    sides = [side for entry in entries for side in entry.sides]
    return Row(name, train[0], val[0], train[1], val[1], min(sides), max(sides))


def _counts(entries: Sequence[Entry], split: str) -> tuple[int, int]:
    """The images of a split, and those with a mask."""
    masks = [entry.has_mask for entry in entries if entry.split == split]
    return len(masks), sum(masks)
