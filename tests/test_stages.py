"""The whole graph run by DVC, on tiny data, in a copy of the project."""

import hashlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from tests.servers import serving
from tests.tars import imagenette

ROOT = Path(__file__).parent.parent
TINY = {
    "data": {"size": 32, "shapes": {"train": 60, "val": 20}},
    "train": {"epochs": 2, "batch_size": 20, "sizes": [32], "save_every": 1},
    "evaluate": {"size": 32, "resize": 32},
    "explain": {"images": 10, "steps": 2},
    "visualize": {"dpi": 50},
}
STAGES = ("download", "train", "evaluate", "explain", "visualize")
IDENTITY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}


WATCH = """
import os, sys

def hook(event, args):
    if event == "pickle.find_class":
        note(f"unpickles {args[0]}.{args[1]}")

def note(what):
    ours = [word for word in sys.orig_argv if word.startswith(("stages.", "abn."))]
    with open(os.environ["WATCHED"], "a") as file:
        file.write(f"{ours[0]} {what}{os.linesep}" if ours else "")

sys.addaudithook(hook)
note("starts")
"""


class Project:
    """A copy of the project in a git repository of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.watch: dict[str, str] = {}
        bin_folder = Path(sys.executable).parent
        own = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        self.env = own | IDENTITY | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}

    def run(self, command: str, code: int = 0, **env: str) -> str:
        """Run `command`, expect its exit `code`; all that it printed."""
        done = subprocess.run(
            command,
            shell=True,
            cwd=self.root,
            env=self.env | env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, f"{command}\n{done.stdout}"
        return done.stdout

    def change(self, **sections: object) -> None:
        """Change values in params.yaml."""
        path = self.root / "params.yaml"
        values = yaml.safe_load(path.read_text())
        merge(values, sections)
        path.write_text(yaml.safe_dump(values, sort_keys=False))

    def outputs(self) -> dict[str, str]:
        """The md5 of every file that stages write."""
        folders = ("data", "checkpoint", "metrics", "plots", "outputs")
        files = [f for name in folders for f in sorted((self.root / name).rglob("*.*"))]
        files = [f for f in files if f.is_file() and f.name != ".gitignore"]
        return {str(f.relative_to(self.root)): md5(f) for f in files}

    def files_with(self, *words: str) -> set[str]:
        """The files, but for those of git and DVC, that contain one of `words`."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        names = {str(path.relative_to(self.root)): path.read_bytes() for path in files}
        ours = {k: v for k, v in names.items() if not k.startswith((".git/", ".dvc/"))}
        return {k for k, v in ours.items() if any(word.encode() in v for word in words)}

    def metrics(self, stage: str) -> dict[str, float]:
        return json.loads((self.root / "metrics" / f"{stage}.json").read_text())

    def tracked(self) -> list[tuple[str, float]]:
        """arch and top-1 of every run in MLflow's database."""
        query = """select params.value, latest_metrics.value from runs
            join params using (run_uuid) join latest_metrics using (run_uuid)
            where params.key = 'arch' and latest_metrics.key = 'evaluate/top1'
            and runs.status = 'FINISHED' order by params.value"""
        with sqlite3.connect(self.root / "mlflow.db") as database:
            return database.execute(query).fetchall()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def merge(values, changes) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(values[key], value)
        else:
            values[key] = value


def copy(root: Path) -> Project:
    """The working tree as git would commit it, with tiny params."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    project = Project(root)
    project.change(**TINY)
    project.run("git init -q && git add -A && git commit -qm start")
    return project


def watching(folder: Path) -> dict[str, str]:
    """An environment in which every Python process notes what it unpickles."""
    (folder / "sitecustomize.py").write_text(WATCH)
    return {"PYTHONPATH": str(folder), "WATCHED": str(folder / "watched")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Project:
    """A project whose graph has run once on tiny shapes, committed."""
    project = copy(tmp_path_factory.mktemp("finished"))
    project.watch = watching(tmp_path_factory.mktemp("watch"))
    project.run("dvc repro", **project.watch)
    project.run("git add -A && git commit -qm ran")
    return project


@pytest.fixture
def project(tmp_path) -> Project:
    return copy(tmp_path)


def test_the_graph_writes_all_outputs_and_is_then_up_to_date(finished):
    outputs = finished.outputs()
    assert "checkpoint/epoch-0002.safetensors" in outputs
    assert {"outputs/abn_attentions.png", "outputs/report.html"} < outputs.keys()
    pictures = {name for name in outputs if name.startswith("outputs/gallery/")}
    assert "outputs/gallery/ring-best.png" in pictures
    assert len(outputs.keys() - pictures) == 21
    assert "Data and pipelines are up to date" in finished.run("dvc repro")
    assert "up to date" in finished.run("dvc status")
    (training,) = (finished.root / ".resume").iterdir()
    assert (training / "done").exists()


def test_no_stage_unpickles_anything(finished):
    command = """python -c 'import pickle; pickle.loads(pickle.dumps(print))' stages.control"""
    finished.run(command, **finished.watch)
    notes = Path(finished.watch["WATCHED"]).read_text().splitlines()
    assert {f"stages.{name} starts" for name in STAGES} < set(notes)
    assert {n for n in notes if "unpickles" in n} == {"stages.control unpickles builtins.print"}


def test_a_forced_second_run_gives_the_same_bytes(finished):
    before = finished.outputs()
    finished.run(
        "dvc repro -f",
        ABN_RESUME="never",  # else the finished training is restored, not repeated
        ABN_TRACKING="off",
        TZ="Asia/Tokyo",
        LANG="C",
        LC_ALL="C",
        PYTHONHASHSEED="7",
    )
    assert finished.outputs() == before
    assert finished.run("git status --porcelain") == ""


def test_the_report_has_the_verdict_of_the_metrics(finished):
    page = (finished.root / "outputs" / "report.html").read_text()
    verdict = finished.metrics("explain")["verdict"]
    assert verdict == "not measured"  # ten images are too few for an interval
    assert "<strong>Not measured" in page and "shapes, seed 0" in page


@pytest.mark.slow
def test_an_experiment_shows_up_in_dvcs_tables_and_in_mlflow(finished):
    finished.run("dvc exp run -n deeper -S arch=resnet34 -S train.epochs=1")
    assert "resnet34" in finished.run("dvc params diff")
    assert "loss" in finished.run("dvc metrics diff")
    table = finished.run("dvc exp show --csv")
    assert "deeper" in table and "resnet34" in table
    assert "file://" in finished.run("dvc plots diff")
    assert [arch for arch, _ in finished.tracked()] == ["resnet18", "resnet34"]
    finished.run("git checkout -q . && dvc checkout -q")
    assert "up to date" in finished.run("dvc status")


@pytest.mark.slow
def test_plots_are_compared_where_the_pictures_of_head_were_never_made(finished, tmp_path):
    finished.run(f"git clone -q . {tmp_path / 'clone'}")
    clone = Project(tmp_path / "clone")
    assert "file://" in clone.run("dvc plots diff")
    assert "vegaEmbed('#Loss'" in (clone.root / "dvc_plots" / "index.html").read_text("utf-8")


@pytest.mark.slow
def test_a_temporary_experiment_is_tracked_in_the_main_project(finished):
    runs = len(finished.tracked())
    finished.run("dvc exp run --temp -n aside -S seed=7 -S train.epochs=1")
    assert len(finished.tracked()) == runs + 1
    assert "up to date" in finished.run("dvc status")


@pytest.mark.slow
def test_a_network_of_another_seed_is_explained_on_the_same_images(finished):
    finished.run("dvc exp run --temp -n other -S seed=8 -S train.epochs=1")
    commit = finished.run("git for-each-ref --format='%(objectname)' 'refs/exps/*/*/other'").strip()
    path = "plots/explain_images.csv"
    rows = finished.run(f"git show {commit}:{path}"), (finished.root / path).read_text("utf-8")
    theirs, ours = (pd.read_csv(io.StringIO(text)) for text in rows)
    assert theirs["index"].equals(ours["index"])
    assert not theirs["confidence"].equals(ours["confidence"])


@pytest.mark.slow
def test_pulled_outputs_are_not_computed_again(finished, tmp_path):
    store, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    finished.run(f"dvc remote add -f -d store {store} && dvc push && git add -A")
    finished.run("git commit -qm remote")
    finished.run(f"git clone -q . {elsewhere}")
    clone = Project(elsewhere)
    clone.run("dvc pull")
    assert clone.outputs() == finished.outputs()
    assert "Data and pipelines are up to date" in clone.run("dvc repro")


def test_any_checkpoint_can_be_evaluated_without_training(finished):
    finished.change(evaluate={"checkpoint": "checkpoint/epoch-0001.safetensors"})
    before = finished.metrics("evaluate")
    text = finished.run("dvc repro -s evaluate")
    assert "Running stage 'evaluate'" in text and "train" not in text
    assert finished.metrics("evaluate")["loss"] != before["loss"]
    finished.run("git checkout -q . && dvc checkout -q")


def test_an_evaluation_of_no_size_is_as_the_network_was_validated(finished):
    """TINY trains on crops of 32 px, validates on 64 and evaluates on 32."""
    validated = finished.metrics("train")["val_loss"]
    assert finished.metrics("evaluate")["loss"] != validated
    finished.change(evaluate={"size": None, "resize": None})
    assert "Running stage 'evaluate'" in finished.run("dvc repro -s evaluate")
    assert finished.metrics("evaluate")["loss"] == validated
    finished.run("git checkout -q . && dvc checkout -q")


def test_a_report_on_weights_that_were_not_explained_is_refused(finished):
    finished.change(visualize={"checkpoint": "checkpoint/epoch-0001.safetensors"})
    text = finished.run("python -m stages.visualize", code=2)
    assert "error[PARAMS] not explain.checkpoint; visualize.checkpoint; name" in text
    finished.run("git checkout -q .")


@pytest.mark.slow
def test_an_archive_is_fetched_over_http_and_goes_through_the_whole_graph(project):
    archive = imagenette()
    checksum = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    with serving(archive) as server:
        url = server.url.replace("://", "://me:password-7@") + "?key=token-7"
        project.change(data={"name": "imagenette", "url": url, "md5": checksum})
        text = project.run("dvc repro train") + project.run("dvc repro", ABN_TRACKING="off")
    assert "password-7" not in text and "token-7" not in text
    assert project.files_with("password-7", "token-7") == {"params.yaml", "dvc.lock"}
    assert project.metrics("explain")["images"] == 10
    assert "auroc" not in project.metrics("explain")  # no masks, nothing to find
    assert "not measured" in (project.root / "outputs" / "report.html").read_text()


def test_images_behind_a_link_are_read_and_watched(project, tmp_path_factory):
    photos, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("a/1", "a/2", "b/1", "b/2"):
        (photos / name).parent.mkdir(exist_ok=True)
        pixels = draws.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{name}.png")
    (project.root / "photos").symlink_to(photos)
    project.change(data={"name": "folder", "root": "photos"})
    project.run("dvc repro download")
    (photos / "a/1.png").unlink()
    assert "modified:           photos" in project.run("dvc status download")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exp run --temp", "exp run --queue"])
def test_an_experiment_in_a_copy_sees_own_images_that_git_ignores(project, how):
    draws = np.random.default_rng(0)
    for name in [f"{split}/{c}/{i}" for split in ("train", "val") for c in "ab" for i in range(3)]:
        file = project.root / f"images/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (40, 50, 3), np.uint8)).save(file)
    before = {file: file.read_bytes() for file in (project.root / "images").rglob("*.png")}
    project.change(data={"name": "folder"}, train={"batch_size": 4, "epochs": 1})
    project.run("rm dvc.lock && dvc repro download && git add -A && git commit -qm own")
    lock = (project.root / "dvc.lock").read_text()
    deps = yaml.safe_load(lock)["stages"]["download"]["deps"]
    watched = next(dep for dep in deps if dep["path"] == "images")
    assert watched["nfiles"] == 13  # and .gitkeep

    project.run(f"dvc {how} -n first -S data.size=40 download")
    if "queue" in how:
        project.run("dvc exp run --run-all")
    ref = project.run("git for-each-ref --format='%(refname)' 'refs/exps/**/first'").strip()
    project.run(f"git show {ref}:dvc.lock > dvc.lock && git show {ref}:params.yaml > params.yaml")
    assert {file: file.read_bytes() for file in before} == before
    stage = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]["download"]
    assert watched in stage["deps"] and stage["params"]["params.yaml"]["data.size"] == 40
    assert "images" not in project.run("dvc status download")
    next(iter(before)).unlink()
    assert "modified:           images" in project.run("dvc status download")


def test_the_finished_weights_say_which_images_are_unlike_the_training_data(finished):
    names = sorted(path.name for path in (finished.root / "checkpoint").iterdir())
    assert names == ["epoch-0001.safetensors", "epoch-0002.safetensors", "model.safetensors"]
    headers = []
    for name in names:
        with safe_open(finished.root / "checkpoint" / name, "pt") as file:
            headers.append(json.loads(file.metadata()["abn"]))
    assert ["unlike_below" in header for header in headers] == [False, False, True]
    assert isinstance(headers[2]["unlike_below"], float)


def test_a_training_starts_from_a_file_that_is_an_input_of_the_run(finished):
    """Its checksum is a parameter: DVC sees a change of it, and another file is refused."""
    finished.run("mkdir starts && cp checkpoint/model.safetensors starts/a.safetensors")
    digest = hashlib.sha256((finished.root / "starts/a.safetensors").read_bytes()).hexdigest()
    finished.change(train={"init": "starts/a.safetensors", "freeze": "layer1", "epochs": 1})
    text = finished.run("python -m stages.train", code=2)
    assert f"train.init_sha256; if the file is the one you mean, set it to {digest}" in text
    finished.change(train={"init_sha256": digest})
    text = finished.run("dvc repro train")
    assert "init starts/a.safetensors" in text and "new, random: nothing" in text
    with safe_open(finished.root / "starts/a.safetensors", "pt") as file:
        start = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
    with safe_open(finished.root / "checkpoint/model.safetensors", "pt") as file:
        held = {name for name, x in start.items() if x.equal(file.get_tensor(name))}
    assert {"conv1.weight", "bn1.running_mean", "layer1.1.bn2.running_var"} <= held
    assert {"layer2.0.conv1.weight", "fc.weight", "bn_att.running_mean"}.isdisjoint(held)
    finished.run("cp data/val.safetensors starts/a.safetensors")
    assert "not the file that was named" in finished.run("python -m stages.train", code=2)
    finished.run("rm -r starts && git checkout -q . && dvc checkout -q")


def test_a_missing_checkpoint_is_one_line(project):
    text = project.run("python -m stages.evaluate", code=3)
    assert "error[DATA] no such checkpoint; checkpoint/model.safetensors; " in text
    assert "Traceback" not in text
