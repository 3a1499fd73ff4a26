"""From journals into MLflow: in order, each once, and never in the way of the work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from abn import journal, replay, runs, tracking
from abn.journal import Event
from tests import tracked
from tests.tracked import KEY, curve, followed, send, stored, unsent, waiting


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[Path]:
    with tracked.place(tmp_path):
        yield tmp_path


def tell(key: str = KEY[1], **points: float) -> None:
    with tracking.run((KEY[0], key), f"run {key}") as run:
        run.log(points, step=0)


def test_journals_are_sent_oldest_first_and_removed() -> None:
    with unsent():
        for key in ("b", "a"):
            tell(key, loss=1.0)
    assert send() == [("run b", "1 new"), ("run a", "1 new")]
    assert waiting() == [] and send() == []


def test_sending_a_journal_again_adds_nothing() -> None:
    with unsent():
        tell(loss=1.0, top1=0.5)
    (path,) = waiting()
    kept = path.read_bytes()
    send()
    path.write_bytes(kept)
    assert send() == [(f"run {KEY[1]}", "nothing new")]
    assert curve("loss") == [(0, 1.0)]


def test_a_journal_that_has_no_end_tells_of_a_killed_run() -> None:
    with unsent():
        tell(loss=1.0)
    (path,) = waiting()
    path.write_bytes(path.read_bytes().rpartition(b"\n{")[0])
    send()
    (run,) = stored()
    assert run.info.status == "KILLED"
    (point,) = runs.connect().get_metric_history(run.info.run_id, "loss")
    assert run.info.end_time == point.timestamp


def test_what_belongs_in_another_store_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with unsent(), monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        tell(loss=1.0)
    assert send() == [] and len(waiting()) == 1


def test_what_another_process_holds_is_left_to_it() -> None:
    with unsent(), tracking.run(KEY, "run") as run:
        run.log({"loss": 1.0}, step=0)
        assert send() == [] and len(waiting()) == 1


def test_what_mlflow_refuses_is_set_aside_and_said() -> None:
    with unsent():
        tell("bad", **{"odd|key": 1.0})
        tell(loss=1.0)
    (first, said), second = send()
    assert first == "run bad" and "refused" in said and ".refused" in said
    assert second == (f"run {KEY[1]}", "1 new")
    assert len(list(tracking.journals().glob("*.refused"))) == 1


def test_a_run_that_goes_on_is_shown_running_and_older_journals_come_first() -> None:
    with unsent():
        tell(loss=1.0)
    with followed() as (run, follower, lines):
        run.log({"loss": 5.0, "top1": 0.5}, step=0)
        run.log({"loss": 0.5}, step=1)
        follower.turn()
        assert stored()[0].info.status == "RUNNING"
        assert curve("loss") == [(0, 1.0), (1, 0.5)]
    assert follower.finish() and lines == []
    assert stored()[0].info.status == "FINISHED" and waiting() == []


def test_a_store_that_fails_is_tried_again_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(replay.time, "monotonic", lambda: clock[0])
    breaker, pauses = replay.Breaker(), []
    for _ in range(7):
        breaker.failed()
        start = clock[0]
        while not breaker.closed():
            clock[0] += 1
        pauses.append(clock[0] - start)
    assert pauses == [30, 60, 120, 240, 480, 600, 600]
    breaker.answered()
    breaker.failed()
    clock[0] += 30
    assert breaker.closed()


def test_a_store_that_comes_back_gets_what_it_missed(root: Path) -> None:
    with followed() as (run, follower, lines):
        run.log({"loss": 1.0}, step=0)
        follower.turn()
        (root / "mlflow.db").write_bytes(b"broken")
        run.log({"loss": 0.5}, step=1)
        follower.turn()
        assert len(lines) == 1 and not follower.healthy
        (root / "mlflow.db").unlink()
    assert follower.finish() and follower.healthy
    assert curve("loss") == [(0, 1.0), (1, 0.5)]


def test_the_load_stops_where_room_is_kept_for_what_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with unsent(), tracking.run(KEY, "run"):
        (path,) = waiting()
        replay._note(path, runs.Monitor())
        assert "cpu_utilization_percentage" in journal.read(path)[0][-1].load
        monkeypatch.setattr(replay, "LIMIT", 2 * path.stat().st_size)
        replay._note(path, runs.Monitor())
        assert len(journal.read(path)[0]) == 1
    path.unlink()
    replay._note(path, runs.Monitor())
    assert not path.exists()


def test_the_end_is_the_runs_end_whatever_comes_after_it() -> None:
    with unsent():
        tell(loss=1.0)
    (path,) = waiting()
    with path.open("ab") as file:
        journal.append(file.fileno(), Event(time=journal.now(), load={"cpu": 1.0}))
    send()
    assert stored()[0].info.status == "FINISHED"
