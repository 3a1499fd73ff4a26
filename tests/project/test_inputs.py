"""A stage must end with the inputs it began with."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from abn.config.params import load
from abn.project import inputs
from abn.project.inputs import Inputs
from abn.runtime.errors import ChangedError

ROOT = Path(__file__).parents[2]
CODE = ("abn/training/loop.py", "abn/runtime/rng.py", "abn/visualize/figures.py", "stages/train.py")
DATA = ("data/train.safetensors", "data/val.safetensors", "images/cat/1.png")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As much of the project as the graph and its inputs are."""
    for name in ("params.yaml", "dvc.yaml", *CODE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in DATA:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"pixels")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def look(stage: str) -> Inputs:
    return inputs.look(stage, load(Path("params.yaml")))


def test_inputs_are_the_params_code_and_data_that_dvc_yaml_lists() -> None:
    found = look("train")
    assert found.params["arch"] == "resnet18" and found.params["train"]["epochs"] == 4
    keys = {"arch", "attention", "smooth", "seed", "data.seed", "data.holdout", "train"}
    assert found.params.keys() == keys
    assert set(found.code) == {"abn/training/loop.py", "abn/runtime/rng.py", "stages/train.py"}
    assert set(found.data) == {"data/train.safetensors", "data/val.safetensors"}


def test_a_folder_stands_for_all_files_in_it() -> None:
    assert set(look("download").data) == {"images/cat/1.png"}


def test_unchanged_inputs_pass() -> None:
    for stage in ("download", "train", "evaluate", "explain", "visualize"):
        look(stage).check()


def rewrite(name: str, old: bytes, new: bytes) -> Callable[[], None]:
    def change() -> None:
        path = Path(name)
        path.write_bytes(path.read_bytes().replace(old, new))

    return change


CHANGES = {
    "a param": (rewrite("params.yaml", b"lr: 0.03", b"lr: 0.04"), "train; params of train"),
    "a byte of code": (
        rewrite("abn/runtime/rng.py", b"digest_size=8", b"digest_size=7"),
        "abn/runtime/rng.py; code of train",
    ),
    "code that is gone": (
        lambda: Path("abn/runtime/rng.py").unlink(),
        "abn/runtime/rng.py; code of train",
    ),
    "a module more in a folder": (
        lambda: Path("abn/training/new.py").touch(),
        "abn/training/new.py; code of train",
    ),
    "a byte of data": (
        rewrite("data/train.safetensors", b"p", b"q"),
        "data/train.safetensors; data of train",
    ),
    "other data of the same size and time": (
        lambda: replaced(Path("data/val.safetensors")),
        "data/val.safetensors; data of train",
    ),
    "data that is gone": (
        lambda: Path("data/val.safetensors").unlink(),
        "data/val.safetensors; data of train",
    ),
}


def replaced(path: Path) -> None:
    stamp = path.stat()
    path.with_suffix(".new").write_bytes(b"PIXELS")
    path.with_suffix(".new").replace(path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_input_is_refused_by_name(name: str) -> None:
    change, words = CHANGES[name]
    before = look("train")
    change()
    with pytest.raises(ChangedError, match=f"changed while the stage ran: {words}; run the same"):
        before.check()


LITTER = [
    "__pycache__/train.cpython-311.pyc",
    ".train.py.swp",
    ".#train.py",
    "train.py~",
    ".DS_Store",
]


@pytest.mark.parametrize("name", LITTER)
def test_files_of_python_editors_and_desktops_are_not_inputs(name: str) -> None:
    before, file = look("train"), Path("abn/training", name)
    file.parent.mkdir(exist_ok=True)
    file.touch()
    before.check()


def test_they_are_not_inputs_to_dvc_either(project: Path) -> None:
    shutil.copy(ROOT / ".dvcignore", project)
    dvc = [Path(sys.executable).with_name("dvc")]
    subprocess.run([*dvc, "init", "--quiet", "--no-scm"], check=True)
    files = [f"abn/training/{name}" for name in ["train.py", *LITTER]]
    found = subprocess.run([*dvc, "check-ignore", *files], capture_output=True, text=True)
    assert found.stdout.split() == files[1:]


def test_what_only_another_stage_reads_may_change() -> None:
    before = look("train")
    rewrite("params.yaml", b"dpi: 200", b"dpi: 100")()
    rewrite("abn/visualize/figures.py", b"a", b"b")()
    before.check()
