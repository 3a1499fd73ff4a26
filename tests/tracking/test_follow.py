"""The process beside a stage: live, never in its way, and nothing is lost when one is killed."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from abn.tracking import client, follow, outbox
from abn.tracking.follow import Follower
from tests.tracking import stores
from tests.tracking.stores import Proxy, Server, curve, follower, note, run, sync, train

ALL = [(epoch, 10.0 - epoch) for epoch in range(1, 7)]
SECRET = "http://me:secret@127.0.0.1:9"


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[Path]:
    with stores.repository(tmp_path):
        yield tmp_path


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
    opened.close()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a follower in this process reports."""
    reported: list[str] = []
    monkeypatch.setattr(follow, "print", lambda line, flush: reported.append(line), raising=False)
    return reported


def following() -> Follower:
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


def test_the_modules_of_a_stage_import_neither_mlflow_nor_torch() -> None:
    code = "import sys, abn.tracking.follow; sys.exit(bool({'mlflow', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=stores.HOUSE).returncode == 0


def test_off_starts_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABN_TRACKING", "off")
    monkeypatch.setattr(follow, "_start", None)
    with follow.following():
        note("f", 1, 6)
    assert [path.name for path in root.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("victim", ["the stage", "the follower", "both"])
def test_kill_9_loses_nothing_that_a_file_has(victim: str) -> None:
    with train("f", 1, 6, pause=60 if victim != "the follower" else 0) as work:
        other = follower(work)
        if victim != "the stage":
            os.kill(other, signal.SIGKILL)
        if victim != "the follower":
            work.kill()
        assert work.communicate()[1] == ""  # it arrives later: not a warning
    stores.until(lambda: stores.is_gone(other))
    sync()
    arrived("f", "FINISHED" if victim == "the follower" else "KILLED")


def test_a_stage_that_is_stopped_does_not_wait_for_a_store_that_hangs(
    proxy: Proxy, server: Server
) -> None:
    proxy.fault = "hangs"
    with train("f", 1, 6, pause=60) as work:
        follower(work)
        work.send_signal(signal.SIGINT)
        started = time.monotonic()
        work.communicate()
        assert time.monotonic() - started < follow.STOPPED + 4  # the interpreter goes down too


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_one_line_and_ten_seconds(proxy: Proxy) -> None:
    proxy.fault = "hangs"
    with train("f", 1, 6, pause=6) as work:
        follower(work)
        started = time.monotonic()
        _, error = work.communicate()
    assert work.returncode == 0 and time.monotonic() - started < 6 + follow.FINISHED + 4
    assert error.startswith(f"tracking: {proxy.address} failed (") and error.count("\n") == 1
    proxy.fault = ""
    proxy.repaired.set()
    sync()
    arrived("f")


def test_a_store_that_refuses_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    with train("f", 1, 6, pause=4) as work:
        _, error = work.communicate()
    assert work.returncode == 0 and error.count("\n") == 1
    assert error.startswith("tracking: http://***@127.0.0.1:9 failed (ConnectionRefusedError); ")
    assert "`abn sync`" in error and "secret" not in error


def test_a_missing_mlflow_is_one_line(
    root: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    one = following()
    one.look()
    one.look()
    assert len(lines) == 1 and "mlflow" in lines[0]


@pytest.mark.parametrize("fault", ["500", "garbage", "deaf", "hangs", "late"])
def test_after_an_outage_everything_arrives_once(
    proxy: Proxy, fault: str, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, one = f"outage {fault}", following()
    note(name, 1, 3, end=False)
    one.look()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    proxy.fault = fault
    note(name, 4, 6)
    one.look()
    assert lines == []  # once is no outage
    one.ended.set()
    one.look()
    assert bool(lines) == (fault != "late")
    proxy.fault = ""
    proxy.repaired.set()
    one.look()
    arrived(name)
    times = [point.timestamp for point in client.Store()._client.get_metric_history(
        run(name).info.run_id, "loss")]  # fmt: skip
    assert max(times) < time.time() * 1000 - 500 or fault != "hangs"  # its own, not of the arrival


def test_a_server_killed_midway_and_started_again_gets_everything_once(
    server: Server, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    one = following()
    note("killed", 1, 3, end=False)
    one.look()
    server.kill()
    note("killed", 4, 6)
    one.look()
    one.look()
    assert len(lines) == 1 and "refused" in lines[0]
    server.start()
    one.look()
    arrived("killed")


def test_a_database_that_is_overwritten_then_restored_gets_everything_once(
    root: Path, lines: list[str]
) -> None:
    note("f", 1, 6)
    (root / "mlflow.db").write_bytes(random.Random(0).randbytes(50_000))
    one = following()
    one.look()
    one.look()
    assert len(lines) == 1
    shutil.copy(stores.tables(), root / "mlflow.db")
    one.look()
    arrived("f")


@pytest.mark.slow
def test_a_database_locked_by_another_process_holds_nobody_up(root: Path) -> None:
    """MLflow waits 20 s for a lock, deep in C."""
    note("f", 1, 6)
    with sqlite3.connect(root / "mlflow.db") as holder:
        holder.execute("begin exclusive")
        words = [sys.executable, "-m", "abn.tracking.follow", "0"]
        started = time.monotonic()
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
        assert done.stdout == b"" and time.monotonic() - started < follow.FINISHED + 4
    holder.close()
    sync()
    arrived("f")


@pytest.mark.slow
def test_a_full_then_a_read_only_disk_delays_the_store_only(root: Path) -> None:
    """In a mount namespace of its own."""
    disk, tables = root / "disk", root / "tables.db"
    disk.mkdir()
    shutil.copy(stores.tables(), tables)
    code = f"from tests.tracking import test_follow; test_follow.on_disk({str(root)!r})"
    mounted = f'mount -t tmpfs -o size=2m none {disk} && exec "$0" -c "$1"'
    words = ["unshare", "--mount", "bash", "-c", mounted, sys.executable, code]
    done = subprocess.run(words, capture_output=True, text=True)
    if "permitted" in done.stderr or "denied" in done.stderr:
        pytest.skip("mounting needs root")
    assert done.returncode == 0, done.stderr


def on_disk(folder: str) -> None:
    """Fill the disk, make it read-only, repair it."""
    root, reported = Path(folder), []
    filling, database = root / "disk" / "filling", root / "disk" / "mlflow.db"
    with stores.repository(root, f"sqlite:///{database}"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "print", lambda line, flush: reported.append(line), raising=False)
        shutil.copy(root / "tables.db", database)
        one = following()
        one.look()
        with suppress(OSError), filling.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        with outbox.training("f", {}, {}) as add:
            for epoch, loss in ALL:
                add("row", {"epoch": epoch, "loss": loss} | {f"k{i}": 1.0 for i in range(200)})
            add("end", {})
        one.look()
        one.look()
        assert len(reported) == 1 and "full" in reported[0], reported
        filling.unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(database.parent)], check=True)
        one.look()
        subprocess.run(["mount", "-o", "remount,rw,size=9m", str(database.parent)], check=True)
        one.look()
        arrived("f")
