"""The mirror in MLflow, as the stages see it: it never fails, never waits, and keeps secrets."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from abn import journal, tracking
from abn.journal import Event
from tests import tracked
from tests.tracked import HOUSE, KEY, curve, stored, training, unsent, waiting

SECRET = "http://me:secret@127.0.0.1:9"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    with tracked.place(tmp_path):
        yield tmp_path


def told() -> list[Event]:
    """The events of the one journal."""
    (path,) = waiting()
    return journal.read(path)[0]


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, abn.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=HOUSE).returncode == 0


def test_what_is_logged_is_in_mlflow_when_the_block_ends(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tracking.run(KEY, "resnet18-s0", system_metrics=True) as run:
        run.log({"loss": 2.0}, step=1)
        run.tag({"git.commit": "abc"})
    (found,) = stored()
    assert (found.info.run_name, found.info.status) == ("resnet18-s0", "FINISHED")
    assert found.data.metrics == {"loss": 2.0}
    assert waiting() == [] and capfd.readouterr() == ("", "")


def test_every_call_is_an_event_of_its_own_time() -> None:
    clock = iter(range(1, 100))
    events: list[Event] = []
    run = tracking.Run(events.append, now=lambda: next(clock))
    run.log({"loss": 2, "top1": 0.5}, step=1)
    run.log({"top1": 0.25})
    run.fill(lambda filled: filled.tag({"a": "b"}))
    run.end("FAILED")
    assert events == [
        Event(time=1, points={"loss": 2.0, "top1": 0.5}, step=1),
        Event(time=2, points={"top1": 0.25}),
        Event(time=3, tags={"a": "b"}, backfill=True),
        Event(time=4, end="FAILED"),
    ]


def test_parameters_are_flat_text() -> None:
    events: list[Event] = []
    given = {"arch": "resnet18", "train": {"lr": 1e-3, "steps": [3, 6], "ema": None, "amp": True}}
    tracking.Run(events.append).params(given)
    assert events[0].params == {
        "arch": "resnet18",
        "train.amp": "true",
        "train.ema": "null",
        "train.lr": "0.001",
        "train.steps": "[3, 6]",
    }


@pytest.mark.parametrize(
    ("fault", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_an_exception_passes_and_is_the_status(fault: type[BaseException], status: str) -> None:
    raised = fault("stop")
    with unsent(), pytest.raises(fault) as caught, tracking.run(KEY, "run"):
        raise raised
    assert caught.value is raised
    assert told()[-1].end == status


def test_an_interrupted_training_leaves_a_run_that_says_so() -> None:
    work = training(2, pause=60)
    other = tracked.sender(work)
    while not stored():
        assert work.poll() is None
    os.killpg(other, signal.SIGTERM)  # as a scheduler does: to all processes of a job
    work.send_signal(signal.SIGINT)
    work.communicate()
    tracked.gone(other)
    assert [run.info.status for run in stored()] == ["KILLED"]
    assert curve("loss") == [(0, 10.0), (1, 9.0)] and waiting() == []


def test_an_artifact_is_kept_as_it_was(root: Path) -> None:
    picture = root / "overview.png"
    picture.write_bytes(b"then")
    with unsent(), tracking.run(KEY, "run") as run:
        run.artifact(picture)
        picture.unlink()
    kept = Path(told()[0].artifact or "")
    assert (kept.name, kept.read_bytes()) == ("overview.png", b"then")


def test_off_touches_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABN_TRACKING", "off")
    before = sorted(root.iterdir())
    with tracking.run(KEY, "run", backfill=lambda run: pytest.fail(), system_metrics=True) as run:
        run.log({"loss": 1.0}, step=0)
        run.artifact(root / "nothing.png")
    assert sorted(root.iterdir()) == before


def test_a_store_that_refuses_costs_one_line_a_process(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SECRET)
    for _ in range(2):
        with tracking.run(KEY, "run", system_metrics=True) as run:
            run.log({"loss": 1.0}, step=0)
            run.params({"data": {"url": "https://u:secret@host/a.tgz?token=secret"}})
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "http://***@127.0.0.1:9 failed (ConnectionRefusedError); the work goes on" in err
    assert "python -m stages.sync" in err and "ABN_TRACKING" in err
    journals = [path.read_text() for path in waiting()]
    assert len(journals) == 2 and "https://***@host/a.tgz?***" in journals[0]
    assert "secret" not in "".join([err, *journals])


def test_a_missing_mlflow_costs_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "mlflow.py").write_text("raise ModuleNotFoundError('No module named mlflow')")
    monkeypatch.setenv("PYTHONPATH", str(root))
    with tracking.run(KEY, "run") as run:
        run.log({"loss": 1.0}, step=0)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "No module named mlflow" in err
    assert len(waiting()) == 1


def test_a_journal_that_cannot_be_written_costs_one_line(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / ".cache").write_text("no folder")
    for _ in range(2):
        with tracking.run(KEY, "run", backfill=lambda run: run.tag({"a": "b"})) as run:
            run.log({"loss": 1.0}, step=0)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and ".cache/tracking" in err


def test_a_disk_that_fills_up_under_the_journal_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with unsent(), tracking.run(KEY, "run") as run:
        monkeypatch.setattr(journal.os, "write", lambda file, text: 3)
        for step in range(3):
            run.log({"loss": 1.0}, step=step)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "a line was cut off" in err and "stages.sync" in err


def test_a_failing_backfill_or_value_costs_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    def backfill(run: tracking.Run) -> None:
        raise FileNotFoundError("plots/history.csv")

    with unsent(), tracking.run(KEY, "run", backfill=backfill) as run:
        run.log({"top1": "good"})  # type: ignore[dict-item]
        run.log({"top1": 0.9})
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "plots/history.csv" in err
    assert [event.points for event in told()] == [{"top1": 0.9}, {}]


def test_lineage_holds_the_commit_and_what_dvc_says(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_EXP_BASELINE_REV", raising=False)
    monkeypatch.setenv("DVC_EXP_NAME", "vapid-frog")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    assert tracking.lineage() == {"dvc.exp": "vapid-frog"}
    person = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", *person, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    assert len(tracking.lineage()["git.commit"]) == 40
