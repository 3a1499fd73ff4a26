"""What a killed `dvc exp run` or queue leaves: HEAD off its branch, tasks and folders of nobody."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from abn.doctor.processes import TEMPORARY, at_work_aside
from abn.doctor.working_tree import Finding
from abn.experiments import git

CELERY = TEMPORARY / "celery"  # DVC's queue
BRANCH = "refs/heads/"
CHANGES = "refs/exps/exec/EXEC_MERGE"  # what an experiment began with, uncommitted changes too
MOVED = re.compile(r"checkout: moving from (\S+) to [0-9a-f]{40}")  # as DVC does, not a person
RESTORED = re.compile(r"dvc: .*|checkout: moving from [0-9a-f]{40} to [0-9a-f]{40}")


class Task(NamedTuple):
    """An experiment that a worker has taken from the queue."""

    id: str
    stash: str  # the commit that holds it
    name: str

    @property
    def ended(self) -> bool:
        return (CELERY / "result" / f"celery-task-meta-{self.id}").exists()

    @property
    def process(self) -> Path:
        """The file that names its process, which `dvc queue kill` would kill."""
        return TEMPORARY / "run" / self.stash / f"{self.stash}.json"


def detached_head() -> Iterator[Finding]:
    """HEAD on no branch, as DVC has it in an experiment; no file changes when it is put back."""
    branch, head = _left_branch(), _commit("HEAD")
    if branch and head in (_commit("refs/exps/exec/EXEC_HEAD"), _commit("stash^")):
        changes = f"what was uncommitted is in the tree, git stash or {CHANGES}"
        command = ["git", "symbolic-ref", "HEAD", BRANCH + branch]
        safe = _commit(BRANCH + branch) == head
        yield Finding(f"off its branch {branch}; {changes}", "HEAD", command, safe)


def tasks() -> Iterator[Finding]:
    """Experiments that the queue calls running though no process is at them."""
    if at_work_aside(Path.cwd()):
        return
    for task in _tasks():
        if not task.ended:
            if task.process.exists():
                what = "names a process that is gone, its number may be another's"
                yield Finding(what, task.process, ["rm", str(task.process)])
            again = f"then `dvc queue remove {task.name}` and queue it again: it goes on"
            command = ["dvc", "queue", "kill", "--force", task.name]
            yield Finding(f"called running, but runs nowhere; {again}", task.name, command)


def folders() -> Iterator[Finding]:
    """The copies of the project in which experiments ran that were killed."""
    if at_work_aside(Path.cwd()):
        return
    for folder in sorted([*TEMPORARY.glob("tmp*/"), *TEMPORARY.glob("standalone/tmp*/")]):
        yield Finding("of an experiment that was killed", folder, ["rm", "-r", str(folder)])


def stashed() -> Iterator[str]:
    """A line on changes that git hides: `dvc exp run` puts them there while it begins."""
    if found := git.output("stash", "list", "--max-count=1"):
        lost = "if a killed `dvc exp run` took changes away: git stash pop"
        yield f"git stash: {found.strip()}; {lost}"


def _left_branch() -> str | None:
    """The branch from which DVC took HEAD and did not put it back."""
    if git.output("symbolic-ref", "-q", "HEAD"):
        return None
    for moved in (git.output("reflog", "HEAD", "--format=%gs") or "").splitlines():
        if (found := MOVED.fullmatch(moved)) and _commit(BRANCH + found[1]):
            return found[1]
        if not RESTORED.fullmatch(moved):
            return None
    return None


def _commit(name: str) -> str | None:
    return git.output("rev-parse", "--quiet", "--verify", name)


def _tasks() -> Iterator[Task]:
    """What DVC's queue has handed out, from the messages that celery keeps as files."""
    for file in sorted(CELERY.glob("broker/processed/*.celery.msg")):
        with suppress(ValueError, KeyError, TypeError, IndexError):
            message = json.loads(file.read_bytes())
            if message["headers"]["task"].endswith(".run_exp"):
                args, options, _ = json.loads(base64.b64decode(message["body"]))
                entry = options.get("entry_dict") or args[0]
                stash = entry["stash_rev"]
                yield Task(message["headers"]["id"], stash, entry["name"] or stash[:7])
