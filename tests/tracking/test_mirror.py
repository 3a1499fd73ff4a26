"""Files and DVC's experiments become records: each result once, in the run it belongs to."""

import argparse
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import abn.cli.sync
from abn.experiments import dvc
from abn.experiments.dvc import LOCK, MODEL
from abn.project import paths
from abn.tracking import mirror, outbox
from abn.tracking.client import Store
from abn.tracking.mirror import RunRecord
from tests.tracking.stores import note, runs, sync

BASE = "ab" * 20
PARAMS = """
arch: resnet18
seed: 7
data: {url: "https://u:p@host/x"}
evaluate: {checkpoint: checkpoint/model.safetensors}
explain: {checkpoint: checkpoint/model.safetensors}
"""
HISTORY = "epoch,train_loss,val_top1\n1,2.5,0.25\n2,1.5,\n"
FILES = {
    "params.yaml": PARAMS,
    "plots/history.csv": HISTORY,
    "metrics/evaluate.json": '{"top1": 0.75, "loss": 1.25}',
    "metrics/explain.json": '{"verdict": "explains", "srg": 0.5}',
    "plots/explain_maps.csv": "map,mean\n",
}


@pytest.fixture(autouse=True)
def project(root: Path) -> None:
    """A project of DVC in which every stage has run, committed as HEAD."""
    for path, text in FILES.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    weigh(0)
    lock()
    git("init", "--quiet")
    commit()


def weigh(value: float, seed: int = 7) -> None:
    """Weights with a header as the train stage writes it."""
    MODEL.parent.mkdir(exist_ok=True)
    header = json.dumps({"params": {"arch": "resnet18", "seed": seed}})
    save_file({"weight": np.array([value])}, MODEL, {"abn": header})


def lock() -> None:
    """The dvc.lock that DVC writes when all stages have run."""

    def entry(name: str) -> dict[str, str]:
        content = Path(name).read_bytes()
        return {"path": name, "md5": hashlib.md5(content, usedforsecurity=False).hexdigest()}

    outs = [entry(name) for name in FILES]
    trained = [path for path in (paths.TRAIN_METRICS,) if path.exists()]
    stages = {
        "download": {"deps": [], "outs": [], "params": {"params.yaml": {"data.size": 64}}},
        "train": {"deps": [], "outs": outs[1:2] + [entry(str(path)) for path in trained]},
        "evaluate": {
            "deps": [entry(str(MODEL))],
            "outs": outs[2:3],
            "params": {"params.yaml": {"evaluate": {"size": 64}}},
        },
        "explain": {"deps": [entry(str(MODEL))], "outs": outs[3:]},
    }
    LOCK.write_text(json.dumps({"stages": stages}))  # JSON is YAML


def git(*words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=b", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit() -> None:
    git("add", *FILES, str(LOCK))
    git("commit", "--quiet", "--allow-empty", "-m", "ran")


def experiment(name: str) -> None:
    """HEAD as an experiment of DVC."""
    git("update-ref", f"refs/exps/{BASE[:2]}/{BASE[2:]}/{name}", "HEAD")


def records(since: float = float("inf")) -> list[RunRecord]:
    return list(mirror.records(Path(), since))


def curves(record: RunRecord) -> list[Any]:
    return [row for _, row in record.rows.values()]


def scores(record: RunRecord) -> dict[str, float]:
    return {key: value for key, (_, value) in record.scores.items()}


def test_an_outbox_is_a_run_that_goes_on_was_killed_or_has_finished() -> None:
    with outbox.training("f", {"arch": "resnet18", "seed": 1}, {"device": "cpu"}) as add:
        add("row", {"epoch": 1, "loss": 3.0})
        assert records()[0].status == "RUNNING"
    record, _ = records()
    assert (record.status, record.keys) == ("KILLED", [{"abn.training": "f"}])
    note("f", 1, 2)  # it went on from an older state: the last row of an epoch counts
    record, _ = records()
    assert record.status == "FINISHED" and record.tags["weights.sha256"] == "f"
    assert curves(record) == [{"epoch": 1, "loss": 9.0}, {"epoch": 2, "loss": 8.0}]


def test_a_finished_training_that_was_only_restored_is_no_second_run() -> None:
    with outbox.training("f", {"arch": "resnet18", "seed": 7}, {}) as add:
        add("end", {"weights.sha256": "f"})
        assert [record.place for record in records()] == ["workspace"]
        assert list(outbox.folder().iterdir())  # its training writes to it
    assert [record.place for record in records()] == ["workspace"]
    assert not list(outbox.folder().iterdir())  # it says nothing that the files do not


def test_the_workspace_is_a_run_with_its_curves_scores_words_and_artifacts(capsys: Any) -> None:
    (record,) = records()
    assert capsys.readouterr().err == "" and record.place == "workspace"
    ours = {"arch": "resnet18", "seed": 7, "data.size": 64, "evaluate": {"size": 64}}
    assert record.params == ours
    assert record.tags == {
        "weights.sha256": dvc.digest(MODEL, "sha256"), "explain.verdict": "explains"
    }  # fmt: skip
    assert curves(record) == [
        {"epoch": 1, "train_loss": 2.5, "val_top1": 0.25}, {"epoch": 2, "train_loss": 1.5}
    ]  # fmt: skip
    assert scores(record) == {"evaluate/top1": 0.75, "evaluate/loss": 1.25, "explain/srg": 0.5}
    assert [path.name for path in record.artifacts] == ["explain_maps.csv"]


def test_a_run_is_named_after_its_network_seed_and_experiment_or_weights() -> None:
    (record,) = records()
    assert record.name() == f"resnet18-s7-{dvc.digest(MODEL, 'sha256')[:6]}"
    experiment("vapid-frog")
    params = {"arch": "resnet50", "attention": "look", "seed": 42}
    other = RunRecord("training", [{"abn.training": "1f0c5a77"}], params, {}, 0)
    names = [record.name() for record in [*records(), other]]
    assert names == ["resnet18-s7-vapid-frog", "resnet18-s7-vapid-frog", "resnet50-look-s42-1f0c5a"]
    other.tags["dvc.exp"] = "sweep-2"  # as `abn sync` calls it from the experiment alone
    assert other.name() == "resnet50-look-s42-sweep-2"


def test_results_of_other_weights_are_left_out_and_named(capsys: Any) -> None:
    Path("metrics/explain.json").write_text('{"srg": 0.9}')
    (record,) = records()
    assert scores(record) == {"evaluate/top1": 0.75, "evaluate/loss": 1.25}
    line = (
        "metrics/explain.json: dvc.lock does not have it as made from the weights here, left out\n"
    )
    assert capsys.readouterr().err == line
    weigh(1)
    assert records() == []


def test_what_the_running_stage_has_written_counts_before_dvc_records_it() -> None:
    weigh(1)
    began = Path("metrics/evaluate.json").stat().st_mtime
    for path in FILES:
        Path(path).touch()
    (record,) = records(since=began)
    assert "evaluate/top1" in record.scores and not record.rows  # DVC knows the training first


@pytest.mark.parametrize("missing", [MODEL, LOCK, Path("params.yaml"), paths.HISTORY])
def test_a_missing_file_stops_nothing(missing: Path, root: Path) -> None:
    note("f", 1, 1)
    (root / ".git").rename(root / "away")
    missing.unlink()
    assert [record.place for record in records()][:1] == ["training"]


def test_an_experiment_is_a_run_with_its_files_from_git() -> None:
    experiment("vapid-frog")
    MODEL.unlink()
    (record,) = records()
    assert record.place == "experiment vapid-frog" and record.params["arch"] == "resnet18"
    assert record.tags == {
        "dvc.exp": "vapid-frog", "dvc.baseline_rev": BASE, "dvc.rev": git("rev-parse", "HEAD"),
        "explain.verdict": "explains",
    }  # fmt: skip
    assert curves(record)[1] == {"epoch": 2, "train_loss": 1.5}
    assert scores(record)["explain/srg"] == 0.5


def test_results_that_an_experiments_lock_does_not_vouch_for_are_left_out_and_named(
    capsys: Any,
) -> None:
    """Scores of other weights, as `abn compare` refuses them; and a file changed by hand."""
    stages = json.loads(LOCK.read_text())["stages"]
    stages["train"]["outs"].append({"path": str(MODEL), "md5": "of other weights"})
    del stages["evaluate"]["deps"]
    LOCK.write_text(json.dumps({"stages": stages}))
    Path("metrics/evaluate.json").write_text('{"top1": 0.9}')
    commit()
    experiment("try")
    MODEL.unlink()
    (record,) = records()
    assert scores(record) == {} and "explain.verdict" not in record.tags
    assert len(curves(record)) == 2
    assert capsys.readouterr().err == (
        "experiment try: explain ran on another checkpoint/model.safetensors, left out\n"
        "experiment try: metrics/evaluate.json is not the one that dvc.lock records, left out\n"
    )


def test_all_experiments_are_read_by_one_process(monkeypatch: Any) -> None:
    for name in ("a", "b", "c"):
        commit()
        experiment(name)
    MODEL.unlink()
    calls: list[list[str]] = []
    monkeypatch.setattr(dvc, "_texts", {})
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda words, **x: calls.append(words) or run(words, **x)
    )
    assert [len(record.rows) for record in records()] == [2, 2, 2]
    assert [words[3] for words in calls] == ["for-each-ref", "cat-file"]
    records()
    assert [words[3] for words in calls[2:]] == ["for-each-ref"]


def test_an_experiments_processor_and_threads_are_a_tag_as_its_training_sent_it() -> None:
    text = '{"val_top1": 0.5, "selected_on": "nothing", "device": "CPU, 2 threads"}'
    Path("metrics/train.json").write_text(text)
    lock()
    git("add", "metrics/train.json")
    commit()
    experiment("vapid-frog")
    MODEL.unlink()
    (record,) = records()
    assert record.tags["device"] == "CPU, 2 threads"
    assert "train.selected_on" not in record.tags and "train/val_top1" not in record.scores


def test_what_cannot_be_read_is_left_out_and_named(capsys: Any) -> None:
    note("f", 1, 1)
    note("g", 1, 1)
    row = '{"time": 1, "row": {"epoch": 1}}'
    (outbox.folder() / "f.jsonl").write_text(f'{{"time": 1, "start": {{}}}}\n{row}')
    (outbox.folder() / "h.jsonl").write_text(row)  # no start
    MODEL.write_bytes(b"torn")
    Path("metrics/evaluate.json").write_text("<<<<<<< HEAD")
    lock()
    commit()
    experiment("torn")
    (record,) = records()
    assert record.keys == [{"abn.training": "g"}]
    places = [str(outbox.folder() / "f.jsonl"), "workspace", "experiment torn"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": cannot be read")[0] for line in lines] == places


def test_a_training_its_weights_and_its_experiment_are_one_run(monkeypatch: Any) -> None:
    sha256 = dvc.digest(MODEL, "sha256")
    with monkeypatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", "vapid-frog")
        patch.setenv("DVC_EXP_BASELINE_REV", BASE)
        with outbox.training("f", {}, {}) as add:
            add("row", {"epoch": 1})
            add("end", {"weights.sha256": sha256})
        sync()
        assert not list(outbox.folder().iterdir())  # MLflow has it
    experiment("vapid-frog")
    sync()
    (run,) = runs("weights.sha256", sha256)
    assert run.data.tags.items() >= {"abn.training": "f", "dvc.exp": "vapid-frog"}.items()
    assert run.data.metrics["explain/srg"] == 0.5


def test_weights_that_were_there_before_their_experiment_was_saved_stay_one_run() -> None:
    sync()
    experiment("saved")
    sync()
    (run,) = runs("weights.sha256", dvc.digest(MODEL, "sha256"))
    assert run.data.tags["dvc.exp"] == "saved"


def test_what_a_stage_has_sent_is_not_sent_again_by_abn_sync(capsys: Any) -> None:
    list(Store().update(mirror.records(Path.cwd(), since=0)))
    abn.cli.sync.run(argparse.Namespace())
    assert capsys.readouterr().out.endswith(", workspace: nothing new\n")


def test_experiments_that_share_weights_keep_their_own_scores() -> None:
    sync()
    experiment("one")
    Path("metrics/explain.json").write_text('{"srg": 0.9}')
    lock()
    commit()
    experiment("two")
    Path("metrics/explain.json").write_text('{"srg": 0.1}')
    lock()
    sync()
    assert all(line.endswith(": nothing new") for line in sync())
    scores = {name: runs("dvc.exp", name)[0].data.metrics["explain/srg"] for name in ("one", "two")}
    assert scores == {"one": 0.5, "two": 0.9}
    here = runs("weights.sha256", dvc.digest(MODEL, "sha256"))
    assert 0.1 in [run.data.metrics["explain/srg"] for run in here]


def test_an_experiment_restored_from_the_cache_gets_its_run_beside_the_workspace() -> None:
    experiment("restored")
    git("checkout", "--quiet", "--orphan", "other")
    weigh(1)
    assert "resnet18-s7-restored, experiment restored: 13 new" in sync()
    assert paths.HISTORY.exists() and len(runs("dvc.exp", "restored")) == 1


def again(loss: str, top1: float, seed: int, name: str = "try") -> str:
    """Another training, as HEAD and as the experiment `name`; its commit."""
    weigh(seed, seed)
    Path("params.yaml").write_text(PARAMS.replace("seed: 7", f"seed: {seed}"))
    Path("plots/history.csv").write_text(f"epoch,train_loss\n1,{loss}\n")
    Path("metrics/evaluate.json").write_text(json.dumps({"top1": top1}))
    lock()
    commit()
    experiment(name)
    return git("rev-parse", "HEAD")


def found(revision: str) -> tuple[str, float, float]:
    """The seed, first loss and accuracy in the one run of an experiment's commit."""
    (run,) = runs("dvc.rev", revision)
    history = Store()._client.get_metric_history(run.info.run_id, "train_loss")
    (first,) = [point.value for point in history if point.step == 1]
    return run.data.params["seed"], first, run.data.metrics["evaluate/top1"]


@pytest.mark.parametrize("place", ["the repository", "the workspace"])
def test_an_experiment_made_again_under_its_name_has_a_run_of_its_own(place: str) -> None:
    """As by `dvc exp run -f -n try`."""
    before = git("rev-parse", "HEAD")
    experiment("try")
    if place == "the repository":
        MODEL.unlink()
    sync()
    after = again("4.5", 0.5, seed=9)
    if place == "the repository":
        MODEL.unlink()
    sync()
    assert (found(before), found(after)) == (("7", 2.5, 0.75), ("9", 4.5, 0.5))
    assert len(runs("dvc.exp", "try")) == 2
    assert all(line.endswith(": nothing new") for line in sync())


def test_a_stage_that_runs_under_a_former_name_completes_only_what_it_began(
    monkeypatch: Any,
) -> None:
    before = git("rev-parse", "HEAD")
    with monkeypatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", "try")
        patch.setenv("DVC_EXP_BASELINE_REV", BASE)
        sync()  # a stage of the first training: it has no commit yet
        experiment("try")
        with outbox.training("f", {"arch": "resnet18", "seed": 9}, {}) as add:
            add("row", {"epoch": 1, "train_loss": 4.5})
            MODEL.unlink()
            sync()  # the second has begun; the commit of the first is still there
        weigh(9, seed=9)
        Path("metrics/evaluate.json").write_text('{"top1": 0.5}')
        Path("plots/history.csv").write_text("epoch,train_loss\n1,4.5\n")
        lock()
        sync()
    after = again("4.5", 0.5, seed=9)
    sync()
    assert (found(before), found(after)) == (("7", 2.5, 0.75), ("9", 4.5, 0.5))
    (begun,) = runs("abn.training", "f")
    assert begun.data.tags["dvc.rev"] == after and len(runs("dvc.exp", "try")) == 2


def test_an_experiment_that_the_store_has_is_not_read_again() -> None:
    experiment("try")
    MODEL.unlink()
    first = Store()
    assert [each.place for each in mirror.records(Path(), known=first.has)] == ["experiment try"]
    list(first.update(mirror.records(Path())))
    assert list(mirror.records(Path(), known=Store().has)) == []
    experiment("copy")  # of the same commit
    assert [each.place for each in mirror.records(Path(), known=Store().has)] == ["experiment copy"]


def test_a_renamed_experiment_keeps_its_run_and_a_copy_gets_one() -> None:
    """As by `dvc exp rename`; two experiments may have one commit."""
    experiment("try")
    MODEL.unlink()
    sync()
    (before,) = runs("dvc.exp", "try")
    experiment("copy")
    assert sync()[0].endswith("copy: 13 new")
    for name in ("try", "copy"):
        git("update-ref", "-d", f"refs/exps/{BASE[:2]}/{BASE[2:]}/{name}")
    experiment("better")
    experiment("copy")
    sync()
    assert {run.info.run_name for run in runs("dvc.rev", git("rev-parse", "HEAD"))} == {
        "resnet18-s7-better", "resnet18-s7-copy"
    }  # fmt: skip
    (after,) = runs("dvc.exp", "better")
    assert after.info.run_id == before.info.run_id and runs("dvc.exp", "try") == []
