"""What should be in MLflow, read from files: outboxes, the workspace, DVC's experiments.

A run is a training or an experiment of DVC: experiments may share weights and differ in scores.
"""

import csv
import functools
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from abn.experiments import dvc, snapshots
from abn.project import paths
from abn.runtime.progress import say
from abn.tracking import outbox

TEXTS = paths.HISTORY, paths.TRAIN_METRICS, paths.EVALUATE_METRICS, paths.EXPLAIN_METRICS
REVISION = "dvc.rev"  # the tag with the commit of an experiment; a stage that runs has none yet
UNREADABLE = OSError, ValueError, TypeError, LookupError, AttributeError, SafetensorError


@dataclass
class RunRecord:
    """What one place knows of a run; times in ms."""

    place: str  # "training", "workspace", "experiment vapid-frog"
    keys: list[dict[str, str]]  # tags; each finds the run, best first; the first makes it
    params: Mapping[str, Any]
    tags: dict[str, str]
    time: int
    rows: dict[int, tuple[int, dict[str, float]]] = field(default_factory=dict)  # by epoch
    scores: dict[str, tuple[int, float]] = field(default_factory=dict)  # with their times
    artifacts: dict[Path, str] = field(default_factory=dict)  # with their sha256
    status: str = "FINISHED"  # of MLflow
    ended: int | None = None
    outbox: Path | None = None  # to be removed when MLflow has it

    def name(self) -> str:
        """`resnet18-look-s42-1f0c5a`: the network, its seed, and the experiment or the weights."""
        known = (str(self.params[key]) for key in ("arch", "attention") if key in self.params)
        own = self.tags.get(dvc.TAGS[0]) or next(iter(self.keys[0].values()))[:6]
        return "-".join([*known, f"s{self.params.get('seed')}", own])

    def add_text(self, path: Path, text: str, time: int) -> None:
        """Add one of TEXTS: a table of epochs, or a stage's scores (numbers) and tags (words).

        Of the training's metrics only the processor with its threads, on which the bits depend.
        """
        if path == paths.HISTORY:
            for line in csv.DictReader(io.StringIO(text)):  # an empty field was not measured
                row = {key: float(value) for key, value in line.items() if value}
                self.rows[int(row["epoch"])] = time, row
            return
        if path == paths.TRAIN_METRICS:  # its numbers are the last row of the curves
            self.tags |= {k: v for k, v in json.loads(text).items() if k == "device"}
            return
        for key, value in json.loads(text).items():
            if isinstance(value, str):
                self.tags[f"{path.stem}.{key}"] = value
            else:
                self.scores[f"{path.stem}/{key}"] = time, float(value)


def records(
    folder: Path,
    since: float = math.inf,
    current: dict[str, str] | None = None,
    known: Callable[[dvc.Experiment], bool] = lambda experiment: False,
) -> Iterator[RunRecord]:
    """All that the files say; in `folder` a stage runs since `since` (seconds), if any does.

    `current` has the tags of its experiment; None: of the one in which this process runs. Those
    that are `known` are left out: to read the dvc.lock of 200 takes seconds.
    """
    current = dvc.current() if current is None else current
    sources = [(str(path), _training(path)) for path in sorted(outbox.folder().glob("*.jsonl"))]
    sources += [("workspace", _workspace(folder, since, current))]
    experiments = [each for each in dvc.experiments() if not known(each)]
    dvc.read(experiments, [paths.PARAMS, dvc.LOCK, *TEXTS])
    sources += [(f"experiment {each.name}", _experiment(each)) for each in experiments]
    for name, source in sources:
        try:
            yield from source
        except UNREADABLE as error:
            say(f"{name}: cannot be read ({error}), left out")


def _training(path: Path) -> Iterator[RunRecord]:
    """What an outbox says, if it has a start and an epoch. The last row of an epoch counts."""
    running, lines = outbox.read(path)
    starts = [line for line in lines if "start" in line]
    rows = [(line["time"], line["row"]) for line in lines if "row" in line]
    if starts and not rows and not running:  # it was only restored, or killed in its first epoch
        outbox.discard(path)
    if starts and rows:
        start, last, key = starts[-1]["start"], lines[-1], {"abn.training": path.stem}
        tags = start["tags"] | key | last.get("end", {})
        record = RunRecord("training", [key], start["params"], tags, starts[0]["time"])
        record.rows = {int(row["epoch"]): (time, row) for time, row in rows}
        record.status = "RUNNING" if running else "FINISHED" if "end" in last else "KILLED"
        record.ended, record.outbox = last["time"], path
        yield record


def _workspace(folder: Path, since: float, current: dict[str, str]) -> Iterator[RunRecord]:
    """What the files say of the weights here, which may be those of an experiment."""
    if not (model := folder / dvc.MODEL).is_file():
        return
    with safe_open(model, framework="numpy") as file:  # without torch, whose import takes seconds
        params = json.loads(file.metadata()["abn"])["params"]
    weights = {"weights.sha256": dvc.digest(model, "sha256")}
    applied = [] if current else dvc.applied(folder)[:1]
    keys = [current] if current else [*(each.tags for each in applied), weights]
    tags = weights | (tags_of(applied[0]) if applied else current)
    time = int(model.stat().st_mtime * 1000)
    record = RunRecord("workspace", keys, params | dvc.params(folder), tags, time)
    for file in dvc.results(folder, since):
        path = file.relative_to(folder)
        if path in TEXTS:
            record.add_text(path, file.read_text("utf-8"), int(file.stat().st_mtime * 1000))
        else:
            record.artifacts[file] = dvc.digest(file, "sha256")
    if record.rows or record.scores or record.artifacts:
        yield record


def _experiment(experiment: dvc.Experiment) -> Iterator[RunRecord]:
    """What an experiment holds in git and dvc.lock vouches for; nothing if that is no training."""
    params, time = dvc.yaml(dvc.text(experiment, paths.PARAMS)), experiment.time * 1000
    name, tags = f"experiment {experiment.name}", tags_of(experiment)
    keys = [experiment.tags, {REVISION: experiment.revision}]  # it may have been renamed
    record = RunRecord(name, keys, params, tags, time)
    texts, notes = _vouched(experiment)
    for note in notes:
        say(f"{name}: {note}")
    for path, text in texts.items():
        record.add_text(path, text, time)
    if params and record.rows:
        yield record


@functools.cache  # a follower asks every two seconds
def _vouched(experiment: dvc.Experiment) -> tuple[dict[Path, str], list[str]]:
    """Those of TEXTS that are results of the training, and a line for each that is not."""
    files = {path: dvc.text(experiment, path) for path in (dvc.LOCK, *TEXTS)}
    contents = {path: text.encode(errors="surrogateescape") for path, text in files.items()}
    return snapshots.vouched(dvc.yaml(files[dvc.LOCK]).get("stages") or {}, contents)


def tags_of(experiment: dvc.Experiment) -> dict[str, str]:
    """What names an experiment, and its commit: another one may get the same name."""
    return experiment.tags | {REVISION: experiment.revision}
