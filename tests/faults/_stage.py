"""The download stage as a process of its own, in an empty folder with params of its own."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from abn import params as parameters
from abn.params import Data

ROOT = Path(__file__).parents[2]
OUTPUTS = ("train.safetensors", "val.safetensors")
COMMAND = [sys.executable, "-m", "stages.download"]


def config(**changes: object) -> Data:
    """The committed data section, small and with `changes`."""
    data = parameters.load(ROOT / "params.yaml").data
    shapes = data.shapes.model_copy(update={"train": 40, "val": 10})
    return data.model_copy(update={"size": 32, "shapes": shapes} | changes)


def project(folder: Path, **changes: object) -> Path:
    """`folder`, with a params.yaml whose data section is `config(**changes)`."""
    yaml = YAML()
    values = yaml.load(ROOT / "params.yaml")
    values["data"] = config(**changes).model_dump(mode="json")
    folder.mkdir(exist_ok=True)
    yaml.dump(values, folder / "params.yaml")
    return folder


def environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    return env | {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}


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
    """Files of `folder` that are neither its params, nor outputs, nor an archive that is kept."""
    kept = {"params.yaml", "imagenette.tgz", *OUTPUTS}
    return [str(p) for p in folder.rglob("*") if p.is_file() and p.name not in kept]
