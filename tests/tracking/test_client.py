"""Runs in MLflow get what they lack, once, and the whole of it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abn.tracking import client
from abn.tracking.client import Store
from abn.tracking.mirror import RunRecord
from tests.tracking import stores
from tests.tracking.stores import curve, run

FIRST_USE = """
from abn.tracking.client import Store
from abn.tracking.mirror import RunRecord
record = RunRecord("training", [{"abn.training": "f"}], {}, {}, 1000)
record.add_row({"epoch": 1, "loss": 9.0}, 2000)
print(*Store().update([record], set()))
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[Path]:
    with stores.repository(tmp_path):
        yield tmp_path


def record(place: str = "training", **values: Any) -> RunRecord:
    params = values.pop("params", {"arch": "resnet18", "seed": 0})
    tags = {"abn.training": "f"} | values.pop("tags", {})
    return RunRecord(place, [{"abn.training": "f"}], params, tags, 1000, **values)


def update(*records: RunRecord) -> list[str]:
    return [line.partition(": ")[2] for line in Store().update(records, set())]


def points(*steps: int | None, value: float = 2.0, time: int = 2000) -> Any:
    return [("loss", value, time, step) for step in steps]


def test_a_run_holds_what_its_record_says_with_its_own_times() -> None:
    given = record(points=points(1), status="FINISHED", ended=9000, tags={"git.commit": "abc"})
    assert update(given) == ["4 new"]  # a point, two params, a tag
    info, data = run("f").info, run("f").data
    assert (info.run_name, info.status) == ("resnet18-s0", "FINISHED")
    assert (info.start_time, info.end_time) == (1000, 9000)
    assert data.params == {"arch": "resnet18", "seed": "0"} and data.tags["git.commit"] == "abc"
    (point,) = Store()._client.get_metric_history(info.run_id, "loss")
    assert (point.step, point.value, point.timestamp) == (1, 2.0, 2000)


def test_the_same_record_adds_nothing_and_another_only_what_is_new() -> None:
    update(record(points=points(1, 2)))
    assert update(record(points=points(1, 2))) == ["nothing new"]
    assert update(record(points=points(1, 2, value=3.0) + points(3))) == ["1 new"]
    assert curve("f") == [(1, 2.0), (2, 2.0), (3, 2.0)]


def test_an_answer_that_was_lost_leads_to_no_second_point(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    send = store._client.log_batch

    def lose(*given: Any) -> None:
        send(*given)
        raise ConnectionError

    monkeypatch.setattr(store._client, "log_batch", lose)
    with pytest.raises(ConnectionError):
        list(store.update([record(points=points(1))], set()))
    assert update(record(points=points(1), params={"arch": "resnet18"})) == ["nothing new"]
    assert curve("f") == [(1, 2.0)]


def test_a_score_is_replaced_if_it_changed_even_by_an_older_file() -> None:
    for value, time in ((0.9, 3000), (0.9, 4000), (0.5, 2000)):
        update(record(points=points(None, value=value, time=time)))
    assert run("f").data.metrics == {"loss": 0.5} and len(curve("f")) == 2


def test_the_first_value_of_a_parameter_stays_and_the_last_of_a_tag() -> None:
    update(record(params={"a": {"b": [1, None]}}, tags={"device": "cpu", "commit": "x"}))
    update(record(params={"a": {"b": 2}, "c": True}, tags={"device": "cuda"}))
    data = run("f").data
    assert data.params == {"a.b": "[1, null]", "c": "true"}
    assert data.tags.items() >= {"device": "cuda", "commit": "x"}.items()


def test_no_secret_of_an_address_arrives() -> None:
    url = "https://me:secret@host/a.tgz?token=secret"
    update(record(params={"data": {"url": url}}, tags={"from": url}))
    data = run("f").data
    assert data.params["data.url"] == "https://***@host/a.tgz?***" == data.tags["from"]


def test_more_than_a_call_may_hold_arrives_in_parts() -> None:
    words = {f"k{number}": "v" for number in range(250)}
    update(record(points=points(*range(1200)), params=words, tags=words))
    assert len(curve("f")) == 1200 and len(run("f").data.params) == 250


def test_a_run_is_running_until_its_training_has_stopped() -> None:
    for number, status in enumerate(("RUNNING", "KILLED", "RUNNING", "FINISHED")):
        update(record(status=status, ended=number))
        assert run("f").info.status == status
    update(record("workspace", points=points(1)))
    assert (run("f").info.status, run("f").info.end_time) == ("FINISHED", 3)


def test_an_artifact_is_replaced_if_its_content_changed(root: Path) -> None:
    picture = root / "overview.png"
    for content, news in (("a", "3 new"), ("a", "nothing new"), ("b", "1 new")):
        picture.write_text(content)
        assert update(record(artifacts={picture: content})) == [news]
    kept = list((root / "mlartifacts").rglob("*.png"))
    assert [path.read_text() for path in kept] == ["b"]


def test_a_run_that_was_deleted_is_not_made_again_but_by_a_new_training(root: Path) -> None:
    update(record())
    Store()._client.delete_run(run("f").info.run_id)
    assert update(record("workspace", points=points(1))) == ["deleted in MLflow, left out"]
    assert update(record(outbox=root / "f.jsonl", status="RUNNING")) == ["2 new"]


def test_what_mlflow_refuses_is_named_and_stops_nothing_else() -> None:
    refused, accepted = update(record(params={"odd|key": 1}), record(points=points(1)))
    assert refused.startswith("refused by MLflow") and accepted == "3 new"


@pytest.mark.slow
def test_four_first_uses_at_once_make_one_database_and_one_run(root: Path) -> None:
    (root / "mlflow.db").unlink()
    pipe, words = subprocess.PIPE, [sys.executable, "-c", FIRST_USE]
    works = [subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    assert [work.communicate()[1] for work in works] == [""] * 4
    assert curve("f") == [(1, 9.0)] and not list(root.glob("*.part"))


@pytest.mark.slow
def test_a_database_that_could_not_be_built_leaves_nothing(root: Path) -> None:
    (root / "mlflow.db").unlink()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 10**9));"
    done = subprocess.run([sys.executable, "-c", limit + FIRST_USE], capture_output=True)
    assert done.returncode and not (root / "mlflow.db").exists()
    assert update(record(points=points(1))) == ["3 new"]


def test_a_reason_names_the_first_cause_but_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("all failed")
    error.__cause__ = ConnectionRefusedError("http://me:secret@host/x")
    assert client.reason(error) == "ConnectionRefusedError: http://***@host/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    assert (client.reason(error), client.shown()) == ("ConnectionRefusedError", "http://***@host")
