"""MLflow itself: a store, and what its runs lack. The only file that imports MLflow.

The store is MLFLOW_TRACKING_URI, or `mlflow.db` in the main repository, which `mlflow ui` finds.
"""

import json
import logging
import math
import os
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from abn.experiments import dvc
from abn.runtime import redaction
from abn.tracking import outbox
from abn.tracking.mirror import RunRecord

EXPERIMENT = "attention-branch-network"
CONTENTS, NOTHING = "abn.artifacts", "nothing new"  # tag of their digests; no news
DEFAULTS = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # 7 take minutes on a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # we say what failed, in one line
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # else a file set aside goes on being used
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def address() -> str:
    """The store's address as MLflow takes it, secrets included."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{dvc.root()}/mlflow.db"


def shown() -> str:
    """The store's address without secrets."""
    return redaction.sentence(address())


def reason(error: BaseException) -> str:
    """The first cause of `error`; only its type where its message may repeat a password."""
    if inner := error.__cause__ or error.__context__:
        return reason(inner)
    text = f"{type(error).__name__}: {redaction.sentence(str(error))}"
    return type(error).__name__ if shown() != address() else textwrap.shorten(text, 200)


def prepare() -> Any:
    """Import MLflow, silent and impatient, and build a database that is missing; the client class.

    It is built aside: half a database would never open again.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a warning per retry
    from mlflow import MlflowClient

    path = Path(address().removeprefix("sqlite:///").partition("?")[0])
    if address().startswith("sqlite:///"):
        with _lock():
            if not path.exists() or not path.stat().st_size:
                for part in path.parent.glob(f"{path.name}.*.part"):
                    part.unlink()
                part = path.with_name(f"{path.name}.{time.time_ns()}.part")
                MlflowClient(f"sqlite:///{part}")
                part.replace(path)
    return MlflowClient


def _lock() -> FileLock:
    """Two first uses at once would break a new database, or make a run twice."""
    path = dvc.root() / ".cache" / "mlflow.lock"
    path.parent.mkdir(exist_ok=True)
    return FileLock(path, timeout=60)


class Store:
    """A connected store. Whatever it fails with is raised."""

    def __init__(self) -> None:
        self._client = prepare()(address())
        local = (dvc.root() / "mlartifacts").as_uri() if address().startswith("sqlite:") else None
        with _lock():
            found = self._client.get_experiment_by_name(EXPERIMENT)
            create = self._client.create_experiment
            self._experiment = found.experiment_id if found else create(EXPERIMENT, local)

    def update(self, records: Iterable[RunRecord], sent: set[str]) -> Iterator[str]:
        """Add what runs lack of `records`, but for what is in `sent`; yields a line for each."""
        from mlflow.exceptions import MlflowException

        for record in records:
            if record.digest() not in sent:
                try:
                    news = self._update(record)
                except MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":
                        raise
                    news = f"refused by MLflow ({reason(error)}), left out"
                sent.add(record.digest())
                yield f"{record.name}, {record.place}: {news}"
            if record.outbox and record.status == "FINISHED":
                outbox.remove(record.outbox)

    def _update(self, record: RunRecord) -> str:
        with _lock():
            run = self._find(record) or self._create(record)
        if run.info.lifecycle_stage == "deleted":
            return "deleted in MLflow, left out"
        mark = f"abn.mirrored.{record.place.partition(' ')[0]}"
        if run.data.tags.get(mark) == record.digest():
            return NOTHING
        added = self._add(run, record) + self._upload(run, record)
        if record.status == "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        elif record.status not in ("", run.info.status):
            self._client.set_terminated(run.info.run_id, record.status, record.ended)
        self._client.set_tag(run.info.run_id, mark, record.digest())
        return f"{added} new" if added else NOTHING

    def _find(self, record: RunRecord) -> Any:
        """The run of the first key that has one, which is not another experiment's."""
        from mlflow.entities import ViewType

        mine = dvc.tags_in(record.tags)
        others = [each.tags for each in dvc.experiments() if each.tags != mine]
        view = ViewType.ACTIVE_ONLY if record.outbox else ViewType.ALL  # what a person deleted
        found = []
        for key in record.keys:
            wanted = " and ".join(f'tags.`{tag}` = "{text}"' for tag, text in key.items())
            newest = ["attributes.start_time DESC"]
            runs = self._client.search_runs([self._experiment], wanted, view, order_by=newest)
            found += [run for run in runs if dvc.tags_in(run.data.tags) not in others]
        return min(found, key=lambda run: run.info.lifecycle_stage, default=None)  # active first

    def _create(self, record: RunRecord) -> Any:
        run = self._client.create_run(self._experiment, record.time, record.keys[0], record.name)
        if not record.status:
            self._client.set_terminated(run.info.run_id, "FINISHED", record.time)
        return run

    def _add(self, run: Any, record: RunRecord) -> int:
        """Points, params (the first value stays) and tags (the last does); how many are new."""
        from mlflow.entities import Metric, Param, RunTag

        points = [Metric(*point) for point in self._lacking(run, record)]
        given, had = redaction.flat(record.params), run.data.params
        params = [Param(key, text) for key, text in given if key not in had]
        given, had = redaction.flat(record.tags), run.data.tags
        tags = [RunTag(key, text) for key, text in given if had.get(key) != text]
        for i in range(0, max(len(points), len(params), len(tags)), 100):  # MLflow's limit
            parts = (each[i : i + 100] for each in (points, params, tags))
            self._client.log_batch(run.info.run_id, *parts)
        return len(points) + len(params) + len(tags)

    def _lacking(self, run: Any, record: RunRecord) -> Iterator[tuple[str, float, int, int]]:
        """Key, value, time and step of the points whose step is new or whose score has changed."""
        latest: dict[str, float] = run.data.metrics
        times: dict[str, dict[int, int]] = {}  # by key and step
        for key, value, when, step in record.points:
            if step is None and math.isclose(latest.get(key, math.nan), value, rel_tol=1e-9):
                continue
            if key not in times:
                id, known = run.info.run_id, key in latest
                past = self._client.get_metric_history(id, key) if known else []
                times[key] = {point.step: point.timestamp for point in past}
            if step is None:  # later than the score that it replaces
                yield key, value, max(when, times[key].get(0, 0) + 1), 0
            elif step not in times[key]:
                yield key, value, when, step

    def _upload(self, run: Any, record: RunRecord) -> int:
        """Each artifact whose content the run has not, in place of the one of the same name."""
        had = json.loads(run.data.tags.get(CONTENTS, "{}"))
        names = {file.name: digest[:16] for file, digest in record.artifacts.items()}
        new = [file for file in record.artifacts if had.get(file.name) != names[file.name]]
        for file in new:
            self._client.log_artifact(run.info.run_id, str(file))
        if new:
            self._client.set_tag(run.info.run_id, CONTENTS, json.dumps(had | names))
        return len(new)
