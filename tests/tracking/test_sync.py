"""What MLflow missed, told from journals, experiments and files; told again, it is no news."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from abn import runs, tracking
from abn.config.params import Params
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.project import paths
from abn.project.inputs import Inputs
from abn.runtime.errors import TrackingError
from stages import mirror, sync
from tests import tracked

NONE = Inputs("sync", {}, {}, {})
BASE = "ab" * 20
PARAMS = """
arch: resnet18
seed: 7
data: {url: "https://u:p@host/x", holdout: 0.0}
train: {epochs: 2, batch_size: 8, sizes: [32]}
"""
HISTORY = "epoch,train_loss,val_top1\n1,2.5,0.25\n2,1.5,\n"
EVALUATE = {"top1": 0.75, "loss": 1.25}
EXPLAIN = {"verdict": "explains", "srg": 0.5}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of DVC with results but without a model, committed as HEAD."""
    monkeypatch.chdir(tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b.c")
    for path, text in {
        "params.yaml": PARAMS,
        "plots/history.csv": HISTORY,
        "metrics/evaluate.json": json.dumps(EVALUATE),
        "metrics/explain.json": json.dumps(EXPLAIN),
    }.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    git("init", "--quiet")
    git("add", "params.yaml", "plots", "metrics")
    git("commit", "--quiet", "-m", "ran")
    with tracked.place(tmp_path):
        yield tmp_path


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def experiment(name: str) -> None:
    """HEAD as an experiment of DVC."""
    git("update-ref", f"refs/exps/{BASE[:2]}/{BASE[2:]}/{name}", "HEAD")


def model() -> None:
    """A trained model, and the lock that says which scores are its own."""
    torch.manual_seed(0)
    weights = checkpoint.weights(AttentionBranchNetwork("resnet18", 2))
    loop = {"epochs": 2, "batch_size": 8, "sizes": [32]}
    recipe = {"arch": "resnet18", "seed": 7, "train": loop, "data": {"holdout": 0.0}}
    checkpoint.save_all(paths.CHECKPOINT, {"model": weights}, "resnet18", ("a", "b"), recipe)
    stages = {
        stage: {"deps": [entry(sync.MODEL)], "outs": [entry(file)]}
        for stage, file in sync.SCORED.items()
    }
    with sync.LOCK.open("w") as file:
        YAML().dump({"stages": stages}, file)


def entry(path: Path) -> dict[str, str]:
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return {"path": str(path), "md5": md5}


@pytest.fixture
def told(params: Params, capsys: pytest.CaptureFixture[str]) -> Any:
    """`told()`: the lines of a sync."""

    def run() -> list[str]:
        sync.main(params, NONE)
        return capsys.readouterr().out.splitlines()

    return run


def only(tag: str, value: str) -> Any:
    (run,) = tracked.stored((tag, value))
    return run


def test_an_experiment_becomes_a_run_and_the_second_time_no_news(told: Any) -> None:
    experiment("vapid-frog")
    # 2 tags, 7 params, 3 + 2 points, 3 scores
    assert told() == ["resnet18-s7, experiment vapid-frog: 17 new"]
    assert told() == ["resnet18-s7, experiment vapid-frog: nothing new"]
    run = only("dvc.exp", "vapid-frog")
    assert (run.info.run_name, run.info.status) == ("resnet18-s7", "FINISHED")
    params = {"arch": "resnet18", "seed": "7", "data.url": "https://***@host/x"}
    assert run.data.params.items() >= params.items()
    tags = {"dvc.baseline_rev": BASE, "dvc.rev": git("rev-parse", "HEAD")}
    assert run.data.tags.items() >= (tags | {"explain.verdict": "explains"}).items()
    scores = {"evaluate/top1": 0.75, "evaluate/loss": 1.25, "explain/srg": 0.5}
    assert run.data.metrics.items() >= scores.items()
    history = runs.connect().get_metric_history(run.info.run_id, "train_loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.5), (2, 1.5)]


def test_a_run_that_was_there_when_the_experiment_ran_gets_what_it_lacks(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment("vapid-frog")
    monkeypatch.setenv("DVC_EXP_NAME", "vapid-frog")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", BASE)
    with tracked.unsent(), tracking.run(("abn.training", "f"), "resnet18-s7") as run:
        run.tag(tracking.lineage())
        run.log({"epoch": 1, "train_loss": 2.5, "val_top1": 0.25, "images_per_second": 9}, step=1)
        run.log({"evaluate/top1": 0.7500004})
    assert told() == [
        "resnet18-s7, journal: 8 new",
        "resnet18-s7, experiment vapid-frog: 13 new",  # 2 tags, 7 params, 2 points, 2 scores
    ]
    assert only("dvc.exp", "vapid-frog").data.tags["abn.training"] == "f"


def test_the_model_in_the_workspace_becomes_a_run_with_the_scores_that_are_its_own(
    told: Any,
) -> None:
    model()
    Path("metrics/explain.json").write_text('{"srg": 0.9}')  # of other weights
    left_out = "metrics/explain.json: not of the weights in checkpoint/model.safetensors, left out"
    assert told()[0] == left_out
    assert told() == [left_out, "resnet18-s7, workspace: nothing new"]
    run = only("weights.sha256", checkpoint.sha256(sync.MODEL))
    assert run.data.metrics["evaluate/top1"] == 0.75 and "explain/srg" not in run.data.metrics


def test_a_later_stage_finds_the_run_that_sync_made(told: Any) -> None:
    model()
    told()
    trained = checkpoint.load(sync.MODEL, torch.device("cpu"))
    with tracked.unsent(), mirror.run_of(sync.MODEL, trained) as run:
        run.log({"evaluate/top1": 0.8})
    assert tracked.send() == [("resnet18-s7", "1 new")]
    assert only("weights.sha256", checkpoint.sha256(sync.MODEL))


def test_an_experiment_that_is_the_workspace_is_one_run(told: Any) -> None:
    model()
    git("add", "dvc.lock")
    git("commit", "--quiet", "-m", "ran")
    experiment("vapid-frog")
    first, second = told()
    assert first.startswith("resnet18-s7, experiment vapid-frog: ")
    assert second == "resnet18-s7, workspace: nothing new"
    sha256 = checkpoint.sha256(sync.MODEL)
    assert only("weights.sha256", sha256).data.tags["dvc.exp"] == "vapid-frog"


def test_a_dead_store_is_one_line_and_loses_nothing(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with tracked.unsent(), tracking.run(tracked.KEY, "run"):
        pass
    with pytest.raises(TrackingError) as caught:
        sync.main(params, NONE)
    line = caught.value.line()
    assert line.startswith("error[TRACKING] ConnectionRefusedError; http://***@127.0.0.1:9; ")
    assert "secret" not in line and len(tracked.waiting()) == 1


def test_what_stays_is_named(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, tracked.unsent():
        patch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
        with tracking.run(tracked.KEY, "run"):
            pass
    torn = tracking.journals() / "1.jsonl"
    torn.write_text('{"store":')
    assert told() == [
        "journals wait for http://***@127.0.0.1:9: set MLFLOW_TRACKING_URI to it and sync again",
        f"{torn}: torn at its head, so nobody knows its run: delete it",
    ]
