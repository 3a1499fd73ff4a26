"""Runs in MLflow, filled so that nothing is there twice: the only file that knows MLflow."""

import importlib
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from abn import tracking
from abn.journal import Event, Head

EXPERIMENT = "attention-branch-network"

DEFAULTS = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # 7 take minutes on a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # we say what failed, in one line
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # else a file put aside goes on being used
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
MONITORS = (
    "cpu_monitor.CPUMonitor",
    "disk_monitor.DiskMonitor",
    "network_monitor.NetworkMonitor",
    "gpu_monitor.GPUMonitor",
)

LOAD = "system/"  # where MLflow shows the load of a machine
MOST = 1000  # metrics in one call
MOST_WORDS = 100  # params or tags in one call
CLOSE = 1e-6  # files have six digits: scores that agree in them are the same


class Refused(Exception):
    """The store answers, and does not take what a journal tells, now or ever."""


def prepare() -> Any:
    """Import MLflow, patient for seconds, silent and unpickling nothing; its client's class."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a warning a retry
    from mlflow import MlflowClient

    return MlflowClient


def make() -> Any:
    """A database where the store is one that is not there yet, in any case `prepare`."""
    client, store = prepare(), tracking.store()
    if store.startswith("sqlite:///"):
        with _alone():
            _build(client, Path(store.removeprefix("sqlite:///").partition("?")[0]))
    return client


def connect() -> Any:
    """A client of the store, which is there from now on."""
    client = make()
    with _alone():
        return client(tracking.store())


def _build(client: Any, path: Path) -> None:
    """Make the database `path` where there is none, aside: half a one would never open again."""
    if path.exists() and path.stat().st_size:
        return
    for left in path.parent.glob(f"{path.name}.*.part"):
        left.unlink()
    part = path.with_name(f"{path.name}.{time.time_ns()}.part")
    client(f"sqlite:///{part}")
    part.replace(path)


def _alone() -> FileLock:
    """A lock on first uses: two at once break a new store, or make a run twice."""
    lock = tracking.root() / ".cache" / "mlflow.lock"
    lock.parent.mkdir(exist_ok=True)
    return FileLock(lock, timeout=60)


class Record:
    """The run that a journal's head names, found or made."""

    def __init__(self, client: Any, head: Head) -> None:
        self._client = client
        with _alone():
            found = self._find(head) or self._create(head)
        self._id: str = found.info.run_id
        self._status: str = found.info.status
        self._began: int = found.info.start_time
        self._complete = self._status == "FINISHED"
        self._latest: dict[str, float] = dict(found.data.metrics)
        self._params: set[str] = set(found.data.params)
        self._tags: dict[str, str] = dict(found.data.tags)
        self._steps: dict[str, set[int]] = {}
        self.added = 0  # what was not there before: points, scores, params, tags

    def running(self) -> None:
        """Show that the work goes on."""
        self._client.update_run(self._id, status="RUNNING")
        self._status = "RUNNING"

    def add(self, events: Iterable[Event]) -> None:
        """All that is new in `events`; Refused where the store will never take it."""
        from mlflow.exceptions import MlflowException

        try:
            self._add([e for e in events if not (self._complete and e.backfill)])
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise Refused(str(error)) from error
            raise

    def end(self, status: str, when: int) -> None:
        """The run was over at `when`; a run that ended like this before keeps its time."""
        if status != self._status or not self._complete:
            self._client.set_terminated(self._id, status, when)
        self._status = status

    def _find(self, head: Head) -> Any:
        wanted = " and ".join(f"tags.`{tag}` = {_quoted(text)}" for tag, text in head.key.items())
        newest = ["attributes.start_time DESC"]
        runs = self._client.search_runs(
            [self._experiment()], wanted, order_by=newest, max_results=1
        )
        return runs[0] if runs else None

    def _create(self, head: Head) -> Any:
        return self._client.create_run(self._experiment(), head.began, head.key, head.name)

    def _experiment(self) -> str:
        """Its id; its artifacts lie under the root, not where it was first used."""
        if found := self._client.get_experiment_by_name(EXPERIMENT):
            return str(found.experiment_id)
        local = tracking.store().startswith("sqlite:")
        artifacts = (tracking.root() / "mlartifacts").as_uri() if local else None
        return str(self._client.create_experiment(EXPERIMENT, artifacts))

    def _add(self, events: list[Event]) -> None:
        """In as few calls as MLflow allows."""
        from mlflow.entities import Metric, Param, RunTag

        points = [Metric(*point) for event in events for point in self._points(event)]
        for part in _parts(points, MOST):
            self._client.log_batch(self._id, metrics=part)
        params = [Param(*pair) for event in events for pair in self._new_params(event)]
        for part in _parts(params, MOST_WORDS):
            self._client.log_batch(self._id, params=part)
        tags = [RunTag(*pair) for pair in self._new_tags(events).items()]
        for part in _parts(tags, MOST_WORDS):
            self._client.log_batch(self._id, tags=part)
        for event in events:
            if event.artifact:
                self._upload(Path(event.artifact))
        self.added += sum(not p.key.startswith(LOAD) for p in points) + len(params) + len(tags)

    def _points(self, event: Event) -> Iterator[tuple[str, float, int, int]]:
        """Key, value, time and step of what a curve or score has not got yet."""
        for key, value in event.points.items():
            if not self._has(key, value, event.step):
                self._latest[key] = value
                yield key, value, event.time, event.step or 0
        for key, value in event.load.items():  # equal points are one in the store
            yield f"{LOAD}{key}", value, event.time, (event.time - self._began) // 1000

    def _has(self, key: str, value: float, step: int | None) -> bool:
        """Whether the curve has the step, which it has from now on, or the score the value."""
        if step is None:
            return key in self._latest and _same(value, self._latest[key])
        if key not in self._steps:
            known = key in self._latest
            history = self._client.get_metric_history(self._id, key) if known else ()
            self._steps[key] = {point.step for point in history}
        had = step in self._steps[key]
        self._steps[key].add(step)
        return had

    def _new_params(self, event: Event) -> Iterator[tuple[str, str]]:
        for key, text in event.params.items():
            if key not in self._params:
                self._params.add(key)
                yield key, text

    def _new_tags(self, events: list[Event]) -> Mapping[str, str]:
        """The last of each; a tag that says so already is left alone."""
        last = {key: text for event in events for key, text in event.tags.items()}
        new = {key: text for key, text in last.items() if self._tags.get(key) != text}
        self._tags |= new
        return new

    def _upload(self, path: Path) -> None:
        """Unless it is gone: then the run does without, and the file's stage writes it again."""
        with suppress(FileNotFoundError):
            path.stat()
            self._client.log_artifact(self._id, str(path))


class Monitor:
    """How busy the machine is, as far as MLflow's own monitors can be had here."""

    def __init__(self) -> None:
        self._monitors = []
        for name in MONITORS:
            module, _, kind = name.partition(".")
            with suppress(Exception):  # no psutil, no GPU
                found = importlib.import_module(f"mlflow.system_metrics.metrics.{module}")
                self._monitors.append(getattr(found, kind)())

    def measure(self) -> dict[str, float]:
        """The present values of all of them."""
        values: dict[str, float] = {}
        for monitor in self._monitors:
            with suppress(Exception):  # a GPU that went away
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
        return values


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, abs_tol=CLOSE) or (math.isnan(one) and math.isnan(other))


def _parts(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    return (items[i : i + most] for i in range(0, len(items), most))


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"
