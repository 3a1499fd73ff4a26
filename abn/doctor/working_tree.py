"""What killed processes leave in the working tree: a cut dvc.lock, locks, half-written files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from abn.config import yaml_file
from abn.experiments import git
from abn.project import paths
from abn.runtime import files
from abn.runtime.errors import ParamsError

LOCK, TABLES = Path("dvc.lock"), (Path(".dvc/tmp/rwlock"), Path(".dvc/tmp/exps/rwlock"))
WRITTEN = (  # by the stages, each through `files.partial` of it
    *(paths.TRAIN_DATA, paths.VAL_DATA),
    *(paths.CHECKPOINT, paths.TRAIN_METRICS, paths.HISTORY),
    *(paths.EVALUATE_METRICS, paths.CONFUSION, paths.PER_CLASS, paths.CALIBRATION),
    paths.EXPLAIN_METRICS,
    *map(paths.explain_table, ("maps", "curves", "images", "interventions", "gates", "map_gates")),
    *(paths.GALLERY, paths.REPORT),
)


class Problem(NamedTuple):
    """What is wrong, and the command that repairs it."""

    what: str
    where: object
    command: list[str]


def problems() -> Iterator[Problem]:
    """Every problem in the working tree."""
    for check in (half_written, dvc_lock, dvc_tables, git_locks):
        try:
            yield from check()
        except OSError as error:
            what, where = f"cannot be read ({error.strerror})", str(error.filename)
            yield Problem(what, where, ["ls", "-ld", where])


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
        cut_off |= any("md5" in file and not _is_whole(file) for file in files)
        return all(stage["cmd"] for stage in stages) and not cut_off and content.endswith(b"\n")
    except (ParamsError, UnicodeDecodeError, TypeError, AttributeError, KeyError):
        return False


def _is_whole(file: dict[str, object]) -> bool:
    """Whether an entry of dvc.lock has all its lines; the last one is that of a folder's files."""
    return "size" in file and (not str(file["md5"]).endswith(".dir") or "nfiles" in file)


def dvc_tables() -> Iterator[Problem]:
    """DVC's tables of readers and writers: it waits for processes with the numbers they name."""
    for table in filter(Path.exists, TABLES):
        text = table.read_text("utf-8", errors="replace")
        alive = [pid for pid in re.findall(r'"pid": (\d+)', text) if psutil.pid_exists(int(pid))]
        if alive or not re.fullmatch(r"\{.*\}\s*", text, re.S):
            what = f"names process {alive[0]}" if alive else "incomplete"
            yield Problem(f"{what}; if no DVC is running", table, ["rm", str(table)])


def git_locks() -> Iterator[Problem]:
    """Locks that a killed git leaves."""
    folder = Path((git.output("rev-parse", "--git-dir") or ".git").strip())
    for lock in sorted([*folder.glob("*.lock"), *folder.glob("refs/**/*.lock")]):
        yield Problem("a lock of git; if no git is running", lock, ["rm", str(lock)])


def half_written() -> Iterator[Problem]:
    """Files of killed stages, by exact name."""
    for part in map(files.partial, WRITTEN):
        if part.exists():
            what = "half-written by a killed stage; if no stage is running"
            yield Problem(what, part, ["rm", "-r", str(part)])


def unfinished() -> Iterator[str]:
    """A line for every training that can go on, not for those that have ended."""
    for folder in sorted(paths.RESUME.glob("*/")):
        if (folder / paths.DONE).exists():
            continue
        files = [file for file in folder.glob("*") if file.is_file()]
        states = sorted(re.findall(r"state-(\d+)-(\d+)\.", " ".join(f.name for f in files)))
        place = "after epoch {}, step {}".format(*map(int, states[-1])) if states else "no step yet"
        size = sum(file.stat().st_size for file in files) / 1e6
        yield f"{folder}: a training to resume, {place}; {size:.0f} MB; to drop it: rm -r {folder}"
