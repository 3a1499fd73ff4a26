"""MLflow itself: a store, and what its runs lack. Only abn.inference has more of MLflow."""

import functools
import hashlib
import os
import re
import sqlite3
import textwrap
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout

from abn.experiments import dvc
from abn.runtime import files, locks, redaction
from abn.runtime.errors import TrackingError
from abn.tracking import address, outbox, view
from abn.tracking.mirror import REVISION, RunRecord, tags_of

EXPERIMENT, ARTIFACTS = "attention-branch-network", "mlartifacts"
making = threading.Lock()  # held while a new database is made
CURVE = "train_loss"  # by its first point two trainings are told apart
MARK = "abn.mirrored."  # begins the tags of a run that hold the digests of its records
WAIT = 60.0  # seconds, for another process that sends
REMEDY = "no result is lost; start the store, or check its address and disk, then run `abn sync`"
REFUSED = (
    "all else was sent; see `abn sync` for the reason, change the name or file, and sync again"
)
# MLflow compares runs by what was logged first; "epoch", the last, says that the row is there.
ORDER = {"val_top1": 0, "epoch": 2}
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the next look tries again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",  # seconds; follower.PATIENCE holds two
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # we say what failed, in one line
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # else a file set aside goes on being used
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def failure(error: Exception) -> TrackingError:
    """What a user can do about `error`, which `Store` has raised."""
    if isinstance(error, TrackingError):
        return error
    cause = _cause(error)
    if isinstance(cause, ModuleNotFoundError):
        what, remedy = f"the package {cause.name} is missing", "install it in the project's Python"
        return TrackingError(what, address.shown(), f"{remedy}, then run `abn sync`")
    if isinstance(cause, Timeout):
        what = "another process of this project is sending to the store"
        return TrackingError(what, address.shown(), "no result is lost; run `abn sync` later")
    text = f"{type(cause).__name__}: {redaction.sentence(str(cause))}"
    what = type(cause).__name__ if address.has_secret() else textwrap.shorten(text, 500)
    return TrackingError(what, address.shown(), REMEDY)


def _is_refusal(error: Exception) -> bool:
    """Whether the store works, but does not take what a record says."""
    code = getattr(error, "error_code", None)
    unfit = UnicodeError, OverflowError
    return code == "INVALID_PARAMETER_VALUE" or isinstance(_cause(error), unfit)


def _cause(error: BaseException) -> BaseException:
    if driver := getattr(error, "orig", None):  # SQLAlchemy's; before it are those MLflow caught
        return driver
    inner = error.__cause__ or error.__context__
    return _cause(inner) if inner else error


def _connect() -> Any:
    """MLflow's client of the store; TrackingError where its address cannot be one."""
    from mlflow import MlflowClient
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    if (path := address.database_file()) and not (path.exists() and path.stat().st_size):
        with making, files.replacing(path) as part:  # half a database never opens again
            MlflowClient(_probe(address.of_file(part)))
    try:
        return MlflowClient(_probe(address.address()))
    except UnsupportedModelRegistryStoreURIException:
        what = "MLflow knows no store of this kind"
        raise TrackingError(what, address.VARIABLE, address.USE) from None


def _probe(uri: str) -> str:
    """`uri`; if it is a database's, after one try to connect: MLflow alone tries for minutes."""
    if address.is_database():
        from sqlalchemy import create_engine, inspect, pool  # here: no server needs it

        inspect(create_engine(uri, poolclass=pool.NullPool))
    return uri


def _experiment(client: Any) -> str:
    """The id of our experiment, which is made where it is missing."""
    path = address.database_file()
    artifacts = (dvc.root() / ARTIFACTS).as_uri() if path else None
    if not (found := client.get_experiment_by_name(EXPERIMENT)):
        return str(client.create_experiment(EXPERIMENT, artifacts, tags=view.tags()))
    if found.lifecycle_stage == "deleted":
        what = f"the experiment {EXPERIMENT} was deleted in MLflow"
        command = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        if not os.environ.get(address.VARIABLE):  # MLflow's own default may be another place
            command = f"{address.VARIABLE}=sqlite:///mlflow.db {command}"
        raise TrackingError(what, address.shown(), f"`{command}` brings it back")
    for tag, text in view.tags().items() if view.GIVEN not in found.tags else ():
        client.set_experiment_tag(found.experiment_id, tag, text)
    former = found.artifact_location
    is_ours = former.startswith("file:") and former.endswith(f"/{ARTIFACTS}")
    if path and artifacts and is_ours and path.parent == dvc.root() and former != artifacts:
        _move_artifacts(path, found.experiment_id, former, artifacts)
    return str(found.experiment_id)


def _move_artifacts(database: Path, experiment: str, former: str, new: str) -> None:
    """Look for artifacts in `new`: the folder was copied or moved, and MLflow keeps whole paths."""
    columns = {"experiments": "artifact_location", "runs": "artifact_uri"}
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        for table, column in columns.items():
            change = f"update {table} set {column} = ? || substr({column}, ?)"
            where = f"where experiment_id = ? and {column} || '/' like ? escape '|'"
            begin = re.sub(r"([|%_])", r"|\1", former) + "/%"
            connection.execute(f"{change} {where}", (new, len(former) + 1, experiment, begin))


@contextmanager
def _alone() -> Iterator[None]:
    """Two first uses at once would break a new database, or make a run twice."""
    path = dvc.root() / ".cache" / "mlflow.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = locks.acquire(path, WAIT)
    try:
        yield
    finally:
        lock.release()


class Store:
    """A connected store, made by its first use. Whatever it fails with is for `failure`."""

    def __init__(self) -> None:
        os.environ |= DEFAULTS | dict(os.environ)
        self._sent: set[str] = set()  # digests of records
        address.check()
        with _alone():
            self._client = _connect()
            self._experiment = _experiment(self._client)

    def update(self, records: Iterable[RunRecord]) -> Iterator[str]:
        """Add what runs lack of `records`; yields a line for each that is new to this object.

        TrackingError, after all others were sent, for those that MLflow refuses.
        """
        refused = []
        for record in records:
            digest = hashlib.sha256(repr(record).encode()).hexdigest()[:16]
            if digest in self._sent:
                continue
            name = record.name()
            try:
                added = 0 if digest in self._mirrored else self._update(record, name, digest)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                refused.append(f"{name}, {record.place}")
                yield f"{refused[-1]}: not sent ({failure(error).what})"
                continue
            self._sent.add(digest)
            if record.outbox and record.status == "FINISHED":
                outbox.discard(record.outbox)
            yield f"{name}, {record.place}: {f'{added} new' if added else 'nothing new'}"
        if refused:
            what = f"MLflow does not take {' and '.join(refused)}"
            raise TrackingError(what, address.shown(), REFUSED)

    def run_with(self, tags: dict[str, str]) -> str | None:
        """The id of the newest run with all `tags`; None where there is none."""
        run = next(self._runs(tags), None)
        return str(run.info.run_id) if run else None

    def _runs(self, tags: Mapping[str, str]) -> Iterator[Any]:
        """The runs with all `tags`, newest first."""
        # MLflow reads no text with both kinds of quotes: what has one is compared here.
        asked = [f'tags.`{tag}` = "{text}"' for tag, text in tags.items() if '"' not in text]
        token = None
        while True:
            which = [self._experiment], " and ".join(asked)
            page = self._client.search_runs(*which, max_results=1000, page_token=token)
            yield from (run for run in page if tags.items() <= run.data.tags.items())
            if not (token := page.token):
                return

    def has(self, experiment: dvc.Experiment) -> bool:
        """Whether a run had all of `experiment` when this object asked first."""
        return frozenset(tags_of(experiment).items()) in self._whole

    @functools.cached_property
    def _whole(self) -> set[frozenset[tuple[str, str]]]:
        """What names the experiments that runs have all of."""
        names = tags_of(dvc.Experiment("", "", "", 0))
        whole = [tags for tags in self._tags if f"{MARK}experiment" in tags]
        return {frozenset(item for item in tags.items() if item[0] in names) for tags in whole}

    @functools.cached_property
    def _mirrored(self) -> set[str]:
        """The digests of all records that the store has."""
        tags = (tag for each in self._tags for tag in each.items())
        return {digest for name, digest in tags if name.startswith(MARK)}

    @functools.cached_property
    def _tags(self) -> list[dict[str, str]]:
        """Those of all runs: one question, not one for each record."""
        return [dict(run.data.tags) for run in self._runs({})]

    def _update(self, record: RunRecord, name: str, digest: str) -> int:
        """Add what the run of `record` lacks; how many things that is."""
        with _alone():
            new = self._experiment, _valid(record.time), record.keys[0], name
            run = self._find(record) or self._client.create_run(*new)
        mark, id = f"{MARK}{record.place.partition(' ')[0]}", run.info.run_id
        if run.data.tags.get(mark) == digest:
            return 0
        former, present = (tags.get(dvc.TAGS[0]) for tags in (run.data.tags, record.tags))
        if present and former != present and run.info.run_name.endswith(f"-{former}"):
            self._client.update_run(id, name=name)
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
        mine, revision = dvc.tags_in(record.tags), record.tags.get(REVISION)
        others = [each.tags for each in dvc.experiments() if each.tags != mine]
        for key in record.keys:
            # One of the same commit comes first.
            runs = sorted(self._runs(key), key=lambda run: run.data.tags.get(REVISION) != revision)
            for run in runs:
                if dvc.tags_in(run.data.tags) not in others and self._is_of(run, record, key):
                    return run
        return None

    def _is_of(self, run: Any, record: RunRecord, key: dict[str, str]) -> bool:
        """Whether `run` is not of an experiment that had the name before, or its weights."""
        theirs, ours = run.data.tags.get(REVISION), record.tags.get(REVISION)
        if not dvc.tags_in(key):  # it names a training or its weights
            return None in (theirs, ours) or theirs == ours
        return theirs == ours if theirs else self._agree(run, record)

    def _agree(self, run: Any, record: RunRecord) -> bool:
        """Whether the first epoch of `run` is that of `record`, as far as both have one."""
        if CURVE not in run.data.metrics or not record.rows:
            return True
        history = self._client.get_metric_history(run.info.run_id, CURVE)
        first = min(history, key=lambda point: point.step)
        _, row = record.rows.get(first.step, (0, {}))
        return row.get(CURVE) == first.value

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
            for key in sorted(row, key=lambda key: ORDER.get(key, 1))
        ]
        scores = [(key, value, _valid(time), 0) for key, (time, value) in record.scores.items()]
        new += [Metric(*score) for score in scores if metrics.get(score[0]) != score[1]]
        given = dict(redaction.flat(record.params))
        flat = [Param(*each) for each in given.items() if each[0] not in params]
        tags = [RunTag(*each) for each in redaction.flat(record.tags)]
        for i in range(0, max(len(new), len(flat), len(tags)), 100):  # MLflow's limit
            self._client.log_batch(id, *(part[i : i + 100] for part in (new, flat, tags)))
        return len(new) + len(flat)


def _valid(time: int) -> int:
    """`time` in ms since 1970; a wrong clock gives one below 0, which MLflow refuses (0: now)."""
    return max(time, 1)
