"""Images that a data set has more than once.

Two images are the same where the network is shown the same: equal pixels on the canvas and an equal
aspect, whatever the files are called or hold beside them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from abn.data.packed import Sample
from abn.datasets.problems import enumerate_all, shown
from abn.runtime import progress
from abn.runtime.errors import DataError


class Place(NamedTuple):
    """Where an image was found."""

    split: str
    label: int
    name: str


class Copies:
    """Notes the images of a data set, and says at the end which of them are the same.

    `allowed` says why an image may be in both splits; "": it may not.
    """

    def __init__(self, root: Path, folder: Path, allowed: str) -> None:
        self.root, self.file, self.allowed = root, folder / "copies.txt", allowed
        self.places: dict[bytes, list[Place]] = defaultdict(list)

    def note(self, place: Place, sample: Sample) -> None:
        """Remember `sample`, which is at `place`."""
        pixels = np.ascontiguousarray(sample.image).data
        digest = hashlib.blake2b(pixels, digest_size=16, person=repr(sample.aspect)[:16].encode())
        self.places[digest.digest()].append(place)

    def check(self) -> None:
        """DataError if an image is in both splits, unless that is allowed; lines on the rest."""
        across = self._groups(lambda group: len({place.split for place in group}) > 1)
        if across and not self.allowed:
            place = enumerate_all([_line(group) for group in across], self.file)
            what = f"{len(across)} image(s) in both splits"
            where = f"{self.root}: {_line(across[0])}, {place}"
            remedy = "remove all but one of each, or allow it with data.allow_duplicates: true"
            raise DataError(what, where, remedy)
        if across:
            progress.say(f"warning: {len(across)} image(s) in both splits, {self.allowed}")
        mixed = self._groups(lambda group: len({place.label for place in group}) > 1)
        if mixed:
            progress.say(f"warning: {len(mixed)} image(s) in more than one class:")
            enumerate_all([_line(group) for group in mixed], self.file)
        if again := sum(len(group) - 1 for group in self._groups(_is_within_one)):
            progress.say(f"{again} image(s) are copies of another of the same class and split")

    def _groups(self, wanted: Callable[[list[Place]], bool]) -> list[list[Place]]:
        return [group for group in self.places.values() if len(group) > 1 and wanted(group)]


def _is_within_one(group: list[Place]) -> bool:
    return len({place[:2] for place in group}) == 1


def _line(group: list[Place]) -> str:
    return " = ".join(f"{shown(place.name)} ({place.split})" for place in group)
