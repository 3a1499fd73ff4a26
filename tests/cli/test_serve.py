"""`abn serve`: who may use it, where it listens, and how it stops."""

import http.client
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from abn.cli import serve
from abn.cli.main import main
from tests import toys

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoint"
    return toys.saved(folder, ("cat", "dog"), canvas=32)


@pytest.mark.parametrize(
    ("words", "token", "line"),
    [
        (
            ["--host", "0.0.0.0"],
            None,
            "error[PARAMS] others could use this server; --host 0.0.0.0; set ABN_TOKEN",
        ),
        (["--host", "::"], None, "error[PARAMS] others could use this server; --host ::; set"),
        (
            [],
            "short",
            "error[PARAMS] a token too short, or not in ASCII; ABN_TOKEN; use at least 16",
        ),
        ([], "ä" * 20, "error[PARAMS] a token too short, or not in ASCII"),
        (["--port", "0"], None, "error[DATA] no such checkpoint; checkpoint/model.safetensors"),
        (["--port", "99999"], None, "error[PARAMS] no such port; --port 99999; use 0 to 65535"),
        (["--host", "no such host"], "long-enough-for-us", "error[USER] "),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str],
    token: str | None,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABN_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("ABN_TOKEN", token)
    assert main(["serve", *words]) != 0
    error = capsys.readouterr().err
    assert error.startswith(line) and error.count("\n") == 1


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 75
    assert f"Address already in use; 127.0.0.1:{port}; stop what" in capsys.readouterr().err


def test_no_part_of_an_answer_waits_for_the_client_to_confirm_the_one_before() -> None:
    with (
        serve._listening("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("words", [["--batch", "0"], ["--max-bytes", "x"], ["--max-pixels", "-1"]])
def test_a_limit_below_one_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", *words])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_real_server_answers_and_a_signal_lets_it_finish_what_is_open(
    saved: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "abn", "serve", "--checkpoint", str(saved), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("http://127.0.0.1:") and line.endswith("Ctrl-C stops\n")
        connection = http.client.HTTPConnection(line.split("/")[2], timeout=60)
        image = (ROOT / "docs/report-phone.png").read_bytes()
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(len(image)))
        connection.endheaders()
        connection.send(image[:1000])  # the request is open
        with closing(http.client.HTTPConnection(line.split("/")[2], timeout=60)) as other:
            other.request("GET", "/health")  # which the server reads after the above
            assert other.getresponse().status == 200
        server.send_signal(number)
        connection.send(image[1000:])
        assert connection.getresponse().status == 200
        connection.close()
        assert server.wait(60) in (-number, 128 + number)
