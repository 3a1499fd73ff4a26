"""What `mlflow ui`, which the README recommends, lets in: itself, and no page from elsewhere."""

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults import NotHere, Outcome, kind

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
LISTENS = "0A"  # in /proc/net/tcp


def answer(port: int, method: str, path: str, **headers: str) -> int:
    """The HTTP status of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        return connection.getresponse().status


def listening(port: int) -> set[str]:
    """The addresses, in the kernel's hexadecimal digits, on which somebody listens at `port`."""
    tables = [path for path in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if path.exists()]
    if not tables:
        raise NotHere("no /proc/net")
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    found = [row[1].split(":") for row in rows if row[3] == LISTENS]
    return {address for address, at in found if int(at, 16) == port}


@contextlib.contextmanager
def ui(folder: Path) -> Iterator[int]:
    """The port of a running `mlflow ui`, as it is started without a flag but for the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("mlflow")), "ui", "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                if answer(port, "GET", "/health", Host=f"localhost:{port}") == 200:
                    break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


@kind("servers", "mlflow ui, asked by other hosts' pages", slow=True)
def foreign(folder: Path, draws: random.Random) -> Outcome:
    with ui(folder) as port:
        ours, before = f"localhost:{port}", time.monotonic()
        assert listening(port) == {"0100007F"}  # 127.0.0.1, nothing else
        assert answer(port, "GET", SEARCH, Host=ours) == 200
        assert answer(port, "GET", SEARCH, Host="evil.example") == 403  # DNS rebinding
        foreign = {"Host": ours, "Origin": "http://evil.example"}
        create = "/api/2.0/mlflow/experiments/create"
        assert answer(port, "POST", create, **foreign) == 403
        seconds = time.monotonic() - before
    return Outcome("loopback only, 403", seconds=seconds)
