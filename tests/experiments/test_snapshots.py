"""What was recorded is read as it is; what dvc.lock does not vouch for is left out and named."""

import json
import shutil
from pathlib import Path

import pytest

from abn.experiments.snapshots import WORKSPACE, read
from abn.project import paths
from abn.runtime.errors import DataError
from tests.experiments.recorded import (
    WEIGHTS,
    cache,
    folder,
    git,
    read_lock,
    record,
    run,
    write_lock,
)


def names(*wanted: str) -> list[str]:
    return [each.name for each in read(wanted)]


def test_a_sweep_a_pattern_and_a_branch_are_found_by_their_names() -> None:
    for number in (10, 2, 1):
        record(f"sweep-{number}", seed=number)
    record("other", when=9)
    assert names("sweep") == names("sweep-*") == ["sweep-1", "sweep-2", "sweep-10"]
    assert names("main", "other") == ["main", "other"]
    assert names() == ["HEAD", WORKSPACE, "other", "sweep-1", "sweep-2", "sweep-10"]


def test_one_revision_alone_is_followed_by_the_workspace() -> None:
    run(seed=9)
    assert [(each.name, each.seed) for each in read(["HEAD"])] == [("HEAD", "1"), (WORKSPACE, "9")]
    assert names("HEAD", "main") == ["HEAD", "main"]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(DataError, match="no such experiment, sweep or revision; sweeep; see"):
        read(["sweeep"])


def test_a_name_of_a_revision_and_of_experiments_is_refused() -> None:
    record("sweep-1")
    git("branch", "sweep")
    with pytest.raises(
        DataError, match=r"both a revision and a sweep have this name; sweep; .*-\*"
    ):
        read(["sweep"])
    assert names("sweep-*", "main") == ["sweep-1", "main"]
    git("branch", "sweep-1")
    with pytest.raises(DataError, match="both a revision and an experiment have this name"):
        read(["sweep-1"])


def test_an_experiment_named_in_full_comes_before_a_sweep(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record("try"), record("try-2")
    assert names("try", "HEAD") == ["try", "HEAD"]
    assert capsys.readouterr().err == "try: the experiment of this name; 'try-*' is the sweep\n"


def test_a_repository_that_git_does_not_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(DataError, match="detected dubious ownership in repository"):
        read([])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="git is not installed"):
        read([])


def test_without_a_commit_or_git_the_workspace_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(".git")
    assert names() == [WORKSPACE]
    git("init", "-q")
    assert names() == [WORKSPACE]


@pytest.mark.parametrize("text", ["stages:\n", "", "<<<<<<< ours\n", "stages: [\n"])
def test_a_lock_without_stages_is_no_training(text: str) -> None:
    Path("dvc.lock").write_text(text)
    assert names("main", WORKSPACE) == ["main"]


def test_a_listing_that_was_cut_off_is_as_none() -> None:
    cache(b"", folder("w1"))
    (here,) = read([WORKSPACE, WORKSPACE])
    assert here.notes == () and here.metrics["evaluate.top1"] == 0.75


def test_a_commit_without_a_training_is_left_out_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    git("rm", "-q", "dvc.lock")
    git("commit", "-qm", "empty")
    assert names("HEAD", "main~1") == ["main~1"]
    assert capsys.readouterr().err == "HEAD: no training in its dvc.lock, left out\n"


def test_params_are_those_of_dvc_lock_whatever_params_yaml_says_now() -> None:
    Path("params.yaml").write_text("arch: resnet152")
    (here,) = read([WORKSPACE, WORKSPACE])
    assert here.params == {"arch": "resnet18", "train.lr": "0.1", "train.epochs": "2"}
    assert here.metrics["evaluate.top1"] == 0.75 and here.metrics["explain.verdict"] == "explains"


def test_a_metric_changed_by_hand_is_left_out_and_named() -> None:
    paths.EVALUATE_METRICS.write_text(json.dumps({"top1": 1.0}))
    (here,) = read([WORKSPACE, WORKSPACE])
    assert "evaluate.top1" not in here.metrics and "explain.srg" in here.metrics
    reason = "workspace: metrics/evaluate.json is not the one that dvc.lock records, left out"
    assert here.notes == (reason,)


@pytest.mark.parametrize("cached", [True, False])
def test_scores_of_other_weights_are_left_out_and_named(cached: bool) -> None:
    """Training again and not the rest leaves the old scores beside the new weights."""
    if cached:
        listing = [{"relpath": "model.safetensors", "md5": "w2"}]
        cache(json.dumps(listing).encode(), folder("w2"))
    stages = read_lock()
    stages["train"]["outs"][0]["md5"] = folder("w2")
    stages["explain"]["deps"][1]["md5"] = "w2"
    write_lock(stages)
    (here,) = read([WORKSPACE, WORKSPACE])
    assert {name.partition(".")[0] for name in here.metrics} == {"train", "explain"}
    assert here.notes == (f"workspace: evaluate ran on another {WEIGHTS}, left out",)


def test_scores_of_weights_that_are_in_no_cache_are_left_out_too() -> None:
    stages = read_lock()
    stages["train"]["outs"][0]["md5"] = folder("w2")  # nothing ran on these
    write_lock(stages)
    (here,) = read([WORKSPACE, WORKSPACE])
    assert {name.partition(".")[0] for name in here.metrics} == {"train"}
    assert here.notes == tuple(
        f"workspace: {stage} ran on another {WEIGHTS}, left out"
        for stage in ("evaluate", "explain")
    )


def test_what_only_the_cache_could_say_is_named() -> None:
    stages = read_lock()
    stages["train"]["outs"][0] |= {"md5": "three.dir", "nfiles": 3}
    write_lock(stages)
    (here,) = read([WORKSPACE, WORKSPACE])
    assert here.metrics["evaluate.top1"] == 0.75
    assert here.notes == (f"workspace: {WEIGHTS} cannot be checked, `dvc fetch` helps",)


def test_a_missing_file_is_named() -> None:
    paths.EVALUATE_METRICS.unlink()
    (here,) = read([WORKSPACE, WORKSPACE])
    assert "evaluate.top1" not in here.metrics and "explain.srg" in here.metrics
    assert here.notes == ("workspace: metrics/evaluate.json is missing",)


def test_a_table_is_parsed_once() -> None:
    (here,) = read([WORKSPACE, WORKSPACE])
    assert here.table(paths.PREDICTIONS) is here.table(paths.PREDICTIONS)


def test_a_project_in_a_folder_of_a_repository_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("inner").mkdir()
    monkeypatch.chdir("inner")
    run(arch="resnet50")
    git("add", "-A")
    git("commit", "-qm", "inner")
    assert [each.params["arch"] for each in read(["HEAD", "HEAD"])] == ["resnet50"]
