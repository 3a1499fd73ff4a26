"""A place for runs to be told in, stores that fail on demand, and a look into what arrived."""

import functools
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from abn import journal, replay, runs, tracking
from abn.replay import Follower

HOUSE = Path(__file__).parents[1]
KEY = ("weights", "0123abcd")
SERVER = """
import sys
from mlflow.server import app
app.run(port=int(sys.argv[1]))
"""
TRAINING = """
import sys, time
from abn import tracking
first, last, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
with tracking.run(("weights", sys.argv[4]), "resnet18-s0") as run:
    for epoch in range(first, last):
        run.log({"loss": 10.0 - epoch}, step=epoch)
    print("told", flush=True)
    time.sleep(pause)
"""


@functools.cache
def tables() -> Path:
    """An empty database with MLflow's tables, which take seconds to create."""
    path = Path(tempfile.mkdtemp()) / "mlflow.db"
    with silent():
        runs.prepare()(f"sqlite:///{path}")
    return path


@contextmanager
def silent() -> Iterator[None]:
    """MLflow may use what is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextmanager
def place(folder: Path, store: str | None = None, fresh: bool = False) -> Iterator[None]:
    """A repository in `folder` for the block, with a store in it unless `fresh`."""
    with pytest.MonkeyPatch.context() as patch, silent():
        for name in ("ABN_TRACKING", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        for name, value in runs.DEFAULTS.items():
            patch.setenv(name, value)
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("PYTHONPATH", str(HOUSE))
        patch.setattr(tracking, "_warned", False)
        if store:
            patch.setenv("MLFLOW_TRACKING_URI", store)
        elif not fresh:
            shutil.copy(tables(), folder / "mlflow.db")
        yield


class Nobody:
    """In the place of the process that sends."""

    def __init__(self, *given: object) -> None: ...

    def finish(self, patience: float) -> None: ...


@contextmanager
def unsent() -> Iterator[None]:
    """Journals stay where they are for the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_Sender", Nobody)
        yield


@contextmanager
def followed(key: tuple[str, str] = KEY) -> Iterator[tuple[tracking.Run, Follower, list[str]]]:
    """A run, its follower in this process and not beside it, and the lines it tells."""
    lines: list[str] = []
    with unsent(), tracking.run(key, "resnet18-s0") as run:
        path = next(path for path in waiting() if journal.head(path).key == dict([key]))
        head = journal.head(path)
        assert head
        yield run, Follower(path, head, lines.append), lines


def waiting() -> list[Path]:
    """The journals that wait, newest first."""
    return sorted(tracking.journals().glob("*.jsonl"), reverse=True)


def send() -> list[tuple[str, str]]:
    """Send all journals that wait, in this process."""
    return list(replay.waiting(runs.connect()))


def stored(key: tuple[str, str] = KEY) -> list[Any]:
    """The runs of the store with that tag, newest first."""
    client = runs.connect()
    experiment = client.get_experiment_by_name(runs.EXPERIMENT)
    if not experiment:
        return []
    return list(client.search_runs([experiment.experiment_id], f"tags.`{key[0]}` = '{key[1]}'"))


def curve(name: str, key: tuple[str, str] = KEY) -> list[tuple[int, float]]:
    """Every point that the one run has, repeated ones too."""
    (found,) = stored(key)
    history = runs.connect().get_metric_history(found.info.run_id, name)
    return sorted((point.step, point.value) for point in history)


def training(last: int, pause: float = 0.0, key: str = KEY[1]) -> "subprocess.Popen[str]":
    """A process that tells of epochs up to `last`, and what it sends them with."""
    words = [sys.executable, "-c", TRAINING, "0", str(last), str(pause), key]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True)


def sender(process: "subprocess.Popen[str]") -> int:
    """The id of the process that sends what `process` tells."""
    assert process.stdout and process.stdout.readline() == "told\n"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def gone(pid: int, seconds: float = 60.0) -> None:
    """Wait until the process has ended."""
    deadline = time.monotonic() + seconds
    while _lives(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """MLflow's own server, to be killed and started again; its address stays."""

    def __init__(self, folder: Path) -> None:
        shutil.copy(tables(), folder / "server.db")
        self.env = os.environ | {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'server.db'}",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder / "artifacts"),
        }
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Until it answers."""
        nowhere = subprocess.DEVNULL
        words = [sys.executable, "-c", SERVER, str(self.port)]
        self.process = subprocess.Popen(words, env=self.env, stdout=nowhere, stderr=nowhere)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    def kill(self) -> None:
        """As a machine that fails does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", self.port)) == 0


@functools.cache
def server() -> Server:
    """One for all, as long as this process lives."""
    import atexit

    started = Server(Path(tempfile.mkdtemp()))
    atexit.register(started.kill)
    return started


class Door(ThreadingHTTPServer):
    """The way to the server; `fault` bars it: hangs, 500, garbage, late, deaf (it only obeys)."""

    daemon_threads = True
    fault = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Through)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.there = server()
        self.mended = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.mended.set()
        self.shutdown()
        self.server_close()


class _Through(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        door = self.server
        assert isinstance(door, Door)
        if door.fault == "hangs":
            door.mended.wait(60)
        elif door.fault == "500":
            self._answer(500, b"internal server error")
        elif door.fault == "garbage":
            self._answer(200, b"<html>Welcome to the hotel's network</html>")
        else:
            if door.fault == "late":
                time.sleep(0.2)
            answer = self._forward(door, body)
            if door.fault != "deaf":
                self._answer(*answer)

    do_GET = do_PUT = do_PATCH = do_POST

    def log_message(self, *words: object) -> None: ...

    def _forward(self, door: Door, body: bytes) -> tuple[int, bytes]:
        there = http.client.HTTPConnection("127.0.0.1", door.there.port, timeout=30)
        there.request(self.command, self.path, body, dict(self.headers))
        answer = there.getresponse()
        found = answer.status, answer.read()
        there.close()
        return found

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(BrokenPipeError):  # nobody waits any more
            self.wfile.write(body)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
