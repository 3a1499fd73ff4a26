"""How long the states of trainings are kept: until others need the room, or they are no use.

Each lies in a folder of its own (abn/training/resume.py). The last state of a training that has
ended goes when its weights are evaluated: by then DVC has recorded them.
"""

import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from abn.runtime import progress

LOCK = "lock"  # in the folder of a training that is under way
DONE = "done"  # in that of one that has ended: the checksum of its weights
ROOM = 20e9  # bytes that trainings which were never finished may take up together


def make_room(trainings: Path, spare: Path, most: float = ROOM) -> None:
    """Remove what has ended from the folder `trainings`, then, while the rest takes over `most`
    bytes, what rests longest; not `spare`, nor what is under way.
    """
    forget(trainings, spare=spare)
    sizes = {
        folder: sum(file.stat().st_size for file in folder.iterdir())
        for folder in sorted(trainings.glob("*/"), key=lambda folder: folder.stat().st_mtime)
    }
    for folder in [folder for folder in sizes if folder != spare]:
        if sum(sizes.values()) <= most:
            return
        with suppress(Timeout), FileLock(folder / LOCK, timeout=0):
            progress.say(f"{folder}: unfinished since long, removed to make room")
            _remove(folder)
            del sizes[folder]


def forget(trainings: Path, weights: str | None = None, spare: Path | None = None) -> None:
    """Remove from the folder `trainings` what has ended, or what made `weights`, a checksum."""
    for mark in trainings.glob(f"*/{DONE}"):
        with suppress(Timeout, OSError):
            if weights in (None, mark.read_text()) and mark.parent != spare:
                with FileLock(mark.with_name(LOCK), timeout=0):
                    _remove(mark.parent)


def disown(folder: Path) -> None:
    """Remove the mark and the records of a training, its states' first; no file counts without.

    Killed midway it is a fresh start, not a damaged one.
    """
    (folder / DONE).unlink(missing_ok=True)
    for pattern in ("state-*.json", "*.json"):
        for record in sorted(folder.glob(pattern), reverse=True):
            record.unlink(missing_ok=True)


def _remove(folder: Path) -> None:
    disown(folder)
    shutil.rmtree(folder)
