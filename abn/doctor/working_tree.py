"""What killed processes leave in the working tree: a cut dvc.lock, locks, half-written files."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
from filelock import FileLock, Timeout

from abn.config import yaml_file
from abn.experiments import git
from abn.project import paths
from abn.runtime.errors import ParamsError

LOCK, TABLES = Path("dvc.lock"), (Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/exps/rwlock"))
TABLE_NAMES = ("maps", "curves", "images", "interventions", "gates")
WRITTEN = {  # by each stage, through NAME.part
    "download": (paths.TRAIN_DATA, paths.VAL_DATA),
    "train": (paths.CHECKPOINT, paths.TRAIN_METRICS, paths.HISTORY),
    "evaluate": (paths.EVALUATE_METRICS, paths.CONFUSION, paths.PER_CLASS, paths.CALIBRATION),
    "explain": (paths.EXPLAIN_METRICS, *map(paths.explain_table, TABLE_NAMES)),
    "visualize": (paths.GALLERY, paths.REPORT),
}
INSIDE = re.compile(r"[\w-]+\.(png|safetensors)|\.tmp\w{6}")  # of a folder NAME.part


class Problem(NamedTuple):
    """What is wrong, and the command that repairs it."""

    what: str
    where: object
    command: list[str]
    ours: bool = False  # a file of this project that nobody is writing: `remove` may take it


def dvc_lock() -> Iterator[Problem]:
    """dvc.lock cut off, as DVC writes it in place, or in the middle of a merge."""
    if LOCK.exists() and not is_complete(LOCK.read_bytes()):
        command = ["mv", str(LOCK), f"{LOCK}.bad"]  # where git has no whole version
        for version in (["HEAD"], []):  # the committed one; the one that DVC has staged, newer
            content = git.output("show", f"{''.join(version)}:./{LOCK}") or ""
            if is_complete(content.encode()):
                command = ["git", "checkout", *version, "--", str(LOCK)]
        yield Problem("incomplete; DVC's run cache keeps what ran since", LOCK, command)


def is_complete(content: bytes) -> bool:
    """Whether a dvc.lock has stages that each have a command, and no value is cut off."""
    try:
        stages = yaml_file.loads(content.decode(), LOCK)["stages"].values()
        files = [
            file for stage in stages for key in ("deps", "outs") for file in stage.get(key, [])
        ]
        params = [stage.get("params", {}) for stage in stages]
        cut_off = any(None in part.values() for part in [*files, *params])
        return all(stage["cmd"] for stage in stages) and not cut_off and content.endswith(b"\n")
    except (ParamsError, UnicodeDecodeError, TypeError, AttributeError, KeyError):
        return False


def dvc_tables() -> Iterator[Problem]:
    """DVC's tables of readers and writers: it waits for processes with the numbers they name."""
    for table in filter(Path.exists, TABLES):
        text = table.read_text(errors="replace")
        alive = [pid for pid in re.findall(r'"pid": (\d+)', text) if psutil.pid_exists(int(pid))]
        if alive or not re.fullmatch(r"\{.*\}\s*", text, re.S):
            what = f"names process {alive[0]}" if alive else "incomplete"
            yield Problem(f"{what}; if no DVC is running", table, ["rm", str(table)])


def git_locks() -> Iterator[Problem]:
    """Locks that a killed git leaves."""
    folder = Path((git.output("rev-parse", "--git-dir") or ".git").strip())
    for lock in sorted([*folder.glob("*.lock"), *folder.glob("refs/**/*.lock")]):
        yield Problem("a lock of git; if no git is running", lock, ["rm", str(lock)])


def own_files() -> Iterator[Problem]:
    """Half-written files of killed stages, by exact name.

    The stage is locked out until the next problem is asked for, so the caller may remove the file.
    """
    for stage, outputs in WRITTEN.items():
        parts = [path.with_name(f"{path.name}.part") for path in outputs]
        if any(map(_is_ours, parts)):
            with _locked_out(stage) as idle:
                for part in filter(_is_ours, parts if idle else ()):
                    command = ["rm", "-r", str(part)]
                    yield Problem("half-written by a killed stage", part, command, ours=True)


def remove(path: Path) -> bool:
    """Remove a file of `own_files`, or a folder; whether the disk let us."""
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:
        return False
    return True


def unfinished() -> Iterator[str]:
    """A line for every training that can go on, not for those that have ended."""
    for folder in sorted(paths.RESUME.glob("*/")):
        if (folder / paths.DONE).exists():
            continue
        files = [file for file in folder.iterdir() if file.is_file()]
        states = sorted(re.findall(r"state-(\d+)-(\d+)\.", " ".join(f.name for f in files)))
        place = "after epoch {}, step {}".format(*map(int, states[-1])) if states else "no step yet"
        size = sum(file.stat().st_size for file in files) / 1e6
        yield f"{folder}: a training to resume, {place}; {size:.0f} MB; to drop it: rm -r {folder}"


def _is_ours(path: Path) -> bool:
    """Whether `path` exists, no link leads there, and if a folder, it has only files of ours."""
    if not path.exists() or any(part.is_symlink() for part in (path, *path.parents)):
        return False
    files = path.iterdir() if path.is_dir() else ()
    return all(INSIDE.fullmatch(f.name) and f.is_file() and not f.is_symlink() for f in files)


@contextmanager
def _locked_out(stage: str) -> Iterator[bool]:
    """Hold the lock of `stage`; False where a running stage holds it, or we may not write."""
    lock = FileLock(paths.LOCKS / f"{stage}.lock", timeout=0)
    try:
        paths.LOCKS.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (Timeout, OSError):
        yield False
        return
    yield True
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
