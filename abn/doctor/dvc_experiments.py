"""What a killed `dvc exp run` leaves: HEAD on no branch, copies of the project, a git stash."""

import re
from collections.abc import Iterator
from pathlib import Path

from abn.doctor.working_tree import Problem
from abn.experiments import git
from abn.project.paths import PARAMS

FOLDERS = Path(".dvc/tmp/exps")  # where DVC runs what is queued or --temp
CHANGES = "refs/exps/exec/EXEC_MERGE"  # the start of an experiment, with uncommitted changes
UNDER_WAY = "refs/exps/exec/EXEC_BASELINE"  # is there until an experiment has ended
RESTORED = "dvc: Restore HEAD to"  # in git's log of HEAD, when an experiment has ended
AT_ONCE = 60  # seconds; DVC leaves the branch right after it has stashed


def problems() -> Iterator[Problem]:
    """Every problem that a killed experiment leaves."""
    yield from emptied_params()
    yield from detached_head()
    yield from folders()


def emptied_params() -> Iterator[Problem]:
    """params.yaml without a byte: DVC empties it before it writes the parameters of -S.

    Changes that were not committed are in the stash that DVC made before, at this very commit.
    """
    if PARAMS.exists() and not PARAMS.stat().st_size:
        stashed = _commit("refs/stash^") == _commit("HEAD") and git.output(
            "show", f"stash:{PARAMS}"
        )
        version = ["--source=stash"] if stashed else []
        what = "empty; a killed `dvc exp run` leaves it so"
        yield Problem(what, PARAMS, ["git", "restore", *version, "--", str(PARAMS)])


def detached_head() -> Iterator[Problem]:
    """HEAD on no branch where DVC put it, not where a person did."""
    if (branch := _branch_left()) and _is_by_dvc():
        what = f"on no branch; uncommitted changes are in the tree, in git stash or in {CHANGES}"
        yield Problem(f"{what}; if no DVC is running", "HEAD", ["git", "switch", branch])


def still_detached() -> Iterator[str]:
    """A line where the last experiment began and ended on no branch, as after a killed one."""
    last = git.output("log", "-1", "-g", "--format=%gs", "HEAD") or ""
    if last.startswith(RESTORED) and (branch := _branch_left()) and not _is_by_dvc():
        what = "on no branch, as it was before the last `dvc exp run`"
        yield f"HEAD: {what}; if a killed one left it so: git switch {branch}"


def _branch_left() -> str:
    """A branch at HEAD, where HEAD is on none."""
    if git.output("symbolic-ref", "--quiet", "HEAD"):
        return ""
    refs = ["for-each-ref", "--points-at=HEAD", "--format=%(refname:short)", "refs/heads"]
    return next(iter((git.output(*refs) or "").split()), "")


def _is_by_dvc() -> bool:
    """Whether it was DVC that left the branch, and has not come back."""
    return _experiments() or _has_stashed()


def _experiments() -> bool:
    """Whether HEAD is where an experiment began that has not ended."""
    begun = _commit("HEAD") == _commit("refs/exps/exec/EXEC_HEAD")
    return begun and bool(_commit(UNDER_WAY))


def _has_stashed() -> bool:
    """Whether HEAD is where the newest stash was made, and came there at once."""
    moved = git.output("log", "-1", "-g", "--format=%gd", "--date=unix", "HEAD") or ""
    stashed = git.output("log", "-1", "--format=%ct", "refs/stash") or ""
    at = re.search(r"\{(\d+)\}", moved)
    if not (at and stashed.strip() and _commit("HEAD") == _commit("refs/stash^")):
        return False
    return int(at[1]) - int(stashed) <= AT_ONCE


def _commit(name: str) -> str | None:
    return git.output("rev-parse", "--quiet", "--verify", name)


def folders() -> Iterator[Problem]:
    """The copies of the project in which killed experiments ran."""
    what = "copy of the project by `dvc exp run`; if `dvc queue status` shows nothing running"
    for folder in sorted([*FOLDERS.glob("tmp*/"), *FOLDERS.glob("standalone/tmp*/")]):
        yield Problem(what, folder, ["rm", "-r", str(folder)])


def stashed() -> Iterator[str]:
    """A line on the newest git stash: `dvc exp run` puts uncommitted changes there."""
    if entry := git.output("stash", "list", "--max-count=1"):
        yield f"git stash: {entry.strip()}; if `dvc exp run` took your changes: git stash pop"
