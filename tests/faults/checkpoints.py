"""Files that are no checkpoint, or a false one: each is refused before it can do or say anything.

A small network stands in for the real one, which makes no difference to what is refused.
"""

import io
import json
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from abn.models import checkpoint
from abn.runtime.errors import DataError
from tests import test_stages, toys
from tests.faults import Outcome, kind
from tests.faults._project import environment

META: dict[str, Any] = {
    "arch": "resnet18",
    "classes": toys.NAMES,
    "params": {
        "seed": 0,
        "train": {"epochs": 2, "batch_size": 8, "sizes": [32]},
        "data": {"holdout": 0.0},
    },
}
NONE = "not a checkpoint of this project"


def stand_in(arch: str, classes: int) -> toys.Network:
    return toys.Network(classes)


def content(tensors: dict[str, Tensor] | None = None, **meta: Any) -> bytes:
    """A checkpoint of the small network, with some tensors and some of what it says replaced."""
    state = checkpoint.weights(toys.network()) | (tensors or {})
    return save(state, {"abn": json.dumps(META | meta)})


def spoiled(name: str, value: float) -> bytes:
    """A checkpoint with one weight replaced."""
    tensor = checkpoint.weights(toys.network())[name]
    tensor.view(-1)[-1] = value
    return content({name: tensor})


def headed(length: int) -> bytes:
    """A checkpoint that says its header is `length` bytes long."""
    return length.to_bytes(8, "little") + content()[8:]


class Poison:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


def as_pickle(marker: Path) -> bytes:
    return pickle.dumps(Poison(marker))


def as_pth(marker: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"fc.weight": torch.zeros(2), "poison": Poison(marker)}, file)
    return file.getvalue()


# What the file holds, and what is said of it.
FALSE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, NONE),
    "text": (lambda: b"<html>not found</html>", NONE),
    "cut in the header": (lambda: content()[:100], NONE),
    "cut by its last byte": (lambda: content()[:-1], NONE),
    "a byte too long": (lambda: content() + b"\0", NONE),
    "a header longer than the file": (lambda: headed(10**6), NONE),
    "a header of 2 MiB": (lambda: headed(1 << 21), "a header of 2097152 bytes"),
    "a header of 2**63 bytes": (lambda: headed(1 << 63), "a header of 9223372036854775808 bytes"),
    "another project's": (lambda: save({"fc.weight": torch.zeros(1)}), NONE),
    "says nothing in JSON": (lambda: save({}, {"abn": "resnet18"}), NONE),
    "says a list": (lambda: save({}, {"abn": "[]"}), NONE),
    "nested 100,000 deep": (lambda: save({}, {"abn": "[" * 100_000}), NONE),
    "another arch": (lambda: content(arch="vgg16"), "arch: Input should be 'resnet18'"),
    "no classes": (lambda: content(classes=[]), "classes: "),
    "a class twice": (lambda: content(classes=["red", "red", "a", "b"]), "one twice"),
    "a class that is a number": (lambda: content(classes=["a", "b", "c", 7]), "classes.3: "),
    "a class more": (lambda: content(classes=[*toys.NAMES, "x"]), r"where the network has F32 \[5"),
    "50,000 classes": (
        lambda: content(classes=list(map(str, range(50_000)))),
        "too small for 50000 classes",
    ),
    "params that are none": (lambda: content(params=[]), "params: "),
    "params of another training": (lambda: content(params={"seed": 0}), "params.train: "),
    "a tensor is missing": (
        lambda: save({}, {"abn": json.dumps(META)}),
        r"att_conv2.bias holds nothing where the network has F32 \[4\]",
    ),
    "a tensor too many": (
        lambda: content({"\x1b[2J" * 99: torch.zeros(2)}),
        r"holds F32 \[2\] where the network has nothing",
    ),
    "another shape": (
        lambda: content({"fc.bias": torch.zeros(5)}),
        r"fc.bias holds F32 \[5\] where the network has F32 \[4\]",
    ),
    "another type": (
        lambda: content({"fc.bias": torch.zeros(4, dtype=torch.float16)}),
        r"fc.bias holds F16 \[4\] where the network has F32 \[4\]",
    ),
    "a weight is no number": (lambda: spoiled("fc.weight", float("nan")), "fc.weight holds values"),
    "a weight is infinite": (lambda: spoiled("bn1.running_var", float("inf")), "bn1.running_var"),
}


def refused(path: Path, said: str) -> Outcome:
    """Assert that `path` is refused in one line that holds `said`."""
    before = time.monotonic()
    with (
        mock.patch.object(checkpoint, "AttentionBranchNetwork", stand_in),
        pytest.raises(DataError, match=rf"{said}.*model\.safetensors; ") as caught,
    ):
        checkpoint.load(path, toys.CPU)
    line = caught.value.line()
    assert line.isprintable() and len(line) < 500, line
    return Outcome("error[DATA]", seconds=time.monotonic() - before)


def _false(make: Callable[[], bytes], said: str, folder: Path, draws: random.Random) -> Outcome:
    path = folder / "model.safetensors"
    path.write_bytes(content())
    with mock.patch.object(checkpoint, "AttentionBranchNetwork", stand_in):
        assert checkpoint.load(path, toys.CPU).classes == toys.NAMES  # the whole one is accepted
    path.write_bytes(make())
    return refused(path, said)


for _name, (_make, _said) in FALSE.items():
    kind("checkpoints", _name)(partial(_false, _make, _said))


def _nothing(path: Path) -> None:
    """Nothing there."""


NO_FILE: dict[str, Callable[[Path], Any]] = {
    "missing": _nothing,
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
}


def _no_file(make: Callable[[Path], Any], folder: Path, draws: random.Random) -> Outcome:
    make(folder / "model.safetensors")
    return refused(folder / "model.safetensors", "no such checkpoint")


for _name, _put in NO_FILE.items():
    kind("checkpoints", _name)(partial(_no_file, _put))


@kind("checkpoints", "bits flipped in the header")
def flipped(folder: Path, draws: random.Random) -> Outcome:
    """What is not refused is the same network, of which the header says another word."""
    whole, path, seconds = content(), folder / "model.safetensors", 0.0
    end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(40):
        data = bytearray(whole)
        data[draws.randrange(end)] ^= 1 << draws.randrange(8)
        path.write_bytes(data)
        before = time.monotonic()
        with mock.patch.object(checkpoint, "AttentionBranchNetwork", stand_in):
            try:
                state = checkpoint.load(path, toys.CPU).model.state_dict()
            except DataError as error:
                assert error.line().isprintable()
            else:
                expected = toys.network().state_dict()
                assert all(state[name].equal(tensor) for name, tensor in expected.items())
        seconds = max(seconds, time.monotonic() - before)
    return Outcome("error[DATA], or the same network", seconds=seconds)


def _poisoned(make: Callable[[Path], bytes], folder: Path, draws: random.Random) -> Outcome:
    marker, path = folder / "marker", folder / "model.safetensors"
    control = as_pickle(marker)
    pickle.loads(control)  # the control: the poison works
    assert marker.exists()
    marker.unlink()
    path.write_bytes(make(marker))
    outcome = refused(path, NONE)
    assert not marker.exists()
    return outcome


kind("checkpoints", "a pickle that runs code")(partial(_poisoned, as_pickle))
kind("checkpoints", "a .pth that runs code")(partial(_poisoned, as_pth))


def _evaluated(make: Callable[[Path], bytes], folder: Path, draws: random.Random) -> Outcome:
    """The stage itself, on the real network."""
    root = test_stages.copy(folder / "project").root
    marker, path = root / "marker", root / "checkpoint" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(make(marker))
    known = set(root.rglob("*"))
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "stages.evaluate"],
        cwd=root,
        env=environment(),
        text=True,
        capture_output=True,
    )
    seconds = time.monotonic() - before
    assert done.returncode == 3 and done.stdout == "", done.stderr
    assert done.stderr.startswith("error[DATA] ") and done.stderr.count("\n") == 1
    new = {file.name for file in set(root.rglob("*")) - known if "__pycache__" not in file.parts}
    assert new <= {".cache", "locks", "evaluate.lock"}, new
    return Outcome("error[DATA], exit 3", seconds=seconds)


kind("checkpoints", "a .pth that runs code, to evaluate")(partial(_evaluated, as_pth))
kind("checkpoints", "a smaller network, to evaluate", slow=True)(
    partial(_evaluated, lambda _: content())
)
