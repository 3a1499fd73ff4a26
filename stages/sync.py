"""Tell MLflow what it missed: journals that wait, then what DVC's experiments and the files hold.

python -m stages.sync: a line for each run; a second call finds nothing new.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from abn.config.params import Params
from abn.journal import Event, Head
from abn.project import paths
from abn.project.inputs import Inputs
from abn.project.stage import run
from abn.runtime.errors import TrackingError, UserError

EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+) ([0-9a-f]{40}) (\d+)")
MODEL, LOCK = paths.CHECKPOINT / paths.MODEL, Path("dvc.lock")
SCORED = {"evaluate": paths.EVALUATE_METRICS, "explain": paths.EXPLAIN_METRICS}  # stages


class Story(NamedTuple):
    """What the files of one place say of one run."""

    place: str
    head: Head
    events: list[Event]


def main(params: Params, inputs: Inputs) -> None:
    from abn import replay, runs

    with _store():
        client = runs.connect()
        for name, news in replay.waiting(client):
            print(f"{name}, journal: {news}", flush=True)
    for story in [*_experiments(), *_workspace()]:
        with _store():
            record = runs.Record(client, story.head)
            record.add(story.events)
            record.end("FINISHED", story.head.began)
        print(f"{story.head.name}, {story.place}: {replay.news(record)}", flush=True)
    _left()


def _experiments() -> Iterator[Story]:
    """What DVC's experiments hold in git; a run that was there when they ran is found again."""
    from ruamel.yaml import YAML

    from stages import mirror

    form = "%(refname) %(objectname) %(creatordate:unix)"
    for found in EXPERIMENT.finditer(_git("for-each-ref", "refs/exps", f"--format={form}")):
        start, rest, name, revision, seconds = found.groups()
        params = YAML(typ="safe", pure=True).load(_file(revision, paths.PARAMS))
        table = _file(revision, paths.HISTORY)
        if not params or not table:
            continue
        key, place = {"dvc.exp": name, "dvc.baseline_rev": start + rest}, f"experiment {name}"
        told, story = _teller(place, key, mirror.label(params), int(seconds))
        told.tag({"dvc.rev": revision} | _same_as_here(revision))
        told.params(params)
        mirror.history(told, table)
        for stage, file in SCORED.items():
            if text := _file(revision, file):
                mirror.scores(told, stage, json.loads(text))
        yield story


def _same_as_here(revision: str) -> dict[str, str]:
    """The tag that makes an experiment's run that of the workspace, if both hold the same."""
    from abn.models import checkpoint

    lock = _file(revision, LOCK)
    same = MODEL.is_file() and all(_made(lock, stage) for stage in SCORED)
    return {"weights.sha256": checkpoint.sha256(MODEL)} if same else {}


def _workspace() -> Iterator[Story]:
    """The model in checkpoint/, and those scores that are its own."""
    import torch

    from abn import tracking
    from abn.models import checkpoint
    from stages import mirror

    if not MODEL.is_file():
        return
    trained, when = checkpoint.load(MODEL, torch.device("cpu")), int(MODEL.stat().st_mtime)
    key = {"weights.sha256": checkpoint.sha256(MODEL)}
    told, story = _teller("workspace", key, mirror.label(trained.params), when)
    told.fill(lambda new: new.tag(tracking.lineage()))
    mirror.training(told, MODEL, trained)
    for stage, file in SCORED.items():
        if LOCK.is_file() and _made(LOCK.read_text(), stage):
            mirror.scores(told, stage, json.loads(file.read_text()))
        elif file.is_file():
            print(f"{file}: not of the weights in {MODEL}, left out", flush=True)
    yield story


def _teller(place: str, key: dict[str, str], name: str, seconds: int) -> tuple[Any, Story]:
    """A run to tell things to, all of which happened at `seconds`, and the story they become."""
    from abn import tracking

    head = Head(store=tracking.address(), key=key, name=name, began=seconds * 1000)
    events: list[Event] = []
    return tracking.Run(events.append, now=lambda: head.began), Story(place, head, events)


def _made(lock: str, stage: str) -> bool:
    """Whether the dvc.lock says that `stage` made the metrics here of the weights here."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        entry = YAML(typ="safe", pure=True).load(lock)["stages"][stage]
        said = {file["path"]: file["md5"] for file in entry["deps"] + entry["outs"]}
        return all(said[str(path)] == _md5(path) for path in (MODEL, SCORED[stage]))
    except (OSError, YAMLError, LookupError, TypeError):
        return False


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _file(revision: str, path: Path) -> str:
    return _git("show", f"{revision}:./{path}")


def _git(*words: str) -> str:
    """What git says; nothing where it fails."""
    return subprocess.run(["git", *words], capture_output=True, text=True).stdout


def _left() -> None:
    """Name what stays: journals for other stores, and those that nobody can read any more."""
    from abn import journal, tracking

    heads = dict(journal.heads(tracking.journals()))
    for store in sorted({head.store for head in heads.values()} - {tracking.address()}):
        print(f"journals wait for {store}: set MLFLOW_TRACKING_URI to it and sync again")
    for path in sorted({*tracking.journals().glob("*.jsonl")} - heads.keys()):
        print(f"{path}: torn at its head, so nobody knows its run: delete it")


@contextmanager
def _store() -> Iterator[None]:
    """Whatever the store fails with as one line."""
    from abn import tracking

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        remedy = "nothing is lost; mend the store and sync again"
        raise TrackingError(tracking.reason(error), tracking.named(), remedy) from error


if __name__ == "__main__":
    run(main)
