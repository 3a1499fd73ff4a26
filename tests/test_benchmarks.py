"""The benchmarks, run for a moment on next to nothing: they must still run when they are needed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from abn.params import load
from benchmarks import measure
from benchmarks.measure import Turn
from tests.test_stages import archive

ROOT = Path(__file__).parent.parent
# What a machine that only computes may lack: an import of one of them fails.
ABSENT = ("dvc", "mlflow", "ruamel.yaml", "torchvision", "transformers", "accelerate")
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


def test_ratios_are_taken_within_a_round_and_the_median_is_told() -> None:
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
    archive(tmp_path / "mini.tgz")
    small = ("--photos", tmp_path / "mini.tgz", "--size", 32, "--rounds", 1, "--limit", 0)
    run(tmp_path, "data", *small, "--batch", 10)
    figures = found(tmp_path / "data.json")
    assert figures["packing"]["images"] == 60
    assert figures["evaluation"]["times_the_bare_forward"] > 0


def test_the_gpus_benchmark_runs_without_dvc_mlflow_and_their_kind(tmp_path: Path) -> None:
    archive(tmp_path / "mini.tgz")
    small = ("--photos", tmp_path / "mini.tgz", "--size", 32, "--batch", 8, "--steps", 2)
    few = ("--arch", "resnet18", "--archs", "resnet18", "--epochs", 1, "--seeds", 1)
    sections = ("ceilings", "precision", "repetition", "throughput", "accuracy")
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    run(tmp_path, "gpu", *small, *few, "--only", *sections, path=tmp_path)
    figures = found(tmp_path / "gpu.json")
    assert [name for name in sections if "failed" in figures[name]] == []
    assert figures["repetition"] == {"repeats": True, "resumes": True, "recorded_is_eager": True}
    assert [run["epochs"] for run in figures["accuracy"]["runs"]] == [1]
