"""The benchmarks, run for a moment on next to nothing: they must still run when they are needed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from abn.config.params import load
from benchmarks import measure
from benchmarks.measure import Turn
from tests.tars import imagenette
from tests.toys import saved

ROOT = Path(__file__).parent.parent
# What a machine that only computes may lack: an import of one of them fails.
ABSENT = ("dvc", "mlflow", "ruamel.yaml", "transformers", "accelerate")
WITHOUT = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"


def run(out: Path, module: str, *options: object, path: Path | None = None) -> None:
    """Run a benchmark in the project's root, with `path` before all others to import from."""
    words = [sys.executable, "-m", f"benchmarks.{module}", *map(str, options), "--out", str(out)]
    env = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(words, cwd=ROOT, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]


def found(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["found"]


@pytest.mark.parametrize("name", ["imagenette", "imagenette-fast", "imagenette-cpu", "folder"])
def test_a_recipe_is_the_preset(name: str) -> None:
    assert measure.recipe(name) == load(ROOT / f"presets/{name}.yaml")


def test_ratios_are_taken_within_a_round_and_the_median_is_reported() -> None:
    # theirs always needs twice as long, on a machine that is slower in every round
    rounds = [
        {"ours": Turn(10, slow, 0.1 * slow), "theirs": Turn(10, 2 * slow, slow)}
        for slow in (1.0, 2.0, 5.0)
    ]
    assert measure.ratio(rounds, "ours", "theirs") == 2
    assert measure.speeds(rounds) == {"ours": 5, "theirs": 2.5}
    assert measure.waiting(rounds, "ours") == pytest.approx(0.1)
    assert measure.waiting(rounds, "theirs") == 0.5


def test_the_first_step_of_a_turn_is_not_counted() -> None:
    learnt: list[int] = []
    turn = measure.timed(3, iter(range(10)), 8, learnt.append)
    assert learnt == [0, 1, 2, 3] and turn.images == 24
    assert 0 <= turn.waiting <= turn.seconds


def test_a_contestant_that_fails_says_why() -> None:
    with pytest.raises(ZeroDivisionError), measure.contest({"broken": _broken}, SimpleNamespace()):
        pass


def _broken(options: Any) -> Any:
    return 1 // 0


def test_ours_is_compared_with_the_step_alone_and_with_the_plain_way(tmp_path: Path) -> None:
    small = ("--images", 60, "--size", 32, "--batch", 4, "--rounds", 1, "--steps", 2)
    run(tmp_path, "rivals", *small, "--workers", 1, "--only", "ours", "bare", "plain")
    figures = found(tmp_path / "rivals-resnet18-32.json")
    assert set(figures) == {"ours", "bare", "plain"}
    for row in figures.values():
        assert row["images_per_second"] > 0 and row["peak_memory_gb"] > 0
    assert figures["ours"]["ours_is_times_as_fast"] == 1


def test_growth_is_measured_along_an_axis(tmp_path: Path) -> None:
    run(tmp_path, "growth", "--axes", "batch", "--points", 2, "--rounds", 1, "--images", 32)
    rows = found(tmp_path / "growth.json")["batch"]
    assert [row["batch"] for row in rows] == [16, 32]
    assert all(row["gflop_per_second"] > 0 for row in rows)


def test_packing_and_evaluation_are_measured(tmp_path: Path) -> None:
    (tmp_path / "mini.tgz").write_bytes(imagenette())
    small = ("--photos", tmp_path / "mini.tgz", "--size", 32, "--rounds", 1, "--limit", 0)
    run(tmp_path, "data", *small, "--batch", 10)
    figures = found(tmp_path / "data.json")
    assert figures["packing"]["images"] == 60
    assert figures["evaluation"]["times_the_bare_forward"] > 0


def test_the_gpus_benchmark_runs_without_dvc_mlflow_and_their_kind(tmp_path: Path) -> None:
    (tmp_path / "mini.tgz").write_bytes(imagenette())
    (tmp_path / "plan.yaml").write_text("trainings: [proxy5]\nseeds: [1, 2]\nviews: [24/32]\n")
    small = ("--photos", tmp_path / "mini.tgz", "--canvas", 48, "--size", 32, "--batch", 8)
    few = ("--arch", "resnet18", "--archs", "resnet18", "--steps", 2, "--rounds", 2)
    few += ("--explained", 2, "--profile", "quick", "--paced", "smooth18")
    few += ("--plan", tmp_path / "plan.yaml", "--seeds", 1)
    few += ("--set", "sizes=[32]", "grow_at=[]", "val_size=32", "val_resize=32", "epochs=2")
    sections = ("ceilings", "precision", "repetition", "throughput", "explanation", "paces")
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    run(tmp_path, "gpu", *small, *few, "--only", *sections, "accuracy", path=tmp_path)
    figures = found(tmp_path / "gpu-plan.json")
    assert [name for name in (*sections, "accuracy") if "failed" in figures[name]] == []
    assert figures["packing"]["images"] == 60
    assert figures["repetition"] == {"repeats": True, "resumes": True, "recorded_is_eager": True}
    assert figures["explanation"]["repeats"]
    assert len(figures["throughput"]["resnet18 auto"]["rounds"]["seconds_a_step"]) == 2
    shares = [share for share, seconds in figures["paces"]["smooth18"]["epochs"] if seconds > 0]
    assert shares == pytest.approx([0.94, 0.06])
    [training] = figures["accuracy"]["runs"]
    assert (training["variant"], training["seed"], training["finished"]) == ("proxy5", 1, True)
    assert not training["cold"]  # other sections came before
    assert [row["epoch"] for row in training["curve"]] == [1, 2]
    assert list(training["views"]) == ["32/32", "24/32"]
    assert training["views"]["32/32"]["top1"] == training["top1"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A recipe that trains for two steps."""
    recipe = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipe["data"]["size"] = 32
    recipe["data"]["shapes"] |= {"train": 64, "val": 20, "distractors": 0}
    recipe["train"] |= {"epochs": 1, "sizes": [32], "val_size": 32, "val_resize": 32}
    recipe["evaluate"] |= {"size": 32, "resize": 32}
    recipe["explain"] |= {"images": 10, "steps": 2}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="drops files from the page cache")
def test_a_large_data_set_is_measured_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    small = ("--images", 60, "--bases", 7, "--side", 96, "--size", 32, "--batch", 4, "--steps", 3)
    run(tmp_path, "scale", *small, "--work", tmp_path / "work")
    figures = found(tmp_path / "scale.json")
    assert list(figures) == ["files", "watch", "pack", "hash", "stream", "draws", "imagenet"]
    assert figures["files"]["images"] == figures["pack"]["images"] == 60
    assert figures["pack"]["gb"] * 1e9 > 60 * 64 * 64 * 3
    assert figures["stream"]["images_per_second"] > 0 and figures["stream"]["limit"]
    assert all(figures[name]["peak_rss_gb"] > 0 for name in list(figures)[:-1])
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_the_shortcut_is_rehearsed_in_parts(tiny: Path, tmp_path: Path) -> None:
    options = ("--params", tiny, "--images", 20, "--work", tmp_path / "work")
    run(tmp_path, "shortcut", *options, "--seeds", 0)
    run(tmp_path, "shortcut", *options, "--seeds", 1, "--attention", "look")
    seen = found(tmp_path / "shortcut.json")
    rounds = [(each["seed"], each["attention"]) for each in seen["rounds"]]
    assert rounds == [(0, "residual"), (0, "look"), (1, "look")]
    for each in seen["rounds"]:
        for network in each["networks"].values():
            assert 0 <= network["reliance"] <= 1 and network["cpu_seconds"] > 0
            assert network["importance_distractors"] is None  # there are none
        assert {"attention", "gradcam", "centre", "random"} <= each["maps"].keys()
        assert each["maps"]["random"]["youden"] == 0
    assert seen["summary"]["modes"]["look"]["seeds"] == [0, 1]


@pytest.mark.slow
def test_trainings_from_several_seeds_are_each_others_siblings(tiny: Path, tmp_path: Path) -> None:
    options = ("--params", tiny, "--work", tmp_path / "work", "--seeds", 1, 2)
    options += ("--attention", "look", "-S", "explain.steps=3", "--images", 4)
    run(tmp_path, "seeds", *options, "--label", "small")
    seen = found(tmp_path / "seeds-small.json")
    assert [(row["attention"], row["seed"]) for row in seen["trainings"]] == [
        ("look", 1),
        ("look", 2),
    ]
    assert all(0 <= row["explain"]["stability"] <= 1 for row in seen["trainings"])
    (mode,) = seen["summary"]["modes"].values()
    assert sum(mode["words"]["verdict"].values()) == 2
    assert mode["numbers"]["evaluate.top1"]["trainings"] == 2
    run(tmp_path, "seeds", *options, "--label", "again")
    assert found(tmp_path / "seeds-again.json") == seen  # all of it was kept


@pytest.mark.slow
def test_a_sweep_is_run_in_three_ways_then_mirrored_again_and_one_is_killed(tmp_path: Path) -> None:
    run(tmp_path, "sweep", "--rounds", 1, "--archs", "resnet18", "--seeds", 1, 2, "--train", 200)
    seen = found(tmp_path / "sweep.json")
    assert seen["same_bytes"]["two_at_a_time"] == [2]
    for way in ("one_by_one", "one_by_one_with_fewer_threads", "two_at_a_time"):
        assert seen[way]["results"] == [2] and not seen[way]["left"]
    assert seen["sync"]["runs"] == 2 and seen["sync"]["same_names"] and seen["sync"]["other"] == []
    assert seen["killed"]["same_bytes"] and seen["killed"]["resumed"]


@pytest.mark.slow
def test_an_exported_network_is_compared_with_its_source(tmp_path: Path) -> None:
    small = ("--sizes", 64, "--batches", 1, 16, "--rounds", 1)
    checkpoint = saved(tmp_path / "weights", ("cat", "dog"), 64, 64)
    run(tmp_path, "exported", "--checkpoints", checkpoint, *small)
    rows = found(tmp_path / "exported.json")
    assert [(row["attention"], row["size"], row["batch"]) for row in rows] == [
        ("residual", 64, 1),
        ("residual", 64, 16),
    ]
    for row in rows:
        assert max(row[f"{x}_difference"] for x in ("logits", "attention_logits")) <= 1e-4
        assert min(row["torch_ms"], row["onnx_ms"], row["torch_cpu_ms"], row["onnx_cpu_ms"]) > 0
