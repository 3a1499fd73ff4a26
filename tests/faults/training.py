"""Trainings that are killed, stopped, starved and deceived, by the real stage in a process."""

import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults import Outcome, _project, kind
from tests.faults._project import STEPS, expected, project, recovers, told, train

GROUP = "training"
SAME = "the same bytes"
EACH_STEP = {"ABN_CHECKPOINT_EVERY": "0"}


def _killed(folder: Path, step: int) -> Outcome:
    root = project(folder)
    done = train(root, f"send:SIGKILL@{step}", **EACH_STEP)
    assert done.returncode == -signal.SIGKILL and not (root / "checkpoint").exists()
    return Outcome(SAME, seconds=recovers(root, "RESUMED" if step > 1 else "FRESH"))


@kind(GROUP, "kill -9 in the middle of an epoch")
def _(folder: Path, draws: random.Random) -> Outcome:
    return _killed(folder, draws.randrange(2, 6))


@kind(GROUP, f"kill -9 after every step of {STEPS}", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    ended = [_killed(folder / str(step), step) for step in range(1, STEPS + 1)]
    return Outcome(f"{len(ended)} of {STEPS} times {SAME}", seconds=max(o.seconds for o in ended))


@kind(GROUP, "kill -9 twice in one training", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = project(folder)
    for step in (4, 5):
        assert train(root, f"send:SIGKILL@{step}", **EACH_STEP).returncode == -signal.SIGKILL
    return Outcome(SAME, seconds=recovers(root))


def _stopped(name: str, folder: Path, draws: random.Random) -> Outcome:
    """By default no state is saved in the first ten minutes: it is the signal that saves it."""
    root, step = project(folder), draws.randrange(1, STEPS)
    done = train(root, f"send:{name}@{step}")
    assert done.returncode == 143, done.stderr
    assert done.stderr.splitlines()[-1].startswith("stopped with a checkpoint; the same command")
    epoch, after = divmod(step, 6)
    words = f"RESUMED after epoch {epoch}, step {after} of the next"
    also = f"RESUMED after epoch {epoch - 1}, step 6 of the next"  # before its validation
    return Outcome(f"exit 143, {SAME}", seconds=recovers(root, words if after else also))


for _name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"):
    kind(GROUP, f"{_name} in a step", slow=_name != "SIGTERM")(partial(_stopped, _name))


def _changed(file: str, folder: Path, draws: random.Random) -> Outcome:
    root = project(folder)
    before = (root / file).read_bytes()
    line = told(train(root, f"edit:{file}@9"), "CHANGED", 4)
    name = "train" if file == "params.yaml" else file
    assert name in line and not (root / "checkpoint").exists()
    changed = train(root, "send:SIGKILL@1")
    assert "FRESH" in changed.stderr, "a state of the old inputs was taken for one of the new"
    (root / file).write_bytes(before)
    return Outcome("error[CHANGED], exit 4; put back: the same bytes", seconds=_end(root))


def _end(root: Path) -> float:
    """The training of the old inputs was done: it is not done again."""
    seconds = 0.0
    again = train(root, "send:SIGKILL@1")
    assert again.returncode == 0 and "RESUMED after epoch 4, step 0" in again.stderr, again.stderr
    assert _project.outputs(root) == expected()
    return seconds


EDITED = (
    "params.yaml",
    "abn/training/augment.py",
    "abn/project/paths.py",
    "data/train.safetensors",
)
for _file in EDITED:
    kind(GROUP, f"{_file} is edited meanwhile", slow=True)(partial(_changed, _file))


def _refused(fault: str, error: str, code: int, folder: Path, draws: random.Random) -> Outcome:
    root = project(folder)
    line = told(train(root, f"{fault}@8"), error, code)
    assert not (root / "checkpoint").exists()
    if error == "DEVICE":
        assert "train.batch_size = 8; try 4" in line
    return Outcome(f"error[{error}], exit {code}")


Refusal = Callable[[Path, random.Random], Outcome]
for _what, _fault, _error, _code in (
    ("the loss is no number any more", "nan", "NOTFINITE", 6),
    ("CUDA is out of memory", "memory:cuda", "DEVICE", 7),
    ("memory is exhausted", "memory:cpu", "DEVICE", 7),
    ("the disk is full when the outputs are written", "disk:ENOSPC", "DISK", 5),
    ("the disk fails when the outputs are written", "disk:EIO", "DISK", 5),
):
    _inject: Refusal = partial(_refused, _fault, _error, _code)
    kind(GROUP, _what, slow=True)(_inject)
