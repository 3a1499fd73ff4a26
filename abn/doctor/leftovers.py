"""What is on the disk and may go: old states of trainings, half-written files; DVC's cache named.

Only what we wrote is removed, by exact name, in a folder of our own, and under the lock of whatever
writes there. What DVC holds is measured, and the command said.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from abn.config import yaml_file
from abn.doctor import dvc_experiments, working_tree
from abn.experiments import dvc, git, snapshots
from abn.project import paths
from abn.runtime import files, locks

TRAINING = re.compile("[0-9a-f]{16}")  # a folder of the resume store; a copy of one is the user's
DAY = 86400.0
# Everything that a branch, a tag, an experiment or the workspace has is kept.
COLLECT = "dvc gc --workspace --all-branches --all-tags --all-experiments"


class Leftover(NamedTuple):
    """Something on the disk."""

    path: Path
    what: str
    size: int  # bytes
    old: bool = True  # whether it has not been written to for long
    work: bool = False  # whether a training can go on from it


def trainings(now: float, days: float) -> Iterator[Leftover]:
    """The states of every training; old ones have not been written to for `days`."""
    for folder in sorted(filter(_is_training, paths.RESUME.glob("*/"))):
        files = [file.stat() for file in folder.iterdir() if file.is_file()]
        age = (now - max([stat.st_mtime for stat in files], default=now)) / DAY
        unfinished = not (folder / paths.DONE).exists()
        kind = "a training that can go on" if unfinished else "a finished training"
        what = f"states of {kind}, {age:.0f} days old"
        total = sum(stat.st_size for stat in files)
        yield Leftover(folder, what, total, age >= days, unfinished)


def _is_training(folder: Path) -> bool:
    return bool(TRAINING.fullmatch(folder.name)) and not folder.is_symlink()


def half_written() -> Iterator[Leftover]:
    """Packs and other outputs that a killed stage left under another name."""
    for path in map(files.partial, working_tree.WRITTEN):
        here = path.parent.resolve() == Path.cwd().resolve() / path.parent  # no link to elsewhere
        if path.exists() and not path.is_symlink() and here:
            yield Leftover(path, "half-written by a killed stage", size(path))


def remove(leftovers: Iterable[Leftover]) -> Iterator[Leftover]:
    """Remove them; yields those that are gone. BusyError where a stage runs."""
    from abn.training import resume  # here: it needs torch, which takes seconds to import

    with ExitStack() as stack:
        for stage in yaml_file.read(paths.GRAPH)["stages"]:
            lock = locks.alone(paths.LOCKS / f"{stage}.lock", f"the stage {stage}")
            stack.enter_context(lock)
        for each in leftovers:
            if each.path.parent == paths.RESUME:
                resume.remove(each.path)  # which leaves a running one, and files that are not ours
            elif each.path.is_dir():
                shutil.rmtree(each.path)
            else:
                each.path.unlink()
            if not each.path.exists():
                yield each


def copies() -> Iterator[Leftover]:
    """DVC's copies of the project, of experiments that run or were killed."""
    folder = dvc.root() / dvc_experiments.FOLDERS
    for copy in sorted([*folder.glob("tmp*/"), *folder.glob("standalone/tmp*/")]):
        yield Leftover(copy, "DVC's copy of the project, see `abn doctor`", size(copy))


def cache() -> Leftover:
    """DVC's cache, of which its own command may remove what no experiment has."""
    folder = snapshots.cache(dvc.root())
    return Leftover(folder, f"DVC's cache, {_experiments()}", size(folder))


def _experiments() -> str:
    """How many there are, and what one of them costs."""
    count = len(dvc.experiments())
    lock = dvc.yaml(git.output("show", f"HEAD:./{dvc.LOCK}") or "").get("stages") or {}
    outs = lock.get("train", {}).get("outs", [])
    weights = sum(out.get("size", 0) for out in outs if out["path"] == str(paths.CHECKPOINT))
    each = f", each with {weights / 1e6:.0f} MB of weights such as HEAD's" if weights else ""
    return f"{count} experiments{each}"


def size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; links are not followed, nothing is 0."""
    inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    total = 0
    for file in inside if path.is_dir() else [path]:
        with suppress(FileNotFoundError):  # DVC may be at work
            total += file.lstat().st_size
    return total
