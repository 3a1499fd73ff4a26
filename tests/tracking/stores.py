"""A repository to track, stores that fail on demand, and a look into what arrived."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from abn.tracking import client, mirror, outbox
from abn.tracking.client import Store

HOUSE = Path(__file__).parents[2]
SERVER = "import sys; from mlflow.server import app; app.run(port=int(sys.argv[1]))"
TRAINING = """
import signal, sys, threading
from abn.tracking import follow, outbox
name, first, last, pause = sys.argv[1], *map(float, sys.argv[2:])
ended = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: ended.set())
signal.signal(signal.SIGINT, signal.default_int_handler)  # a caller may have it ignored
with follow.following(), outbox.training(name, {"arch": "resnet18", "seed": 0}, {}) as note:
    for epoch in range(int(first), int(last) + 1):
        note("row", {"epoch": epoch, "loss": 10.0 - epoch})
    print("trained", flush=True)
    ended.wait(pause)
    note("end", {"weights.sha256": name})
"""


@functools.cache
def tables() -> Path:
    """An empty database with MLflow's tables, which take seconds to create."""
    path = Path(tempfile.mkdtemp()) / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{path}")
    return path


@contextmanager
def repository(folder: Path, store: str = "") -> Iterator[None]:
    """`folder` as the root for the block; its own database is the store unless one is given."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's
        for name in ("ABN_TRACKING", "MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
            patch.delenv(name, raising=False)
        for name, value in client.DEFAULTS.items():
            patch.setenv(name, value)
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("PYTHONPATH", str(HOUSE))
        patch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
        outbox._warn.cache_clear()
        patch.chdir(folder)
        if store:
            patch.setenv("MLFLOW_TRACKING_URI", store)
        else:
            shutil.copy(tables(), folder / "mlflow.db")
        yield


def sync() -> list[str]:
    """Bring everything, in this process."""
    return list(Store().update(mirror.records(Path())))


def train(name: str, first: int, last: int, pause: float = 0) -> "subprocess.Popen[str]":
    """A process that trains epochs `first` to `last`, waits `pause` seconds at most, and ends."""
    words = [sys.executable, "-c", TRAINING, name, str(first), str(last), str(pause)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True)


def finish(process: "subprocess.Popen[str]", name: str, last: int = 6) -> str:
    """End the training once the process beside it has sent its epochs; what it said on stderr.

    On a busy machine that takes longer than a training waits at its end.
    """
    until(lambda: runs("abn.training", name) and len(curve(name)) == last)
    process.send_signal(signal.SIGUSR1)
    return process.communicate()[1]


def note(name: str, first: int, last: int, end: bool = True) -> None:
    """The outbox of such a training, without a process beside it."""
    with outbox.training(name, {"arch": "resnet18", "seed": 0}, {}) as add:
        for epoch in range(first, last + 1):
            add("row", {"epoch": epoch, "loss": 10.0 - epoch})
        if end:
            add("end", {"weights.sha256": name})


def follower(process: "subprocess.Popen[str]") -> psutil.Process:
    """The process beside the training `process`, which has trained."""
    assert process.stdout and process.stdout.readline() == "trained\n"
    (other,) = psutil.Process(process.pid).children()
    return other


def until(condition: Callable[[], object]) -> None:
    """Wait for `condition`."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runs(tag: str, value: str) -> list[Any]:
    """The runs with a tag, newest first."""
    store = Store()
    return list(store._client.search_runs([store._experiment], f"tags.`{tag}` = '{value}'"))


def run(name: str) -> Any:
    """The one run of the training `name`."""
    (found,) = runs("abn.training", name)
    return found


def points(name: str, key: str = "loss") -> list[Any]:
    """Every point of a training's curve, repeated ones too."""
    history = Store()._client.get_metric_history(run(name).info.run_id, key)
    return sorted(history, key=lambda point: point.step)


def curve(name: str) -> list[tuple[int, float]]:
    """Their steps and values."""
    return [(point.step, point.value) for point in points(name)]


class Server:
    """MLflow's own server, to be killed and started again; its address stays."""

    def __init__(self, folder: Path) -> None:
        shutil.copy(tables(), folder / "server.db")
        self.env = os.environ | {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'server.db'}",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": str(folder / "artifacts"),
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Until it answers."""
        nowhere, words = subprocess.DEVNULL, [sys.executable, "-c", SERVER, str(self.port)]
        self.process = subprocess.Popen(words, env=self.env, stdout=nowhere, stderr=nowhere)
        until(self._answers)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", self.port)) == 0


class Proxy(ThreadingHTTPServer):
    """The way to a server; `fault` is "hangs", "500", "deaf" (it obeys, but never answers)."""

    daemon_threads = True
    fault = ""

    def __init__(self, server: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.address, self.port = f"http://127.0.0.1:{self.server_port}", server.port
        self.repaired = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def repair(self) -> None:
        self.fault = ""
        self.repaired.set()


class _Request(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body, proxy = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.server
        assert isinstance(proxy, Proxy)
        if proxy.fault == "hangs":
            proxy.repaired.wait(60)
        elif proxy.fault == "500":
            self.send_error(500)
        else:
            server = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
            server.request(self.command, self.path, body, dict(self.headers))
            answer = server.getresponse()
            content = answer.read()
            server.close()
            if proxy.fault != "deaf":
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    do_GET = do_PUT = do_PATCH = do_POST

    def log_message(self, *words: object) -> None: ...
