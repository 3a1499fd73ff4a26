"""What DVC has recorded: its experiments, read through git, and dvc.lock."""

import functools
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from abn.config import yaml_file
from abn.experiments import git
from abn.project import paths
from abn.runtime.errors import ParamsError
from abn.runtime.progress import say

MODEL, LOCK = paths.CHECKPOINT / paths.MODEL, Path("dvc.lock")
RESULTS = {  # patterns by stage
    "train": (paths.HISTORY, paths.TRAIN_METRICS),
    "evaluate": (paths.EVALUATE_METRICS,),
    "explain": (paths.EXPLAIN_METRICS, paths.explain_table("*")),
    "visualize": (paths.REPORT, paths.SHEET),
}
TAGS = "dvc.exp", "dvc.baseline_rev"
_texts: dict[tuple[str, Path], str] = {}  # by commit and path: what never changes
REF = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+) ([0-9a-f]{40}) (\d+)")


class Experiment(NamedTuple):
    """A finished experiment."""

    name: str  # "vapid-frog"
    baseline: str  # the commit it started from
    revision: str  # the commit that holds its files
    time: int  # seconds since 1970

    @property
    def tags(self) -> dict[str, str]:
        """What no other experiment has."""
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


def applied(folder: Path) -> list[Experiment]:
    """The experiments whose results are those in the working tree `folder`."""
    lock, known = (folder / LOCK).read_text("utf-8"), experiments()
    read(known, [LOCK])
    return [each for each in known if text(each, LOCK) == lock]


def text(experiment: Experiment, path: Path) -> str:
    """The text of the file `path` (relative to the root); empty where there is none."""
    if (experiment.revision, path) not in _texts:
        read([experiment], [path])
    return _texts[experiment.revision, path]


def read(those: Sequence[Experiment], files: Sequence[Path]) -> None:
    """Make ready what `text` has of `files` in all of `those`, by one process of git."""
    pairs = [(each.revision, path) for each in those for path in files]
    missing = [pair for pair in pairs if pair not in _texts]
    for pair, content in zip(missing, git.contents(root(), missing), strict=True):
        _texts[pair] = content.decode(errors="surrogateescape").replace("\r\n", "\n")


@functools.lru_cache(256)
def yaml(text: str) -> dict[str, Any]:
    """The mapping in a YAML text, as of params.yaml and dvc.lock; empty where it is none."""
    try:
        return yaml_file.loads(text, "a file of an experiment")
    except ParamsError:
        return {}


def results(folder: Path, since: float) -> Iterator[Path]:
    """The files that describe the weights in the working tree `folder`.

    Results stay when other weights take the place of those they describe. A file counts if
    dvc.lock has it at a stage that read these weights, or if the stage that runs since `since`
    (seconds) wrote it; others are named on stderr.
    """
    sections = yaml((folder / paths.PARAMS).read_text("utf-8", "replace"))
    made = {out["path"]: out["md5"] for each in _locked(folder) for out in each["outs"]}
    for stage, patterns in RESULTS.items():
        running = sections.get(stage, {}).get("checkpoint") == str(MODEL)
        for file in sorted(file for each in patterns for file in folder.glob(str(each))):
            fresh = running and file.stat().st_mtime > since - 1  # a disk's clock may be behind
            name = str(file.relative_to(folder))
            if fresh or made.get(name) == digest(file, "md5"):
                yield file
            else:
                say(f"{name}: dvc.lock does not have it as made from the weights here, left out")


def params(folder: Path) -> dict[str, Any]:
    """The params, under dotted keys, by which those results were made, as dvc.lock has them."""
    return {
        key: value
        for each in _locked(folder)
        for key, value in each.get("params", {}).get(str(paths.PARAMS), {}).items()
    }


def _locked(folder: Path) -> list[dict[str, Any]]:
    """What dvc.lock has of the stages that read the weights in `folder`, and of those before."""
    # Empty: a merge that is not finished leaves what is no YAML.
    stages = yaml((folder / LOCK).read_text("utf-8", "replace")).get("stages") or {}
    weights = digest(folder / MODEL, "md5")
    used = [each for each in stages.values() if weights in [dep.get("md5") for dep in each["deps"]]]
    before = [stages[name] for name in ("download", "train") if name in stages]
    return used + before if used else []  # the training's own entry has its weights in a folder


def digest(path: Path, kind: str) -> str:
    """The digest "md5" or "sha256" of a file, computed again if the file has changed."""
    stat = path.stat()
    return _digest(path, kind, (stat.st_size, stat.st_mtime_ns, stat.st_ino))


@functools.lru_cache(256)
def _digest(path: Path, kind: str, stamp: tuple[int, int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
