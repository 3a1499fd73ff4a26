"""What should be in MLflow, read from files: outboxes, the workspace, DVC's experiments.

A run is a training or an experiment of DVC: experiments may share weights and differ in scores.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from abn.experiments import dvc
from abn.experiments.dvc import Experiment
from abn.experiments.present import MODEL, Present
from abn.project import paths
from abn.tracking import outbox

SCORES = {"evaluate": paths.EVALUATE_METRICS, "explain": paths.EXPLAIN_METRICS}  # by stage
ARTIFACTS = {  # patterns by stage
    "explain": (paths.explain_table("*"),),
    "visualize": (paths.REPORT, paths.OUTPUTS / "*_attentions.png"),
}
UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, SafetensorError)
Skip = Callable[[str], object]  # gets a line on what is left out
Tags = dict[str, str]


@dataclass
class RunRecord:
    """What one place knows of a run; times in ms."""

    place: str  # "training", "workspace", "experiment vapid-frog"
    keys: list[Tags]  # each finds the run, best first; the first makes it
    params: Mapping[str, Any]
    tags: Tags
    time: int
    points: list[tuple[str, float, int, int | None]] = field(default_factory=list)
    artifacts: dict[Path, str] = field(default_factory=dict)  # with their sha256
    status: str = ""  # of MLflow; empty: leave it
    ended: int = 0
    outbox: Path | None = None

    @property
    def name(self) -> str:
        """What the run is called: "resnet18-s0"."""
        return f"{self.params.get('arch')}-s{self.params.get('seed')}"

    def digest(self) -> str:
        """Changes with whatever the record says."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def add_history(self, table: str, time: int) -> None:
        """Add a training's CSV; an empty field was not measured."""
        for row in csv.DictReader(io.StringIO(table)):
            self.add_row({key: float(text) for key, text in row.items() if text}, time)

    def add_row(self, row: Mapping[str, float], time: int) -> None:
        """Add an epoch: key, value, time and step."""
        self.points += [(key, row[key], time, int(row["epoch"])) for key in row]

    def add_scores(self, stage: str, text: str, time: int) -> None:
        """Add the metrics of a stage: numbers as scores, which have no step, words as tags."""
        for key, value in json.loads(text).items():
            if isinstance(value, str):
                self.tags[f"{stage}.{key}"] = value
            else:
                self.points.append((f"{stage}/{key}", float(value), time, None))


def records(here: Present, skip: Skip = str) -> Iterator[RunRecord]:
    """All that the files say, the most urgent first."""
    experiments = dvc.experiments()
    sources = [(str(path), _training(path)) for path in sorted(outbox.folder().glob("*.jsonl"))]
    sources += [("workspace", _workspace(here, experiments, skip))]
    sources += [(f"experiment {each.name}", _experiment(each, here)) for each in experiments]
    for name, source in sources:
        try:
            yield from source
        except UNREADABLE as error:
            skip(f"{name}: cannot be read ({error}), left out")


def _training(path: Path) -> Iterator[RunRecord]:
    """What an outbox says; nothing if its first line was lost. The last row of an epoch counts."""
    with outbox.stopped(path) as stopped:
        lines = outbox.read(path)
    starts = [line for line in lines if "start" in line]
    if not starts:
        return
    start, last, key = starts[-1]["start"], lines[-1], {"abn.training": path.stem}
    tags = start["tags"] | key | last.get("end", {})
    record = RunRecord("training", [key], start["params"], tags, starts[0]["time"])
    for line in {line["row"]["epoch"]: line for line in lines if "row" in line}.values():
        record.add_row(line["row"], line["time"])
    record.status = "RUNNING" if not stopped else "FINISHED" if "end" in last else "KILLED"
    record.ended, record.outbox = last["time"], path
    yield record


def _workspace(here: Present, experiments: list[Experiment], skip: Skip) -> Iterator[RunRecord]:
    """What the files say of the weights here, which may be those of one of `experiments`."""
    if not here.weights():
        return
    weights, current = {"weights.sha256": here.weights()}, dvc.current()
    same = [each.tags for each in experiments if here.is_of(each)]
    keys = [current] if current else [*same[:1], weights]
    params, time = here.recipe(), _time(here.folder / MODEL)
    record = RunRecord("workspace", keys, params, weights | keys[0], time)
    for file in here.files("train", paths.HISTORY, skip):
        record.add_history(file.read_text("utf-8"), _time(file))
    for stage, path in SCORES.items():
        for file in here.files(stage, path, skip):
            record.add_scores(stage, file.read_text("utf-8"), _time(file))
    for stage, patterns in ARTIFACTS.items():
        for file in (file for each in patterns for file in here.files(stage, each, skip)):
            record.artifacts[file] = dvc.digest(file, "sha256")
    if record.points or record.artifacts:
        yield record


def _experiment(experiment: Experiment, here: Present) -> Iterator[RunRecord]:
    """What an experiment holds in git; nothing if that is no training."""
    params = dvc.yaml(dvc.text(experiment, paths.PARAMS))
    table, time = dvc.text(experiment, paths.HISTORY), experiment.time * 1000
    if not params or not table:
        return
    weights = [{"weights.sha256": here.weights()}] if here.is_of(experiment) else []
    keys = [experiment.tags, *weights]  # a run may be older than its experiment's name
    tags = {"dvc.rev": experiment.revision} | keys[0] | keys[-1]
    record = RunRecord(f"experiment {experiment.name}", keys, params, tags, time)
    record.add_history(table, time)
    for stage, path in SCORES.items():
        record.add_scores(stage, dvc.text(experiment, path) or "{}", time)
    yield record


def _time(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000
