"""The process beside a stage: live, never in its way, and nothing is lost when one is killed."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, redirect_stdout, suppress
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from abn.runtime.errors import ParamsError
from abn.tracking import client, follow, outbox
from abn.tracking.follow import Follower
from tests.tracking import stores
from tests.tracking.stores import Proxy, Server, curve, follower, note, run, sync, train

ALL = [(epoch, 10.0 - epoch) for epoch in range(1, 7)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    yield started
    started.kill()


@pytest.fixture
def proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    opened = Proxy(server)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", opened.address)
    yield opened
    opened.repair()
    opened.shutdown()
    opened.server_close()


@pytest.fixture
def one() -> Follower:
    """A follower in this process."""
    return Follower(Path(), time.time())


def arrived(name: str, status: str = "FINISHED") -> None:
    """All of a training is there once, and its outbox is gone."""
    assert curve(name) == ALL and run(name).info.status == status
    assert (status == "FINISHED") != (outbox.folder() / f"{name}.jsonl").exists()


def test_curves_are_seen_while_the_training_runs_and_all_is_there_at_its_end() -> None:
    with train("f", 1, 6, pause=60) as work:
        stores.until(lambda: stores.runs("abn.training", "f") and len(curve("f")) == 6)
        assert run("f").info.status == "RUNNING"
        work.send_signal(signal.SIGINT)
        _, error = work.communicate()
    assert "tracking" not in error
    with train("f", 7, 6) as work:
        assert work.communicate() == ("trained\n", "")
    sync()  # on a busy machine it may be late
    arrived("f")


def test_a_stage_that_ends_leaves_no_half_database(
    one: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[object] = []
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO()))
    monkeypatch.setattr(follow, "PATIENCE", 0)
    monkeypatch.setattr(os, "_exit", steps.append)
    with client.making:  # another thread makes one
        ending = threading.Thread(target=one.end_with_stdin)
        ending.start()
        assert one.ended.wait(60)
        steps.append("made")
    ending.join()
    client.making.release()
    assert steps == ["made", 1]


def test_the_modules_of_a_stage_import_neither_mlflow_nor_torch() -> None:
    code = "import sys, abn.tracking.follow; sys.exit(bool({'mlflow', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=stores.HOUSE).returncode == 0


def test_a_process_that_cannot_start_is_one_line_and_no_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(follow.sys, "executable", "/nowhere/python")
    with follow.following():
        note("f", 1, 6)
    assert capsys.readouterr().err == (
        "tracking: not started (No such file or directory); `abn sync` sends everything later\n"
    )


def test_off_starts_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABN_TRACKING", "off")
    monkeypatch.setattr(follow, "_start", None)
    with follow.following():
        note("f", 1, 6)
    assert [path.name for path in root.iterdir()] == ["mlflow.db"]


def test_a_word_that_is_not_known_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABN_TRACKING", "offf")
    with pytest.raises(ParamsError) as caught, follow.following():
        note("f", 1, 6)
    words = "off or 0 or no or false or on or 1 or yes or true"
    assert str(caught.value) == f"wrong value; ABN_TRACKING=offf; use {words}, or leave it out"


@pytest.mark.parametrize("word", ["", "on", "ON", "1", "yes", "true"])
def test_a_word_for_yes_leaves_it_on(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("ABN_TRACKING", word)
    assert outbox.enabled()


@pytest.mark.parametrize("victim", ["the stage", "the follower", "both"])
def test_kill_9_loses_nothing_that_a_file_has(victim: str) -> None:
    with train("f", 1, 6, pause=60 if victim != "the follower" else 0) as work:
        other = follower(work)
        if victim != "the stage":
            other.kill()
        if victim != "the follower":
            work.kill()
        assert work.communicate()[1] == ""  # it arrives later: not a warning
    other.wait(60)
    sync()
    arrived("f", "FINISHED" if victim == "the follower" else "KILLED")


@pytest.mark.slow
def test_a_store_that_hangs_is_one_line_and_seconds_fewer_if_stopped(proxy: Proxy) -> None:
    proxy.fault = "hangs"
    with train("f", 1, 3, pause=60) as work:
        follower(work)
        work.send_signal(signal.SIGINT)
        started = time.monotonic()
        work.communicate()
        assert time.monotonic() - started < follow.STOPPED + 4  # the interpreter goes down too
    with train("f", 4, 6, pause=6) as work:
        follower(work)
        started = time.monotonic()
        _, error = work.communicate()
    assert work.returncode == 0 and time.monotonic() - started < 6 + follow.FINISHED + 4
    assert proxy.address in error and "`abn sync`" in error and error.count("\n") == 1
    proxy.repair()
    sync()
    arrived("f")


def test_a_store_that_refuses_is_one_line_without_its_password(monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with train("f", 1, 6, pause=4) as work:
        _, error = work.communicate()
    assert work.returncode == 0 and error.count("\n") == 1
    assert error.startswith("tracking: ConnectionRefusedError; http://***@127.0.0.1:9; ")
    assert "`abn sync`" in error and "secret" not in error


@pytest.mark.parametrize("fault", ["500", "deaf", "hangs"])
def test_after_an_outage_everything_arrives_once_with_its_own_times(
    proxy: Proxy, fault: str, one: Follower, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    name = f"outage {fault}"
    note(name, 1, 3, end=False)
    one.look()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.fault = fault
    note(name, 4, 6)
    noted = time.time() * 1000
    one.look()
    assert capsys.readouterr().out == ""  # once is no outage
    one.ended.set()
    one.look()
    assert capsys.readouterr().out.count("\n") == 1
    proxy.repair()
    one.look()
    arrived(name)
    assert max(point.timestamp for point in stores.points(name)) <= noted


def test_a_server_killed_midway_and_started_again_gets_everything_once(
    server: Server, one: Follower, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    note("killed", 1, 3, end=False)
    one.look()
    server.kill()
    note("killed", 4, 6)
    one.look()
    one.look()
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "refused" in line
    server.start()
    one.look()
    arrived("killed")


def test_a_database_that_is_restored_gets_all_once(root: Path, one: Follower, capsys: Any) -> None:
    note("f", 1, 6)
    (root / "mlflow.db").write_bytes(random.Random(0).randbytes(50_000))
    one.look()
    one.look()
    assert capsys.readouterr().out.count("\n") == 1
    shutil.copy(stores.tables(), root / "mlflow.db")
    one.look()
    arrived("f")


@pytest.mark.slow
def test_a_database_locked_by_another_process_holds_nobody_up(root: Path) -> None:
    """MLflow waits 20 s for a lock, deep in C."""
    note("f", 1, 6)
    with closing(sqlite3.connect(root / "mlflow.db")) as holder:
        holder.execute("begin exclusive")
        words = [sys.executable, "-m", "abn.tracking.follow", "0"]
        started = time.monotonic()
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
        assert done.stdout == b"" and time.monotonic() - started < follow.FINISHED + 4
    sync()
    arrived("f")


@pytest.mark.slow
def test_a_full_disk_delays_the_store_only(root: Path) -> None:
    """In a mount namespace of its own."""
    (root / "disk").mkdir()
    code = f"from tests.tracking import test_follow; test_follow.on_disk({str(root)!r})"
    mounted = 'mount -t tmpfs -o size=2m none disk && exec "$0" -c "$1"'
    words = ["unshare", "--mount", "bash", "-c", mounted, sys.executable, code]
    done = subprocess.run(words, capture_output=True, text=True)
    if "permitted" in done.stderr or "denied" in done.stderr:
        pytest.skip("mounting needs root")
    assert done.returncode == 0, done.stderr


def on_disk(folder: str) -> None:
    """Fill the disk, then make room."""
    filling, database = (Path(folder, "disk", name) for name in ("filling", "mlflow.db"))
    with stores.repository(Path(folder), f"sqlite:///{database}"):
        shutil.copy(stores.tables(), database)
        one = Follower(Path(), time.time())
        one.look()
        with suppress(OSError), filling.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        with outbox.training("f", {}, {}) as add:
            for epoch, loss in ALL:
                add("row", {"epoch": epoch, "loss": loss} | {f"k{i}": 1.0 for i in range(200)})
            add("end", {})
        with redirect_stdout(StringIO()) as reported:
            one.look()
            one.look()
        assert "full" in reported.getvalue()
        filling.unlink()
        one.look()
        arrived("f")
