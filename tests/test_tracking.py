"""The mirror in MLflow: one run per key, nothing twice, and no failure that costs a result."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abn import tracking

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's

KEY = ("weights", "0123abcd")
HOUSE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take seconds to create, without an experiment of ours."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking._prepare()(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository, a process whose mirror never failed, and nothing set from outside."""
    for name in ("ABN_TRACKING", "DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tracking, "_failed", False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in tracking._DEFAULTS.items():
            environment.setenv(name, value)
        yield tmp_path


def client_of_the_store() -> Any:
    return tracking._prepare()(tracking._store())


def stored() -> Any:
    """The one run of the store, with its data."""
    runs = all_stored()
    assert len(runs) == 1
    return runs[0]


def all_stored() -> list[Any]:
    client = client_of_the_store()
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id]))


def curve(key: str) -> list[tuple[int, float]]:
    history = client_of_the_store().get_metric_history(stored().info.run_id, key)
    return sorted((point.step, point.value) for point in history)


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, abn.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=HOUSE).returncode == 0


def test_a_run_holds_what_was_logged_and_ends_finished(root: Path) -> None:
    with tracking.run(KEY, "resnet18-s0") as run:
        run.log({"loss": 2.0, "top1": 0.5}, step=1)
        run.tag({"git.commit": "abc"})
    found = stored()
    assert (found.info.run_name, found.info.status) == ("resnet18-s0", "FINISHED")
    assert found.data.metrics == {"loss": 2.0, "top1": 0.5}
    assert found.data.tags.items() >= {KEY[0]: KEY[1], "git.commit": "abc"}.items()
    assert (root / "mlflow.db").is_file()


def test_a_second_run_with_the_same_key_reopens_the_first() -> None:
    with tracking.run(KEY, "first") as run:
        run.log({"loss": 2.0}, step=1)
    with tracking.run(KEY, "second") as run:
        assert stored().info.status == "RUNNING"
        run.log({"test/top1": 0.9})
    assert stored().info.status == "FINISHED"
    assert stored().data.metrics == {"loss": 2.0, "test/top1": 0.9}


def test_another_key_opens_another_run() -> None:
    for value in ("one", "two"):
        with tracking.run((KEY[0], value), value):
            pass
    assert len(all_stored()) == 2


def test_a_repeated_training_adds_no_step_twice() -> None:
    for last in (2, 3):
        with tracking.run(KEY, "run") as run:
            for step in (*range(last + 1), last):
                run.log({"loss": 10.0 - step, "seconds": float(last)}, step=step)
    assert curve("loss") == [(0, 10.0), (1, 9.0), (2, 8.0), (3, 7.0)]
    assert curve("seconds") == [(0, 2.0), (1, 2.0), (2, 2.0), (3, 3.0)]


def test_a_final_score_is_replaced_when_it_changed_and_only_then() -> None:
    for score in (0.9, 0.9, 0.5):
        with tracking.run(KEY, "run") as run:
            run.log({"top1": score})
    assert stored().data.metrics == {"top1": 0.5}
    assert len(curve("top1")) == 2


def test_parameters_are_flat_text_and_the_first_value_stays() -> None:
    given = {"arch": "resnet18", "train": {"lr": 1e-3, "steps": [3, 6], "ema": None, "amp": True}}
    with tracking.run(KEY, "run") as run:
        run.params(given)
    with tracking.run(KEY, "run") as run:
        run.params({"arch": "resnet50", "seed": 0})
    assert stored().data.params == {
        "arch": "resnet18",
        "seed": "0",
        "train.amp": "true",
        "train.ema": "null",
        "train.lr": "0.001",
        "train.steps": "[3, 6]",
    }


def test_an_artifact_replaces_its_namesake_below_the_root(root: Path) -> None:
    picture = root / "overview.png"
    for content in (b"old", b"new"):
        picture.write_bytes(content)
        with tracking.run(KEY, "run") as run:
            run.artifact(picture)
    kept = list((root / "mlartifacts").rglob("*.png"))
    assert [path.read_bytes() for path in kept] == [b"new"]


@pytest.mark.parametrize(
    ("fault", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_an_exception_passes_and_is_the_status(fault: type[BaseException], status: str) -> None:
    raised = fault("stop")
    with pytest.raises(fault) as caught, tracking.run(KEY, "run"):
        raise raised
    assert caught.value is raised
    assert stored().info.status == status


def test_backfill_runs_for_a_new_or_unfinished_run_only() -> None:
    calls = []
    for fault in (KeyboardInterrupt(), None, None):
        try:
            with tracking.run(KEY, "run", backfill=lambda run: calls.append(run)):
                if fault:
                    raise fault
        except KeyboardInterrupt:
            pass
    assert len(calls) == 2


def test_a_failing_backfill_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def backfill(run: tracking.Run) -> None:
        run.log({"loss": 1.0}, step=0)
        raise FileNotFoundError("plots/history.csv")

    with tracking.run(KEY, "run", backfill=backfill) as run:
        run.log({"top1": 0.9})
    assert "plots/history.csv" in capsys.readouterr().err
    assert stored().info.status == "RUNNING"  # so that the next one fills it


def test_off_touches_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABN_TRACKING", "off")
    before = sorted(root.iterdir())
    with tracking.run(KEY, "run", backfill=lambda run: pytest.fail(), system_metrics=True) as run:
        run.log({"loss": 1.0}, step=0)
        run.artifact(root / "nothing.png")
    assert sorted(root.iterdir()) == before


def test_a_refused_port_costs_one_line_and_the_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = []
    for _ in range(2):
        with tracking.run(KEY, "run", system_metrics=True) as run:
            run.log({"loss": 1.0}, step=0)
            done.append(run)
    out, err = capfd.readouterr()
    assert len(done) == 2
    assert (out, err.count("\n")) == ("", 1)
    assert "http://127.0.0.1:9" in err and "Connection refused" in err and "ABN_TRACKING" in err


def test_a_password_in_the_address_is_never_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with tracking.run(KEY, "run"):
        pass
    err = capfd.readouterr().err
    assert "secret" not in err and "ConnectionRefusedError" in err


def test_a_mirror_lost_half_way_costs_one_line(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tracking.run(KEY, "run") as run:
        run.log({"loss": 1.0}, step=0)
        run.artifact(root / "missing.png")
        run.log({"loss": 0.5}, step=1)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "missing.png" in err
    assert curve("loss") == [(0, 1.0)]


def test_a_missing_mlflow_costs_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with tracking.run(KEY, "run") as run:
        run.log({"loss": 1.0}, step=0)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "mlflow" in err


def test_the_fault_of_the_work_is_not_mistaken_for_the_fault_of_the_mirror(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError), tracking.run(KEY, "run"):
        (root / "mlflow.db").write_bytes(b"broken")
        raise ValueError("the work")
    err = capsys.readouterr().err
    assert "mlflow.db failed" in err and "the work" not in err


def test_two_processes_may_start_on_an_empty_store_at_once(root: Path) -> None:
    (root / "mlflow.db").unlink()
    code = (
        "import sys; from abn import tracking\n"
        "with tracking.run(('weights', '0123abcd'), 'run') as run: run.log({sys.argv[1]: 1.0})"
    )
    environment = os.environ | {"DVC_ROOT": str(root)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, name],
            cwd=HOUSE,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    assert [(process.communicate()[1], process.returncode) for process in started] == [("", 0)] * 2
    assert stored().data.metrics == {"one": 1.0, "two": 1.0}


def test_system_metrics_are_recorded_without_noise(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    with tracking.run(KEY, "run", system_metrics=True) as run:
        while not any(key.startswith("system/") for key in stored().data.metrics):
            assert run._monitor._process.is_alive()
    assert stored().info.status == "FINISHED"
    assert capfd.readouterr() == ("", "")


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
