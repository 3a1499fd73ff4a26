"""The download stage as a process of its own, in a project with params of its own."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from abn.config import params as parameters
from abn.config.params import Data
from tests.faults import _project

ROOT = Path(__file__).parents[2]
OUTPUTS = ("train.safetensors", "val.safetensors")
COMMAND = [sys.executable, "-m", "stages.download"]


def config(**changes: object) -> Data:
    """The committed data section, small and with `changes`."""
    data = parameters.load(ROOT / "params.yaml").data
    shapes = data.shapes.model_copy(update={"train": 40, "val": 10})
    return data.model_copy(update={"size": 32, "shapes": shapes} | changes)


def project(folder: Path, **changes: object) -> Path:
    """`folder`, with the code, and a params.yaml whose data section is `config(**changes)`."""
    for name in ("abn", "stages"):
        no_cache = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=no_cache)
    shutil.copy(ROOT / "dvc.yaml", folder)
    yaml = YAML()
    values = yaml.load(ROOT / "params.yaml")
    values["data"] = config(**changes).model_dump(mode="json")
    yaml.dump(values, folder / "params.yaml")
    return folder


def environment() -> dict[str, str]:
    return _project.environment(PYTHONPATH=str(ROOT), NO_PROXY="127.0.0.1", OMP_NUM_THREADS="1")


def start(folder: Path, *before: str) -> "subprocess.Popen[str]":
    """The stage, running; `before` is a command that runs it."""
    return subprocess.Popen(
        [*before, *COMMAND],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *before: str) -> tuple[int, str]:
    """The stage to its end: its exit code, and the last line of what it said."""
    process = start(folder, *before)
    _, said = process.communicate(timeout=120)
    assert "Traceback" not in said, said
    return process.returncode, said.rstrip().rpartition("\n")[2]


def outputs(folder: Path) -> dict[str, str]:
    """The digest of each output that is there."""
    found = {name: folder / "data" / name for name in OUTPUTS}
    return {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in found.items() if p.exists()}


def leftovers(folder: Path) -> list[str]:
    """Temporary files and locks of the stage that should not be there any more."""
    return [*_project.leftovers(folder), *map(str, folder.glob(".cache/downloads/**/*.lock"))]
