"""Small real projects to break: four epochs of six steps, by the stage itself, in a few seconds."""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from abn.training.resume import DONE
from tests import test_stages

VICTIM = Path(__file__).with_name("_victim.py")
STEPS = 24
SMALL = {
    "data": {"size": 32, "shapes": {"train": 48, "val": 10}},
    "train": {"epochs": 4, "batch_size": 8, "sizes": [32], "val_size": 32, "val_resize": 32},
}
SCRATCH = ".resume"


@functools.cache
def prepared() -> Path:
    """A project whose data is packed; it goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="prepared-")
    prepared.keep = folder  # type: ignore[attr-defined]
    project = test_stages.copy(Path(folder.name))
    project.change(**SMALL)
    project.run("python -m stages.download")
    return Path(folder.name)


def project(folder: Path) -> Path:
    """A copy of it in `folder`, to break."""
    return Path(shutil.copytree(prepared(), folder / "project", ignore_dangling_symlinks=True))


@functools.cache
def expected() -> dict[str, str]:
    """What an uninterrupted training writes."""
    with tempfile.TemporaryDirectory() as folder:
        root = project(Path(folder))
        done = train(root)
        assert done.returncode == 0, done.stderr
        return outputs(root)


def outputs(root: Path) -> dict[str, str]:
    """The digests of what the train stage writes."""
    files = [*root.glob("checkpoint/*"), root / "metrics/train.json", root / "plots/history.csv"]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def environment(**more: str) -> dict[str, str]:
    """That of a stage, without what this process's own environment may ask of one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ABN_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"PATH": path, "ABN_TRACKING": "off", "ABN_DEVICE": "cpu"} | more


def train(root: Path, *faults: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the train stage in `root`, with `faults` as _victim.py has them."""
    command = [sys.executable, str(VICTIM), "train", *faults]
    return subprocess.run(
        command,
        cwd=root,
        env=environment(**env),
        text=True,
        capture_output=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )


def recovers(root: Path, words: str = "RESUMED", **env: str) -> float:
    """Assert that the same command now ends with the expected bytes; how long that took."""
    started = time.monotonic()
    again = train(root, **env)
    assert again.returncode == 0, again.stderr
    assert words in again.stderr, f"no {words} in {again.stderr}"
    assert outputs(root) == expected()
    assert leftovers(root) == []
    return time.monotonic() - started


def leftovers(root: Path) -> list[str]:
    """Temporary files, scratch and locks that should not be there any more."""
    odd = [*root.rglob("*.part"), *root.rglob(".tmp*"), *unfinished(root)]
    return [str(path) for path in [*odd, *root.glob(".cache/locks/*")]]


def unfinished(root: Path) -> list[Path]:
    """The trainings that have not ended: those that have keep a state until they are evaluated."""
    return [folder for folder in root.glob(f"{SCRATCH}/*") if not (folder / DONE).exists()]


def told(done: subprocess.CompletedProcess[str], kind: str, code: int) -> str:
    """Assert that a stage ended with one line of `kind` and its exit `code`; the line."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error[")]
    assert done.returncode == code, (done.returncode, done.stderr)
    assert len(lines) == 1 and lines[0].startswith(f"error[{kind}] "), done.stderr
    assert lines[0].count("; ") >= 2 and "Traceback" not in done.stderr, done.stderr
    return lines[0]
