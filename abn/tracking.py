"""MLflow as a mirror: the files are the truth, and no failure of MLflow costs a result or a wait.

What happens is appended to a journal, and a process beside this one (`abn.replay`) sends it on; so
nothing here waits for a network or a database, and what could not be sent is sent later.

One run per trained model, found again by a tag, so that later stages add to it. The store is
`MLFLOW_TRACKING_URI` or `mlflow.db` in the repository, which `mlflow ui` shows without a flag;
`ABN_TRACKING=off` switches everything off.
"""

import functools
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from abn import journal
from abn.journal import Event, Head, Status, Writer
from abn.runtime import redaction
from abn.runtime.progress import say

LOCAL = "mlflow.db"  # in the root
LONGEST = 60.0  # seconds to wait for a process that has 10 of its own, and must be broken
STOPPED = 5.0  # seconds to wait where a person or a scheduler waits too

_warned = False  # once in a process

P = ParamSpec("P")


def _safe(call: Callable[Concatenate["Run", P], None]) -> Callable[Concatenate["Run", P], None]:
    """Whatever fails in `call` costs one warning a process."""

    @functools.wraps(call)
    def safe(self: "Run", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(self, *args, **kwargs)
        except Exception as error:
            what = f"cannot note in {journals()} what happens ({_shortly(error)})"
            _warn(f"{what}; the work goes on, and `python -m stages.sync` reads it from the files")

    return safe


class Run:
    """One run in MLflow, as a run of events that `add` takes. Every call returns at once.

    Keys may hold letters, digits and `_-./: ` (MLflow's rule).
    """

    def __init__(
        self,
        add: Callable[[Event], None],
        keep: Callable[[Path], Path] = Path.absolute,
        now: Callable[[], int] = journal.now,
    ) -> None:
        self._add, self._keep, self._now = add, keep, now

    @_safe
    def log(self, row: Mapping[str, float], step: int | None = None) -> None:
        """Add a point to the curve of each key, or set final scores (no `step`).

        A step that a curve already has keeps its value; a score that changed is replaced.
        """
        values = {key: float(value) for key, value in row.items()}
        self._add(Event(time=self._now(), points=values, step=step))

    @_safe
    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags; one already there is replaced."""
        self._add(
            Event(
                time=self._now(), tags={key: redaction.sentence(text) for key, text in tags.items()}
            )
        )

    @_safe
    def params(self, params: Mapping[str, Any]) -> None:
        """Add nested parameters under dotted keys; one already there is left as it is."""
        self._add(
            Event(
                time=self._now(),
                params={key: redaction.sentence(text) for key, text in _flat(params)},
            )
        )

    @_safe
    def artifact(self, path: Path) -> None:
        """Copy the file `path` as it is now, in place of the artifact of the same name."""
        self._add(Event(time=self._now(), artifact=str(self._keep(path))))

    @_safe
    def fill(self, backfill: Callable[["Run"], None]) -> None:
        """What `backfill` calls, which counts only if the run is new or was left unfinished."""

        def add(event: Event) -> None:
            self._add(event.model_copy(update={"backfill": True}))

        backfill(Run(add, self._keep, self._now))

    @_safe
    def end(self, status: Status) -> None:
        """The run is over."""
        self._add(Event(time=self._now(), end=status))


class _Sender:
    """The process that sends a journal while this one goes on; it outlives a kill -9 of ours."""

    def __init__(self, writer: Writer, system_metrics: bool) -> None:
        self.warned = False
        words = [sys.executable, "-P", "-m", "abn.replay", str(writer.path.absolute())]
        self.process = subprocess.Popen(
            [*words, *(["--system-metrics"] if system_metrics else [])],
            cwd=root(),  # where a relative address of a store begins
            env=os.environ | {"PYTHONPATH": _path()},
            stdin=subprocess.PIPE,  # its end is ours
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[writer.file],  # and with it the journal's lock
            start_new_session=True,  # Ctrl-C is not meant for it
            text=True,
        )
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def finish(self, patience: float) -> None:
        """Wait for it, say what is left, and end it where it does not end itself."""
        assert self.process.stdin
        self.process.stdin.close()
        self.listener.join(patience)
        if self.listener.is_alive() and patience == LONGEST:
            self.process.kill()
            self.listener.join()
        if self.listener.is_alive():
            return  # it ends soon and alone
        if self.process.wait() and not self.warned:
            _warn(f"{named()} did not take all of it in time; {waiting()}")
        elif self.warned and not self.process.returncode:
            say(f"tracking: {named()} has all of it now")

    def _listen(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self.warned = True
                _warn(line.rstrip("\n"))


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
    writer, sender = _begin(key, name, system_metrics)
    mirror = Run(writer.add, writer.keep) if writer else Run(_nothing)
    status: Status = "FAILED"
    try:
        if backfill and writer:
            mirror.fill(backfill)
        yield mirror
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        mirror.end(status)
        if writer:
            writer.close()
        if sender:
            sender.finish(LONGEST if status == "FINISHED" else STOPPED)


def _begin(key: tuple[str, str], name: str, watch: bool) -> tuple[Writer | None, _Sender | None]:
    """A journal and the process that sends it, as far as either can be had."""
    if os.environ.get("ABN_TRACKING") == "off":
        return None, None
    writer = None
    try:
        writer = Writer(
            journals(), Head(store=address(), key={key[0]: key[1]}, name=name, began=journal.now())
        )
        return writer, _Sender(writer, watch)
    except OSError as error:
        _warn(f"cannot begin in {journals()} ({_shortly(error)}); {waiting()}")
        return writer, None


def _nothing(event: Event) -> None:
    """Where no journal is."""


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


def root() -> Path:
    """The main repository; an experiment of DVC runs in a temporary copy of it."""
    return Path(os.environ.get("DVC_ROOT", "")).absolute()


def journals() -> Path:
    """The folder of what MLflow has not got yet."""
    return root() / ".cache" / "tracking"


def store() -> str:
    """The store's address as MLflow takes it, secrets included."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root()}/{LOCAL}"


def address() -> str:
    """The store's name in journals: no secrets, and the same when the repository moves."""
    return redaction.sentence(os.environ.get("MLFLOW_TRACKING_URI") or LOCAL)


def failure(error: BaseException) -> str:
    """One line on why the store fails, and what to do."""
    return f"{named()} failed ({reason(error)}); {waiting()}"


def reason(error: BaseException) -> str:
    """The first fault behind `error`, without its message where that may repeat a password."""
    inner = error.__cause__ or error.__context__
    if inner is not None:
        return reason(inner)
    return type(error).__name__ if redaction.sentence(store()) != store() else _shortly(error)


def named() -> str:
    """The store, for a person."""
    return redaction.sentence(store())


def waiting() -> str:
    """What becomes of what the store does not get."""
    return (
        "the work goes on, and what MLflow misses waits in .cache/tracking:"
        " `python -m stages.sync` sends it, ABN_TRACKING=off does without"
    )


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _path() -> str:
    """Where the other process imports from: this very copy of the project first."""
    given = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(Path(__file__).parents[1]), *([given] if given else [])])


def _shortly(error: BaseException) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {redaction.sentence(str(error))}", 200)


def _warn(line: str) -> None:
    global _warned
    if not _warned:
        say(f"tracking: {line}")
    _warned = True
