"""What `mlflow ui`, which the README recommends, lets in: this machine, and no foreign page."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
CREATE = "/api/2.0/mlflow/experiments/create"


def status(port: int, method: str, path: str, **headers: str) -> int:
    """The HTTP status of a request."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as client:
        client.request(method, path, headers=headers)
        return client.getresponse().status


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a running `mlflow ui`, started with no other flag."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("mlflow")), "ui", "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=tmp_path, env=env, start_new_session=True, **quiet)
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                if status(port, "GET", "/health", Host=f"localhost:{port}") == 200:
                    break
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


@pytest.mark.slow
def test_only_this_machine_and_no_other_hosts_page_reaches_the_ui(port: int) -> None:
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == port}
    ours = f"localhost:{port}"
    assert listening == {"127.0.0.1"}
    assert status(port, "GET", SEARCH, Host=ours) == 200
    assert status(port, "GET", SEARCH, Host="evil.example") == 403  # DNS rebinding
    assert status(port, "POST", CREATE, Host=ours, Origin="http://evil.example") == 403
