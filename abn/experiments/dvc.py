"""What DVC has recorded: its experiments, read through git, and dvc.lock."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from abn.config import yaml_file
from abn.experiments import git
from abn.runtime.errors import ParamsError

TAGS = "dvc.exp", "dvc.baseline_rev"
REF = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+) ([0-9a-f]{40}) (\d+)")


class Experiment(NamedTuple):
    """A finished experiment."""

    name: str  # "vapid-frog"
    baseline: str  # the commit it started from
    revision: str  # the commit that holds its files
    time: int  # seconds since 1970

    @property
    def tags(self) -> dict[str, str]:
        """What tells it from all others."""
        return dict(zip(TAGS, (self.name, self.baseline), strict=True))


def root() -> Path:
    """The main repository; an experiment may run in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT", "")).absolute()


def current() -> dict[str, str]:
    """The tags of the experiment in which this process runs; empty outside of one."""
    names = os.environ.get("DVC_EXP_NAME", ""), os.environ.get("DVC_EXP_BASELINE_REV", "")
    return dict(zip(TAGS, names, strict=True)) if all(names) else {}


def tags_in(tags: Mapping[str, str]) -> dict[str, str]:
    """Those of `tags` that name an experiment."""
    return {name: tags[name] for name in TAGS if name in tags}


def experiments() -> list[Experiment]:
    """The experiments of the main repository, in the order of their refs; none without git."""
    form = "%(refname) %(objectname) %(creatordate:unix)"
    refs = git.output("-C", str(root()), "for-each-ref", "refs/exps", f"--format={form}") or ""
    return [
        Experiment(name, start + rest, revision, int(seconds))
        for start, rest, name, revision, seconds in REF.findall(refs)
    ]


def text(experiment: Experiment, path: Path) -> str:
    """The text of the file `path` (relative to the root); empty where there is none."""
    return _text(root(), experiment.revision, path.as_posix())


@functools.lru_cache(4096)
def _text(root: Path, revision: str, path: str) -> str:
    return git.output("-C", str(root), "show", f"{revision}:./{path}") or ""


@functools.lru_cache(256)
def yaml(text: str) -> dict[str, Any]:
    """The mapping in a YAML text, as of params.yaml and dvc.lock; empty where it is none."""
    try:
        return yaml_file.loads(text, "a file of an experiment")
    except ParamsError:
        return {}


def recorded(lock: str, stage: str, folder: Path, *files: Path) -> bool:
    """Whether the text of a dvc.lock has `files` of `folder`, as they are now, at `stage`."""
    try:
        entry = yaml(lock)["stages"][stage]
        known = {each["path"]: each["md5"] for each in [*entry["deps"], *entry["outs"]]}
        return all(known[str(path)] == digest(folder / path, "md5") for path in files)
    except (OSError, LookupError, TypeError):
        return False


def digest(path: Path, kind: str) -> str:
    """The digest "md5" or "sha256" of a file; of a folder, as DVC makes it of its files'."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        names = [(file, file.relative_to(path).as_posix()) for file in files]
        parts = [{"md5": digest(file, kind), "relpath": name} for file, name in names]
        content = json.dumps(parts).encode()
        return f"{hashlib.new(kind, content, usedforsecurity=False).hexdigest()}.dir"
    stat = path.stat()
    return _digest(path, kind, (stat.st_size, stat.st_mtime_ns, stat.st_ino))


@functools.lru_cache(256)
def _digest(path: Path, kind: str, stamp: tuple[int, int, int]) -> str:
    new = functools.partial(hashlib.new, kind, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, new).hexdigest()
