"""Runs in MLflow get what they lack, once, and the whole of it."""

import base64
import errno
import fcntl
import json
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from sqlalchemy.exc import OperationalError

from abn.runtime.errors import TrackingError
from abn.tracking.address import address
from abn.tracking.client import EXPERIMENT, Store, failure
from abn.tracking.mirror import RunRecord
from tests.tracking.stores import curve, run

FIRST_USE = """
from abn.tracking.client import Store
from abn.tracking.mirror import RunRecord
rows = {1: (2000, {"epoch": 1, "loss": 9.0})}
record = RunRecord("training", [{"abn.training": "f"}], {}, {}, 1000, rows)
print(*Store().update([record]))
"""


def record(place: str = "training", **values: Any) -> RunRecord:
    params = values.pop("params", {"arch": "resnet18", "seed": 0})
    tags = {"abn.training": "f"} | values.pop("tags", {})
    return RunRecord(place, [{"abn.training": "f"}], params, tags, 1000, **values)


def update(*records: RunRecord) -> list[str]:
    return [line.partition(": ")[2] for line in Store().update(records)]


def rows(*epochs: int, loss: float = 2.0) -> Any:
    return {epoch: (2000, {"epoch": epoch, "loss": loss}) for epoch in epochs}


def test_a_run_holds_what_its_record_says_with_its_own_times() -> None:
    given = record(rows=rows(1), status="FINISHED", ended=9000, tags={"git.commit": "abc"})
    assert update(given) == ["4 new"]  # two points, two params
    info, data = run("f").info, run("f").data
    assert (info.run_name, info.status) == ("resnet18-s0-f", "FINISHED")
    assert (info.start_time, info.end_time) == (1000, 9000)
    assert data.params == {"arch": "resnet18", "seed": "0"} and data.tags["git.commit"] == "abc"
    (point,) = Store()._client.get_metric_history(info.run_id, "loss")
    assert (point.step, point.value, point.timestamp) == (1, 2.0, 2000)


def test_a_disk_without_flock_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "refused")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert update(record(rows=rows(1))) == ["4 new"]


def test_the_table_can_show_the_verdict_and_comparing_starts_with_validation() -> None:
    """MLflow's page compares by the metric that was logged first."""
    row = {"epoch": 1, "size": 64, "val_top1": 0.5, "lr": 0.1}
    update(record(rows={1: (2000, row)}, scores={"evaluate/top1": (3000, 0.5)}))
    assert next(iter(run("f").data.metrics)) == "val_top1"
    client, found = Store()._client, Store()._experiment
    shown = json.loads(client.get_experiment(found).tags["mlflow.sharedViewState.abn"])
    packed = base64.b64decode(shown["state"].removeprefix("deflate;"))
    columns = {"tags.`explain.verdict`", "metrics.`evaluate/top1`", "metrics.`explain/srg`"}
    assert columns <= {*json.loads(zlib.decompress(packed))["selectedColumns"]}


def test_a_view_that_the_user_removed_stays_removed_and_an_older_experiment_gets_it() -> None:
    from mlflow import MlflowClient

    client = MlflowClient(address())
    older = client.create_experiment(EXPERIMENT)
    update(record(rows=rows(1)))
    assert "mlflow.sharedViewState.abn" in client.get_experiment(older).tags
    client._tracking_client.store.delete_experiment_tag(older, "mlflow.sharedViewState.abn")
    update(record(rows=rows(1, 2)))
    assert "mlflow.sharedViewState.abn" not in client.get_experiment(older).tags


def test_the_same_record_adds_nothing_and_another_only_what_is_new() -> None:
    update(record(rows=rows(1, 2)))
    assert update(record(rows=rows(1, 2))) == ["nothing new"]
    assert update(record(rows=rows(1, 2, 3, loss=3.0))) == ["2 new"]
    assert curve("f") == [(1, 2.0), (2, 2.0), (3, 3.0)]


def test_records_that_the_store_has_are_found_by_one_question(monkeypatch: Any) -> None:
    given = [record("training", rows=rows(1)), record("workspace", rows=rows(1))]
    update(*given)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_find", None)
        assert update(*given) == ["nothing new"] * 2
    Store()._client.delete_run(run("f").info.run_id)
    assert update(*given) == ["4 new", "nothing new"]


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\"b'c", '"a"', "'a'", "a`b;c--%"])
def test_an_experiment_may_have_every_name_that_git_allows(name: str) -> None:
    given = [RunRecord("", [{"dvc.exp": each}], {}, {}, 1000, rows(1)) for each in (name, "b")]
    assert update(*given) == ["2 new"] * 2
    given[0].rows |= rows(2)
    assert update(*given) == ["2 new", "nothing new"]
    assert Store().run_with({"dvc.exp": name}) != Store().run_with({"dvc.exp": "b"})


@pytest.mark.parametrize("says", [{"scores": {"top1?": (1000, 0.5)}}, {"tags": {"a": "\udcff"}}])
def test_what_mlflow_refuses_is_named_and_all_else_is_sent(says: dict[str, Any]) -> None:
    """A mark in the name of a score; what is not UTF-8."""
    good = RunRecord("experiment good", [{"dvc.exp": "good"}], {"seed": 1}, {}, 1000, rows(1))
    bad = record(**says)
    lines: list[str] = []
    for _ in range(2):
        words = "MLflow does not take resnet18-s0-f, training; sqlite:.*; all else was sent"
        with pytest.raises(TrackingError, match=words):
            lines += Store().update([bad, good])
    refused, sent, _, again = lines
    assert refused.startswith("resnet18-s0-f, training: not sent (")
    assert sent == "s1-good, experiment good: 3 new" and again.endswith(": nothing new")


def test_a_store_that_fails_is_asked_once_and_not_for_each_record(monkeypatch: Any) -> None:
    store, asked = Store(), []

    def fail(*words: Any, **more: Any) -> None:
        asked.append(words)
        raise ConnectionError

    monkeypatch.setattr(store._client, "search_runs", fail)
    with pytest.raises(ConnectionError):
        list(store.update([record(rows=rows(1)), record(rows=rows(1, 2))]))
    assert len(asked) == 1


def test_the_last_error_of_a_database_is_named_and_not_one_that_mlflow_had_caught() -> None:
    """A repeated point is no failure; that there is no room for the next one is."""
    full = sqlite3.OperationalError("disk is full")
    full.__context__ = sqlite3.IntegrityError("UNIQUE constraint failed")
    error = OperationalError("insert", {}, full)
    error.__cause__ = full
    assert failure(error).what == "OperationalError: disk is full"


@pytest.mark.parametrize("heard", [0, 1])
def test_a_lost_answer_leads_to_no_point_twice_or_missing(monkeypatch: Any, heard: int) -> None:
    """MLflow takes 100 params at once; the answer to the first or second part is lost."""
    words = {f"k{number}": "v" for number in range(250)}
    given, store = record(rows=rows(*range(1, 76)), params=words, tags=words), Store()
    send, sent = store._client.log_batch, []

    def lose(*parts: Any) -> None:
        send(*parts)
        sent.append(parts)
        if len(sent) > heard:
            raise ConnectionError

    monkeypatch.setattr(store._client, "log_batch", lose)
    with pytest.raises(ConnectionError):
        list(store.update([given]))
    update(given)
    assert curve("f") == [(epoch, 2.0) for epoch in range(1, 76)]
    assert len(run("f").data.params) == 250


def test_a_score_is_replaced_if_it_changed() -> None:
    for value, time in ((0.9, 3000), (0.9, 4000), (0.5, 5000)):
        update(record(scores={"loss": (time, value)}))
    assert run("f").data.metrics == {"loss": 0.5} and len(curve("f")) == 2


def test_the_first_value_of_a_parameter_stays_the_last_of_a_tag_and_no_secret_arrives() -> None:
    url = "https://me:sec/ret@host/a.tgz?token=secret"
    update(record(params={"a": {"b": [1, None]}}, tags={"device": "cpu", "commit": "x"}))
    update(record(params={"a": {"b": 2, "url": url}, "c": True}, tags={"device": "cuda"}))
    data, shown = run("f").data, "https://***@host/a.tgz"
    assert data.params == {"a.b": "[1, null]", "a.url": shown, "c": "true"}
    assert data.tags.items() >= {"device": "cuda", "commit": "x"}.items()


def test_a_run_is_running_until_its_training_has_stopped() -> None:
    for number, status in enumerate(("RUNNING", "KILLED", "RUNNING", "FINISHED"), 1):
        update(record(status=status, ended=number))
        assert run("f").info.status == status
    update(record("workspace", rows=rows(1)))
    assert (run("f").info.status, run("f").info.end_time) == ("FINISHED", 4)


def test_an_artifact_is_replaced_if_its_content_changed(root: Path) -> None:
    picture = root / "overview.png"
    for content, news in (("a", "3 new"), ("a", "nothing new"), ("b", "1 new")):
        picture.write_text(content)
        assert update(record(artifacts={picture: content})) == [news]
    kept = list((root / "mlartifacts").rglob("*.png"))
    assert [path.read_text() for path in kept] == ["b"]


@pytest.mark.parametrize(("way", "name"), [("copied", "100%_a|b?"), ("moved", "a_b")])
def test_a_folder_copied_or_moved_keeps_its_artifacts_and_leaves_the_former_one_alone(
    way: str, name: str, root: Path, monkeypatch: Any
) -> None:
    former, folder = root / "former" / name, root / "here"
    former.mkdir(parents=True)
    shutil.copy(root / "mlflow.db", former)
    enter(former, monkeypatch)
    (former / "one.png").write_text("1")
    update(record(artifacts={former / "one.png": "1"}))
    shutil.copytree(former, folder) if way == "copied" else former.rename(folder)
    before = sorted((root / "former").rglob("*"))
    enter(folder, monkeypatch)
    (folder / "two.png").write_text("2")
    update(record(artifacts={folder / "two.png": "2"}))
    assert sorted((root / "former").rglob("*")) == before
    place = Path(url2pathname(urlsplit(run("f").info.artifact_uri).path))
    assert place.is_relative_to(folder / "mlartifacts")
    assert {path.name for path in place.iterdir()} == {"one.png", "two.png"}


def enter(folder: Path, monkeypatch: Any) -> None:
    """As a new process in `folder` would."""
    from mlflow.tracking._tracking_service import utils

    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.chdir(folder)
    utils._artifact_repos_cache.clear()


def test_an_artifact_place_that_the_user_chose_is_left_as_it_is(root: Path) -> None:
    chosen = (root / "elsewhere").as_uri()
    from mlflow import MlflowClient

    MlflowClient(address()).create_experiment(EXPERIMENT, chosen)
    update(record(rows=rows(1)))
    assert run("f").info.artifact_uri.startswith(chosen)


@pytest.mark.slow
def test_a_database_half_built_does_not_stop_four_first_uses_at_once(root: Path) -> None:
    (root / "mlflow.db").unlink()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 10**9));"
    assert subprocess.run([sys.executable, "-c", limit + FIRST_USE], capture_output=True).returncode
    assert not (root / "mlflow.db").exists()
    pipe, words = subprocess.PIPE, [sys.executable, "-c", FIRST_USE]
    works = [subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    assert [work.communicate()[1] for work in works] == [""] * 4
    assert curve("f") == [(1, 9.0)] and not list(root.glob("*.part"))


def test_times_of_a_clock_before_1970_are_sent_as_1970() -> None:
    early = {1: (-2000, {"epoch": 1, "loss": 2.0})}
    given = RunRecord("training", [{"abn.training": "f"}], {}, {}, -3000, early, ended=-1000)
    assert update(given) == ["2 new"]
    info = run("f").info
    assert (info.status, info.start_time, info.end_time) == ("FINISHED", 1, 1)
    assert curve("f") == [(1, 2.0)]
