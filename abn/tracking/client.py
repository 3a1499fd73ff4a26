"""MLflow itself: a store, and what its runs lack. The only file that imports MLflow."""

import hashlib
import os
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from abn.experiments import dvc
from abn.runtime import files, redaction
from abn.tracking.mirror import RunRecord

EXPERIMENT = "attention-branch-network"
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the next look tries again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",  # seconds; follow.PATIENCE holds two
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # we say what failed, in one line
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # else a file set aside goes on being used
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def address() -> str:
    """MLFLOW_TRACKING_URI, secrets included, or `mlflow.db` where `mlflow ui` finds it."""
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


def _lock() -> FileLock:
    """Two first uses at once would break a new database, or make a run twice."""
    return FileLock(dvc.root() / ".cache" / "mlflow.lock", timeout=60)


class Store:
    """A connected store, made by its first use. Whatever it fails with is raised."""

    def __init__(self) -> None:
        os.environ |= DEFAULTS | dict(os.environ)
        from mlflow import MlflowClient

        self._sent: set[str] = set()  # digests of records
        sqlite = address().startswith("sqlite:///")
        path = Path(address().removeprefix("sqlite:///").partition("?")[0])
        local = (dvc.root() / "mlartifacts").as_uri() if sqlite else None
        with _lock():
            if sqlite and not (path.exists() and path.stat().st_size):
                with files.replacing(path) as part:  # half a database never opens again
                    MlflowClient(f"sqlite:///{part}")
            self._client = MlflowClient(address())
            found = self._client.get_experiment_by_name(EXPERIMENT)
            create = self._client.create_experiment
            self._experiment = found.experiment_id if found else create(EXPERIMENT, local)

    def update(self, records: Iterable[RunRecord]) -> Iterator[str]:
        """Add what runs lack of `records`; yields a line for each that is new to this object."""
        for record in records:
            digest = hashlib.sha256(repr(record).encode()).hexdigest()[:16]
            if digest in self._sent:
                continue
            name = f"{record.params.get('arch')}-s{record.params.get('seed')}"
            added = self._update(record, name, digest)
            self._sent.add(digest)
            if record.outbox and record.status == "FINISHED":
                record.outbox.unlink(missing_ok=True)
            yield f"{name}, {record.place}: {f'{added} new' if added else 'nothing new'}"

    def _update(self, record: RunRecord, name: str, digest: str) -> int:
        """Add what the run of `record` lacks; how many things that is."""
        with _lock():
            new = self._experiment, _valid(record.time), record.keys[0], name
            run = self._find(record) or self._client.create_run(*new)
        mark, id = f"abn.mirrored.{record.place.partition(' ')[0]}", run.info.run_id
        if run.data.tags.get(mark) == digest:
            return 0
        added = self._add(run, record)
        for file in record.artifacts:  # in place of the one of the same name
            self._client.log_artifact(id, str(file))
        if record.status != run.info.status:
            ended = _valid(record.ended or record.time)
            self._client.set_terminated(id, record.status, ended)
        self._client.set_tag(id, mark, digest)
        return added + len(record.artifacts)

    def _find(self, record: RunRecord) -> Any:
        """The newest run that the first of the keys finds, and that is not another experiment's."""
        mine = dvc.tags_in(record.tags)
        others = [each.tags for each in dvc.experiments() if each.tags != mine]
        for key in record.keys:
            wanted = " and ".join(f'tags.`{tag}` = "{text}"' for tag, text in key.items())
            for run in self._client.search_runs([self._experiment], wanted):
                if dvc.tags_in(run.data.tags) not in others:
                    return run
        return None

    def _add(self, run: Any, record: RunRecord) -> int:
        """Epochs and scores, params (the first value stays), tags (the last does); how many."""
        from mlflow.entities import Metric, Param, RunTag

        id, params, metrics = run.info.run_id, run.data.params, run.data.metrics
        points = self._client.get_metric_history(id, "epoch") if "epoch" in metrics else []
        epochs = {point.step for point in points}
        new = [
            Metric(key, row[key], _valid(time), epoch)
            for epoch, (time, row) in record.rows.items()
            if epoch not in epochs
            for key in sorted(row, key="epoch".__eq__)  # last: it says that the row is there
        ]
        scores = [(key, value, _valid(time), 0) for key, (time, value) in record.scores.items()]
        new += [Metric(*score) for score in scores if metrics.get(score[0]) != score[1]]
        flat = [Param(*each) for each in redaction.flat(record.params) if each[0] not in params]
        tags = [RunTag(*each) for each in redaction.flat(record.tags)]
        for i in range(0, max(len(new), len(flat), len(tags)), 100):  # MLflow's limit
            self._client.log_batch(id, *(part[i : i + 100] for part in (new, flat, tags)))
        return len(new) + len(flat)


def _valid(time: int) -> int:
    """`time` in ms since 1970; a wrong clock gives one below 0, which MLflow refuses (0: now)."""
    return max(time, 1)
