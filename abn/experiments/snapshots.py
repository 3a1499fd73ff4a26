"""Finished experiments, branches and the workspace, each read from what DVC recorded of it.

dvc.lock says by which params, code and data a result was made, and the checksum of the result. What
does not agree with it is left out and named. Git holds metrics and tables; pictures and weights are
found in DVC's cache, where it has them.
"""

import fnmatch
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from abn.experiments import dvc, git
from abn.project import paths, results
from abn.runtime import redaction
from abn.runtime.errors import DataError
from abn.runtime.progress import say

WORKSPACE, EVERY = "workspace", "*"
STAGES = "explain", "evaluate", "download", "train"  # where two record a param, the last one counts
SEEDS = "seed", "explain.siblings"  # params that differ between the trainings of a configuration
METRICS = {
    "train": paths.TRAIN_METRICS,
    "evaluate": paths.EVALUATE_METRICS,
    "explain": paths.EXPLAIN_METRICS,
}
GATES, IMAGES = map(paths.explain_table, ("gates", "images"))
FILES = *METRICS.values(), paths.HISTORY, paths.PREDICTIONS, GATES, IMAGES
REMEDY = "see `dvc exp list --all` and `git branch`; `dvc exp pull` gets those of others"
OTHER = "other"  # in the place of an MD5: that of no file we know
Lock = Mapping[str, Any]  # the stages of a dvc.lock


@dataclass(frozen=True)
class Snapshot:
    """The results of one training."""

    name: str  # "sweep-1", "main", "workspace"
    revision: str  # the commit; empty for the workspace
    params: dict[str, str]  # under dotted keys, without SEEDS
    seed: str
    code: dict[str, str]  # MD5 of each source, or folder of sources, that made the results
    data: dict[str, str]  # MD5 of both splits
    stages: dict[str, frozenset[str]]  # those of STAGES that ran: the params and files each read
    files: dict[Path, str]  # the text of those of FILES that are these results
    outs: dict[str, str]  # MD5 of every output, by path
    drawn: dict[str, str]  # params of the pictures
    notes: tuple[str, ...] = ()  # what was left out, and why

    def read_by(self, stage: str) -> frozenset[tuple[str, str]]:
        """The params, code and data of `stage`, but the seed; of what two read, one value."""
        known = self.params | self.code | self.data
        return frozenset((name, known[name]) for name in self.stages[stage] if name in known)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Every metric: a number or a word, under "STAGE.NAME"."""
        return {
            f"{stage}.{name}": value
            for stage, path in METRICS.items()
            if path in self.files
            for name, value in json.loads(self.files[path]).items()
        }

    def table(self, path: Path) -> results.Table | None:
        """The table `path`, parsed once; None where it is not among the results."""
        if path in self.files and path not in self._tables:
            self._tables[path] = results.parsed(self.files[path])
        return self._tables.get(path)

    @cached_property
    def _tables(self) -> dict[Path, results.Table]:
        return {}


def read(names: Sequence[str]) -> list[Snapshot]:
    """The results of `names`: experiments, sweeps, patterns, revisions, "workspace".

    One revision alone is followed by the workspace, as in `dvc metrics diff`; no name means HEAD,
    the workspace and every experiment. DataError for a name that nothing has or two things have,
    and where git does not read the repository.
    """
    git.require(dvc.root())
    places = [place for name in names for place in _find(name)]
    if not names:  # before the first commit there is no HEAD
        places = [*_commit("HEAD"), (WORKSPACE, ""), *_find(EVERY)]
    if len(names) == 1 and len(places) == 1:
        places += [(WORKSPACE, "")]
    places, wanted = list(dict.fromkeys(places)), [dvc.LOCK, *FILES]
    contents = iter(_contents([(revision, path) for _, revision in places for path in wanted]))
    files = [dict(zip(wanted, contents, strict=False)) for _ in places]
    found = []
    for (name, revision), each in zip(places, files, strict=True):
        if snapshot := _snapshot(name, revision, each):
            found.append(snapshot)
        else:
            say(f"{name}: no training in its dvc.lock, left out")
    return found


def _find(name: str) -> list[tuple[str, str]]:
    """What `name` stands for: pairs of a name and a commit."""
    if name == WORKSPACE:
        return [(WORKSPACE, "")]
    known = sorted(dvc.experiments(), key=lambda each: _natural(each.name))

    def matching(pattern: str) -> list[tuple[str, str]]:
        return [(each.name, each.revision) for each in known if re.fullmatch(pattern, each.name)]

    exact, commit = matching(re.escape(name)), _commit(name)
    sweep = matching(re.escape(name) + r"-\d+")
    if commit and (exact or sweep):
        what = f"both a revision and {'an experiment' if exact else 'a sweep'} have this name"
        other = f"the commit of the experiment (`git show-ref {name}`)" if exact else f"'{name}-*'"
        raise DataError(what, name, f"write the commit of the revision, or {other}")
    if exact and sweep:
        say(f"{name}: the experiment of this name; '{name}-*' is the sweep")
    found = exact or commit or sweep or matching(fnmatch.translate(name))
    if not found and name != EVERY:
        raise DataError("no such experiment, sweep or revision", name, REMEDY)
    return found


def _commit(name: str) -> list[tuple[str, str]]:
    """The commit that git calls `name`; none where it knows none."""
    words = "-C", str(dvc.root()), "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}"
    commit = git.output(*words)
    return [(name, commit.strip())] if commit else []


def _natural(name: str) -> list[tuple[str, int]]:
    """An order in which sweep-2 comes before sweep-10."""
    return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D*)(\d*)", name)]


def _contents(wanted: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """The content of each file at a commit, or in the workspace at ""; empty: it has none."""
    committed = git.contents(dvc.root(), [each for each in wanted if each[0]])
    for revision, path in wanted:
        file = dvc.root() / path
        if revision:
            yield next(committed)
        else:
            yield file.read_bytes() if file.is_file() else b""


def _snapshot(name: str, revision: str, contents: Mapping[Path, bytes]) -> Snapshot | None:
    """What the files at one commit say; None where there is no training."""
    lock: Lock = dvc.yaml(contents[dvc.LOCK].decode(errors="replace")).get("stages") or {}
    if "train" not in lock:
        return None
    files, notes = vouched(lock, contents)
    params = _params(lock, *STAGES)
    deps = {dep["path"]: dep["md5"] for stage in STAGES[::-1] for dep in _of(lock, stage, "deps")}
    read = [
        dep["path"] for stage in STAGES if stage != "download" for dep in _of(lock, stage, "deps")
    ]
    return Snapshot(
        name,
        revision,
        {key: value for key, value in params.items() if key not in SEEDS},
        params.get("seed", ""),
        {path: deps[path] for path in sorted(read) if path.startswith(("abn/", "stages/"))},
        {path: deps[path] for path in sorted(read) if path.startswith("data/")},
        {stage: _read(lock, stage) for stage in STAGES if stage in lock},
        files,
        {out["path"]: out["md5"] for stage in lock for out in _of(lock, stage, "outs")},
        _params(lock, "visualize"),
        tuple(f"{name}: {note}" for note in notes),
    )


def _read(lock: Lock, stage: str) -> frozenset[str]:
    """The names of the params and files that a stage read."""
    return frozenset([*_params(lock, stage), *(dep["path"] for dep in _of(lock, stage, "deps"))])


def _of(lock: Lock, stage: str, kind: str) -> list[dict[str, Any]]:
    """What dvc.lock has of a stage: its "deps" or "outs"."""
    return [each for each in lock.get(stage, {}).get(kind, []) if "md5" in each]


def _params(lock: Lock, *stages: str) -> dict[str, str]:
    """The params by which the results of `stages` were made, under dotted keys."""
    recorded: dict[str, Any] = {}
    for stage in stages:
        recorded |= lock.get(stage, {}).get("params", {}).get(str(paths.PARAMS), {})
    return dict(redaction.flat(recorded))


def vouched(lock: Lock, contents: Mapping[Path, bytes]) -> tuple[dict[Path, str], list[str]]:
    """Those of `contents` that dvc.lock vouches for, and a line for each that it does not.

    An empty one is a file that is not there.
    """
    files: dict[Path, str] = {}
    made = _made(lock)
    stale = {stage: path for stage in lock for path in _outdated(_of(lock, stage, "deps"), made)}
    notes = [f"{stage} ran on another {path}, left out" for stage, path in stale.items()]
    notes += [f"{path} cannot be checked, `dvc fetch` helps" for path in _unknown(lock, made)]
    writers = {out["path"]: stage for stage in lock for out in _of(lock, stage, "outs")}
    for path in (path for path in FILES if path in contents and path.as_posix() in writers):
        if not contents[path]:
            notes.append(f"{path} is missing")
        elif _md5(contents[path]) != made[path.as_posix()]:
            notes.append(f"{path} is not the one that dvc.lock records, left out")
        elif writers[path.as_posix()] not in stale:
            files[path] = contents[path].decode()
    return files, notes


def _made(lock: Lock) -> dict[str, str]:
    """The MD5 of every output, and of what is in the folders among them, where that is known."""
    outs = [out for stage in lock for out in _of(lock, stage, "outs")]
    deps = [dep for stage in lock for dep in _of(lock, stage, "deps")]
    folders = [out for out in outs if out["md5"].endswith(".dir")]
    inside = [
        (f"{out['path']}/{name}", md5)
        for out in folders
        for name, md5 in listed(out["md5"]) or _alone(out, deps)
    ]
    return {out["path"]: out["md5"] for out in outs} | dict(inside)


def _alone(out: Mapping[str, Any], deps: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Name and MD5 of the file in a folder of one file, without DVC's cache.

    DVC's checksum of a folder is that of its listing, so those of `deps` that are in the folder can
    be tried. OTHER where none of them is it.
    """
    inside = [dep for dep in deps if dep["path"].startswith(f"{out['path']}/")]
    names = [dep["path"].removeprefix(f"{out['path']}/") for dep in inside]
    found = dict.fromkeys(names if out.get("nfiles") == 1 else [], OTHER)
    for name, dep in zip(names, inside, strict=True):
        listing = json.dumps([{"md5": dep["md5"], "relpath": name}]).encode()
        if out["md5"] == _md5(listing) + ".dir":
            found[name] = dep["md5"]
    return list(found.items())


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _outdated(deps: Sequence[Mapping[str, str]], made: Mapping[str, str]) -> list[str]:
    """Those of a stage's inputs that are no longer what an earlier stage has made."""
    return [dep["path"] for dep in deps if made.get(dep["path"], dep["md5"]) != dep["md5"]]


def _unknown(lock: Lock, made: Mapping[str, str]) -> list[str]:
    """The inputs from a folder of an earlier stage whose listing is not known."""
    folders = tuple(f"{path}/" for path, md5 in made.items() if md5.endswith(".dir"))
    inputs = dict.fromkeys(dep["path"] for stage in lock for dep in _of(lock, stage, "deps"))
    return [path for path in inputs if path.startswith(folders) and path not in made]


def listed(md5: str) -> list[tuple[str, str]]:
    """Name and MD5 of each file in the folder `md5` (with ".dir"); none if DVC's cache lacks it."""
    file, entries = cached(md5), list[dict[str, str]]()
    with suppress(ValueError):  # cut off as it was written
        entries = json.loads(file.read_text("utf-8")) if file else []
    return [(each["relpath"], each["md5"]) for each in entries]


def cached(md5: str) -> Path | None:
    """The file `md5` in DVC's cache; None where it is not there."""
    file = cache(dvc.root()) / md5[:2] / md5[2:]
    return file if file.is_file() else None


@functools.cache
def cache(root: Path) -> Path:
    """The folder of DVC's cache, in the project `root`, that holds files by their MD5."""
    # Here: it takes a third of a second.
    from dvc.config import Config, ConfigError  # type: ignore[import-untyped]

    try:
        folder = Config(str(root / ".dvc"), validate=False)["cache"].get("dir", ".dvc/cache")
    except ConfigError as error:
        raise DataError(str(error), root / ".dvc", "correct DVC's settings there") from error
    return root / folder / "files" / "md5"
