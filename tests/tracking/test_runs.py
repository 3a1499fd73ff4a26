"""Runs in MLflow: found again, filled, and nothing in them twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abn import runs
from abn.journal import Event, Head
from abn.runs import Record
from tests import tracked
from tests.tracked import KEY, curve, stored

NAME = "resnet18-s0"


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[Path]:
    with tracked.place(tmp_path):
        yield tmp_path


def head(value: str = KEY[1], began: int = 1000) -> Head:
    return Head(store="mlflow.db", key={KEY[0]: value}, name=NAME, began=began)


def record(value: str = KEY[1], began: int = 1000) -> Record:
    return Record(runs.connect(), head(value, began))


def row(step: int | None, **points: float) -> Event:
    return Event(time=2000 + (step or 0), points=points, step=step)


def test_a_run_holds_what_was_added_with_its_own_times(root: Path) -> None:
    made = record()
    made.add([row(1, loss=2.0, top1=0.5), Event(time=1, tags={"git.commit": "abc"})])
    made.end("FINISHED", 9000)
    (found,) = stored()
    assert (found.info.run_name, found.info.status) == (NAME, "FINISHED")
    assert (found.info.start_time, found.info.end_time) == (1000, 9000)
    assert found.data.metrics == {"loss": 2.0, "top1": 0.5}
    assert found.data.tags.items() >= {KEY[0]: KEY[1], "git.commit": "abc"}.items()
    (point,) = runs.connect().get_metric_history(found.info.run_id, "loss")
    assert point.timestamp == 2001
    assert made.added == 3


def test_the_newest_run_of_a_key_is_found_again() -> None:
    for began in (1, 2):
        record(began=began).add([row(1, loss=2.0)])
    record("other")
    assert len(stored()) == 1
    assert len(stored((KEY[0], "other"))) == 1


def test_a_repeated_training_adds_no_step_twice() -> None:
    for last in (2, 3):
        made = record()
        made.add([row(step, loss=10.0 - step, new=float(last)) for step in range(last + 1)])
    assert made.added == 2
    assert curve("loss") == [(0, 10.0), (1, 9.0), (2, 8.0), (3, 7.0)]
    assert curve("new") == [(0, 2.0), (1, 2.0), (2, 2.0), (3, 3.0)]


def test_a_final_score_is_replaced_when_it_changed_and_only_then() -> None:
    for when, score in enumerate((0.9, 0.9, 0.9000000001, 0.5, float("nan"), float("nan"))):
        record().add([Event(time=when, points={"top1": score})])
    assert len(curve("top1")) == 3


def test_an_old_score_that_comes_late_does_not_replace_a_new_one() -> None:
    record().add([Event(time=20, points={"top1": 0.5})])
    for _ in range(2):
        record().add([Event(time=10, points={"top1": 0.9})])
    assert stored()[0].data.metrics == {"top1": 0.5}
    assert len(curve("top1")) == 2


def test_the_first_value_of_a_parameter_stays_and_the_last_of_a_tag() -> None:
    record().add([Event(time=1, params={"arch": "resnet18"}, tags={"a": "1", "b": "1"})])
    made = record()
    made.add([Event(time=1, params={"arch": "resnet50", "seed": "0"}, tags={"a": "2", "b": "1"})])
    assert stored()[0].data.params == {"arch": "resnet18", "seed": "0"}
    assert stored()[0].data.tags.items() >= {"a": "2", "b": "1"}.items()
    assert made.added == 2


def test_more_than_a_call_may_hold_is_sent_in_parts() -> None:
    words = {f"k{number}": "v" for number in range(250)}
    events = [row(step, loss=1.0) for step in range(2500)]
    record().add([Event(time=1, params=words, tags=words), *events])
    assert len(curve("loss")) == 2500
    assert len(stored()[0].data.params) == 250


def test_a_backfill_counts_for_a_new_or_unfinished_run_only() -> None:
    def filled(number: int, status: Any) -> int:
        made = record()
        fill = Event(time=1, points={f"k{number}": 1.0}, step=0, backfill=True)
        made.add([fill])
        made.end(status, 5)
        return made.added

    assert [filled(0, "KILLED"), filled(1, "FINISHED"), filled(2, "FINISHED")] == [1, 1, 0]


def test_a_finished_run_that_is_told_nothing_new_keeps_its_time() -> None:
    for when in (9, 99):
        made = record()
        made.add([row(0, loss=1.0)])
        made.end("FINISHED", when)
    assert stored()[0].info.end_time == 9


def test_an_artifact_replaces_its_namesake_below_the_root(root: Path) -> None:
    picture = root / "overview.png"
    for content in (b"old", b"new"):
        picture.write_bytes(content)
        record().add([Event(time=1, artifact=str(picture))])
    kept = list((root / "mlartifacts").rglob("*.png"))
    assert [path.read_bytes() for path in kept] == [b"new"]


def test_an_artifact_that_is_gone_stops_nothing(root: Path) -> None:
    record().add([Event(time=1, artifact=str(root / "gone.png")), row(0, loss=1.0)])
    assert curve("loss") == [(0, 1.0)]


def test_the_load_of_the_machine_is_dated_from_the_runs_start_and_is_no_news() -> None:
    event = Event(time=31_000, load={"cpu_utilization_percentage": 50.0})
    for _ in range(2):
        made = record()
        made.add([event])
    assert curve("system/cpu_utilization_percentage") == [(30, 50.0)]
    assert made.added == 0


def test_the_load_is_what_mlflow_measures() -> None:
    load = runs.Monitor().measure()
    assert load.keys() >= {"cpu_utilization_percentage", "system_memory_usage_percentage"}
    assert all(isinstance(value, float) for value in load.values())


def test_what_mlflow_will_never_take_is_told_apart() -> None:
    made = record()
    with pytest.raises(runs.Refused, match="odd"):
        made.add([Event(time=1, points={"odd|key": 1.0}, step=0)])


def test_nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION")
    runs.prepare()
    from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION

    assert not MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get()


def test_a_key_may_hold_a_quote() -> None:
    for _ in range(2):
        record("it's")
    assert len(stored_all()) == 1


def stored_all() -> list[Any]:
    client = runs.connect()
    experiment = client.get_experiment_by_name(runs.EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id]))
