"""The process beside a stage: live, never in its way, and nothing is lost when one is killed."""

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from abn.runtime.errors import ParamsError
from abn.tracking import client, follow, follower, outbox
from abn.tracking.follower import Follower, Stage
from tests.tracking import stores
from tests.tracking.stores import Proxy, Server, curve, note, run, sync, train

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


class One(Follower):
    """A follower in this process, of one stage that runs here."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs = socket.socketpair()
        self.ours.sendall(follow.hello())
        self.stage = Stage(self.theirs)
        self.stages.append(self.stage)

    def looks(self, last: bool = False) -> str:
        """What the stage hears of a look."""
        if last:
            self.stage.ended.set()
        self.look(self.stage)
        self.ours.setblocking(last)
        with suppress(BlockingIOError):
            return self.ours.recv(100_000).decode()
        return ""


@pytest.fixture
def one() -> Iterator[One]:
    made = One()
    yield made
    made.ours.close()
    made.theirs.close()


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


def test_the_stages_of_a_run_share_one_process_which_then_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with train("f", 1, 6, pause=60) as first:
        beside = stores.follower(first)
        assert stores.finish(first, "f") == ""
    for name in ("g", "h"):
        monkeypatch.setenv("DVC_STAGE", name)  # as every stage has its own
        monkeypatch.setenv("KMP_INIT_AT_FORK", name)  # as scikit-learn sets it
        with train(name, 1, 6, pause=60) as work:
            assert work.stdout and work.stdout.readline() == "trained\n"
            assert psutil.Process(work.pid).children() == []
            assert stores.finish(work, name) == ""
        assert beside.is_running()
    arrived("f")
    arrived("g")
    arrived("h")
    assert list(outbox.folder().glob("*.socket"))
    beside.wait(60)
    assert not list(outbox.folder().iterdir())


def test_an_experiment_whose_folder_is_removed_leaves_no_socket_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "tmp" / "job").mkdir(parents=True)
    monkeypatch.chdir(root / "tmp" / "job")
    with train("f", 1, 6, pause=60) as work:
        beside = stores.follower(work)
        assert stores.finish(work, "f") == ""
    monkeypatch.chdir(root)
    shutil.rmtree(root / "tmp")
    assert list(outbox.folder().glob("*.socket"))
    beside.wait(60)
    assert not list(outbox.folder().iterdir())


def test_another_store_has_another_process(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    with train("f", 1, 3, pause=60) as work:
        stores.follower(work)
        stores.finish(work, "f", 3)
    shutil.copy(stores.tables(), root / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    with train("g", 1, 6, pause=60) as work:
        stores.follower(work)
        stores.finish(work, "g")
    arrived("g")


def test_a_process_that_was_killed_is_replaced_by_the_next_stage() -> None:
    with train("f", 1, 3) as work:
        stores.follower(work).kill()
        work.communicate()
    with train("f", 4, 6, pause=60) as work:
        stores.follower(work)
        assert stores.finish(work, "f") == ""
    arrived("f")


def test_where_no_socket_can_be_made_each_stage_has_its_own_process(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = root / ("long-" * 40) / ("name-" * 40)  # no address of a socket holds that
    deep.mkdir(parents=True)
    shutil.copy(root / "mlflow.db", deep)
    monkeypatch.setenv("DVC_ROOT", str(deep))
    for name in ("f", "g"):
        with train(name, 1, 6, pause=60) as work:
            stores.follower(work)
            assert stores.finish(work, name) == ""
        arrived(name)


@pytest.mark.parametrize(
    "said", ["GET / HTTP/1.1\r\n\r\n", "null\n", "[" * 9999 + "\n", "{}\n", ""]
)
def test_a_caller_that_is_no_stage_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "HELLO", 0.1)
    one, (ours, theirs) = Follower(), socket.socketpair()
    with ours:
        ours.sendall(said.encode())
        one.add(theirs)
        assert one.stages == [] and ours.recv(1) == b""


def test_a_stage_whose_process_was_killed_starts_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with train("f", 1, 6, pause=60) as work:
        stores.follower(work).kill()
        stores.until(lambda: stores.runs("abn.training", "f") and len(curve("f")) == 6)
        assert run("f").info.status == "RUNNING"
        work.send_signal(signal.SIGINT)
        assert "tracking" not in work.communicate()[1]


def test_a_last_look_that_ends_while_a_database_is_made_does_not_end_the_process(
    one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "PATIENCE", 0)
    monkeypatch.setattr(os, "_exit", lambda _: pytest.fail("ended"))
    with client.making:
        ending = threading.Thread(target=one.stage.end_in_time)
        ending.start()
        one.ours.close()
        assert one.stage.ended.wait(60)
        one.stage.answer()
    ending.join()
    assert client.making.acquire(blocking=False)
    client.making.release()


def test_a_stage_that_comes_later_is_of_its_own_experiment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "vapid-frog")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "1f0c5a")
    line = follow.hello()
    monkeypatch.delenv("DVC_EXP_NAME")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(line)
        assert Stage(theirs).experiment == {
            "dvc.exp": "vapid-frog",
            "dvc.baseline_rev": "1f0c5a",
        }


def test_a_stage_that_ends_leaves_no_half_database(
    one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[object] = []
    monkeypatch.setattr(follower, "PATIENCE", 0)
    monkeypatch.setattr(os, "_exit", steps.append)
    with client.making:  # another thread makes one
        ending = threading.Thread(target=one.stage.end_in_time)
        ending.start()
        one.ours.close()
        assert one.stage.ended.wait(60)
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
    monkeypatch.setattr(follow, "Line", None)
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
        other = stores.follower(work)
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
        stores.follower(work)
        work.send_signal(signal.SIGINT)
        started = time.monotonic()
        work.communicate()
        assert time.monotonic() - started < follow.STOPPED + 4  # the interpreter goes down too
    with train("f", 4, 6, pause=6) as work:
        assert work.stdout and work.stdout.readline() == "trained\n"
        started = time.monotonic()
        _, error = work.communicate()
    assert work.returncode == 0 and time.monotonic() - started < 6 + follow.FINISHED + 4
    assert proxy.address in error and "`abn sync`" in error and error.count("\n") == 1
    proxy.repair()
    sync()
    arrived("f")


def test_a_store_that_refuses_is_one_line_without_its_password(monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with train("f", 1, 6, pause=60) as work:
        assert work.stderr
        error = work.stderr.readline()
        work.send_signal(signal.SIGUSR1)
        assert work.communicate()[1] == "" and work.returncode == 0
    assert error.startswith("tracking: ConnectionRefusedError; http://***@127.0.0.1:9; ")
    assert "`abn sync`" in error and "secret" not in error


@pytest.mark.parametrize("fault", ["500", "deaf", "hangs"])
def test_after_an_outage_everything_arrives_once_with_its_own_times(
    proxy: Proxy, fault: str, one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"outage {fault}"
    note(name, 1, 3, end=False)
    assert one.looks() == ""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.fault = fault
    note(name, 4, 6)
    noted = time.time() * 1000
    assert one.looks() == ""  # once is no outage
    assert one.looks(last=True).count("\n") == 1
    proxy.repair()
    sync()
    arrived(name)
    assert max(point.timestamp for point in stores.points(name)) <= noted


def test_a_server_killed_midway_and_started_again_gets_everything_once(
    server: Server, one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    note("killed", 1, 3, end=False)
    assert one.looks() == ""
    server.kill()
    note("killed", 4, 6)
    line = one.looks() + one.looks()
    assert line.count("\n") == 1 and "refused" in line
    server.start()
    assert one.looks() == ""
    arrived("killed")


def test_a_database_that_is_restored_gets_all_once(root: Path, one: One) -> None:
    note("f", 1, 6)
    (root / "mlflow.db").write_bytes(random.Random(0).randbytes(50_000))
    assert (one.looks() + one.looks()).count("\n") == 1
    shutil.copy(stores.tables(), root / "mlflow.db")
    assert one.looks() == ""
    arrived("f")


def test_a_database_that_is_removed_is_made_again_with_all_that_files_hold(
    root: Path, one: One
) -> None:
    note("f", 1, 3, end=False)
    assert one.looks() == ""
    (root / "mlflow.db").unlink()
    note("f", 4, 6)
    assert one.looks() + one.looks() == ""
    arrived("f")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it goes on alone
def test_a_database_locked_by_another_process_holds_nobody_up(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process beside the stage says so, or is still waiting for the lock."""
    note("f", 1, 6)
    with closing(sqlite3.connect(root / "mlflow.db")) as holder:
        holder.execute("begin exclusive")
        started = time.monotonic()
        with follow.following():
            pass
        assert time.monotonic() - started < follow.FINISHED + 4
    said = capsys.readouterr().err
    assert said == "" or ("database is locked" in said and said.count("\n") == 1)
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
        one = One()
        one.looks()
        with suppress(OSError), filling.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        with outbox.training("f", {}, {}) as add:
            for epoch, loss in ALL:
                add("row", {"epoch": epoch, "loss": loss} | {f"k{i}": 1.0 for i in range(200)})
            add("end", {})
        assert "full" in one.looks() + one.looks()
        filling.unlink()
        one.looks()
        arrived("f")
