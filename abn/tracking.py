"""MLflow as a mirror: the files are the truth, and no failure of MLflow costs a result.

One run per trained model, found again by a tag, so that later stages add to it. The store is
`MLFLOW_TRACKING_URI` or `mlflow.db` in the repository, which `mlflow ui` shows without a flag;
`ABN_TRACKING=off` switches everything off.
"""

import functools
import importlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from filelock import FileLock

from abn.progress import say

EXPERIMENT = "attention-branch-network"

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # 7 take minutes on a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # `_warn` says what failed, in one line
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_failed = False  # once in a process: the runs it opens later are off too

P = ParamSpec("P")


def _mirrored(call: Callable[Concatenate["Run", P], None]) -> Callable[Concatenate["Run", P], None]:
    """Nothing while the mirror is off; the first failure warns and switches it off."""

    @functools.wraps(call)
    def safe(self: "Run", /, *args: P.args, **kwargs: P.kwargs) -> None:
        global _failed
        if _failed or os.environ.get("ABN_TRACKING") == "off":
            return
        handled = sys.exception()
        try:
            call(self, *args, **kwargs)
        except Exception as error:
            _failed = True
            _warn(_root_cause(error, handled))

    return safe


class Run:
    """One run in MLflow. Every call is safe: the first failure costs one warning, the rest nothing.

    Keys may hold letters, digits and `_-./: ` (MLflow's rule).
    """

    def __init__(self) -> None:
        self._client: Any = None
        self._monitor: Any = None
        self._id = ""
        self._complete = False  # it was FINISHED when this process opened it
        self._latest: dict[str, float] = {}
        self._params: set[str] = set()
        self._steps: dict[str, set[int]] = {}

    @_mirrored
    def log(self, row: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to the curve of each key, or set final scores (no `step`).

        A step that a curve already has keeps its value; a score that changed is replaced.
        """
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        new = {key: value for key, value in row.items() if not self._has(key, value, step)}
        metrics = [Metric(key, float(value), now, step or 0) for key, value in new.items()]
        self._client.log_batch(self._id, metrics=metrics)
        self._latest |= new
        if step is not None:
            for key in new:
                self._steps[key].add(step)

    @_mirrored
    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags; one already there is replaced."""
        from mlflow.entities import RunTag

        self._client.log_batch(self._id, tags=[RunTag(key, tags[key]) for key in tags])

    @_mirrored
    def params(self, params: Mapping[str, Any]) -> None:
        """Add nested parameters under dotted keys; one already there is left as it is."""
        from mlflow.entities import Param

        new = {key: text for key, text in _flat(params) if key not in self._params}
        self._client.log_batch(self._id, params=[Param(key, new[key]) for key in new])
        self._params |= new.keys()

    @_mirrored
    def artifact(self, path: Path) -> None:
        """Copy the file `path`, in place of the artifact of the same name."""
        self._client.log_artifact(self._id, str(path))

    def _has(self, key: str, value: float, step: int | None) -> bool:
        if step is None:
            return self._latest.get(key) == value
        if key not in self._steps:
            known = key in self._latest
            history = self._client.get_metric_history(self._id, key) if known else ()
            self._steps[key] = {point.step for point in history}
        return step in self._steps[key]

    @_mirrored
    def _open(self, key: tuple[str, str], name: str) -> None:
        connect = _prepare()
        lock = _root() / ".cache" / "mlflow.lock"
        lock.parent.mkdir(exist_ok=True)
        with FileLock(lock, timeout=60):  # two that connect first at once break the store
            self._client = connect(_store())
            found = self._find_or_create(key, name)
        self._id = found.info.run_id
        self._complete = found.info.status == "FINISHED"
        self._latest = dict(found.data.metrics)
        self._params = set(found.data.params)
        self._client.update_run(self._id, status="RUNNING")

    def _find_or_create(self, key: tuple[str, str], name: str) -> Any:
        experiment = _experiment(self._client)
        tag, value = key
        runs = self._client.search_runs(
            [experiment],
            f"tags.`{tag}` = '{value}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return runs[0] if runs else self._client.create_run(experiment, None, {tag: value}, name)

    @_mirrored
    def _fill(self, backfill: Callable[["Run"], None]) -> None:
        if not self._complete:
            backfill(self)

    @_mirrored
    def _watch(self) -> None:
        module = importlib.import_module("mlflow.system_metrics.system_metrics_monitor")
        self._monitor = module.SystemMetricsMonitor(
            self._id, resume_logging=True, tracking_uri=_store()
        )
        self._monitor.start()

    @_mirrored
    def _close(self, status: str) -> None:
        if self._monitor:
            self._monitor.finish()
        self._client.set_terminated(self._id, status)


@contextmanager
def run(
    key: tuple[str, str],
    name: str,
    *,
    backfill: Callable[[Run], None] | None = None,
    system_metrics: bool = False,
) -> Iterator[Run]:
    """Open the newest run whose tag `key[0]` is `key[1]`, or a new one called `name`.

    `backfill` fills a run that is new or was left unfinished, from the files. The run ends as
    FINISHED, FAILED (any exception) or KILLED (KeyboardInterrupt, SystemExit); exceptions pass.
    """
    mirror = Run()
    mirror._open(key, name)
    status = "FAILED"
    try:
        if backfill:
            mirror._fill(backfill)
        if system_metrics and importlib.util.find_spec("psutil"):
            mirror._watch()
        yield mirror
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        mirror._close(status)


def lineage() -> dict[str, str]:
    """Where this process stands: tags of the commit and of DVC's experiment, if there are any."""
    tags = {"git.commit": _commit()}
    tags["dvc.exp"] = os.environ.get("DVC_EXP_NAME", "")
    tags["dvc.baseline_rev"] = os.environ.get("DVC_EXP_BASELINE_REV", "")
    return {key: value for key, value in tags.items() if value}


def _commit() -> str:
    command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def _root() -> Path:
    """The main repository; an experiment of DVC runs in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT", "")).absolute()


def _store() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_root()}/mlflow.db"


def _prepare() -> Any:
    """Import MLflow, patient for seconds and silent, and return its client's class."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a warning a retry
    from mlflow import MlflowClient

    return MlflowClient


def _experiment(client: Any) -> str:
    """The id of the experiment; its artifacts lie under the root, not where it was first used."""
    if found := client.get_experiment_by_name(EXPERIMENT):
        return str(found.experiment_id)
    local = _store().startswith("sqlite:")
    artifacts = (_root() / "mlartifacts").as_uri() if local else None
    return str(client.create_experiment(EXPERIMENT, artifacts))


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _root_cause(error: BaseException, outer: BaseException | None) -> BaseException:
    """The first fault behind `error`, short of `outer`, which was there before."""
    inner = error.__cause__ or error.__context__
    return error if inner is None or inner is outer else _root_cause(inner, outer)


def _warn(cause: BaseException) -> None:
    store, reason = _store(), type(cause).__name__
    if "@" in store or "?" in store:  # may carry a password, and so may the message
        store = "the store of MLFLOW_TRACKING_URI"
    else:
        reason = textwrap.shorten(f"{reason}: {cause}", 200)
    say(
        f"tracking: {store} failed ({reason}); this process goes on without MLflow, nothing is lost"
        " from the files; mend the store or set ABN_TRACKING=off"
    )
