"""Saving a state, killed or refused by the disk at each of its system calls, by strace."""

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from abn.config import params
from abn.training import optim
from abn.training.resume import ResumeStore
from abn.training.state import State
from tests import toys

ROOT = Path(__file__).parents[2]
CALLS = "openat,write,ftruncate,fsync,rename,renameat,renameat2,unlink,unlinkat,chmod,fchmod"
FAULTS = {"kill -9": "signal=SIGKILL", "full disk": "error=ENOSPC", "bad disk": "error=EIO"}

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("strace"), reason="no strace"
)


class Point(NamedTuple):
    """The `number`-th time, from 1 on, that saving makes a system call."""

    call: str
    number: int


def state(step: int) -> State:
    """A toy's state after `step`; the weights differ between steps."""
    model = toys.network(seed=step)
    config = params.load(ROOT / "params.yaml").train
    losses = [torch.tensor([float(n), 0.5]) for n in range(step)]
    return State({"model": model}, optim.sgd(model, config), step_losses=losses)


def save_under_strace(folder: Path, *options: str) -> str:
    """Save step 3 after steps 1 and 2, in a process of its own; strace's log."""
    for step in (1, 2):
        ResumeStore(folder).save(state(step))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # the parent's threads do not exist here
            os.read(reading, 1)  # until strace is attached
            ResumeStore(folder).save(state(3))
        finally:
            os._exit(0)
    log = folder.parent / "strace.log"
    command = ["strace", "-f", "-y", "-o", str(log), "-e", f"trace={CALLS}", *options]
    with subprocess.Popen(
        [*command, "-p", str(child)], stderr=subprocess.PIPE, text=True
    ) as strace:
        assert strace.stderr is not None
        line = strace.stderr.readline()
        if "attached" not in line:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.skip(f"strace cannot attach: {line.strip()}")
        os.write(writing, b"x")
        os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    return log.read_text()


def points(folder: Path) -> list[Point]:
    """Every system call that saving makes on files of the store."""
    calls, counts = [], dict.fromkeys(CALLS.split(","), 0)
    for line in save_under_strace(folder / "plain").splitlines():
        if (call := re.match(r"\d+\s+(\w+)\(", line)) and call[1] in counts:
            counts[call[1]] += 1
            if str(folder) in line:
                calls.append(Point(call[1], counts[call[1]]))
    assert len(calls) > 8, calls
    return calls


def check(folder: Path, point: Point, fault: str) -> None:
    """After `fault` at `point` one of the last two states is there, whole, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    log = save_under_strace(
        folder, "-e", f"inject={point.call}:{FAULTS[fault]}:when={point.number}"
    )
    assert "INJECTED" in log or "killed by SIGKILL" in log, (point, fault, log[-500:])
    loaded = state(0)
    assert ResumeStore(folder).load(loaded), (point, fault)
    step = loaded.position[1]
    assert step in (2, 3)
    saved = state(step).tensors()
    assert all(saved[name].equal(tensor) for name, tensor in loaded.tensors().items())
    names = {path.name for path in folder.iterdir()}
    assert all(re.fullmatch(r"state-\d+-\d+\.safetensors", name) for name in names), names


@pytest.mark.parametrize(
    "count", [3, pytest.param(None, marks=pytest.mark.slow)], ids=["sample", "all"]
)
def test_a_state_is_whole_after_a_fault_in_any_system_call(
    tmp_path: Path, count: int | None
) -> None:
    places = [(point, fault) for point in points(tmp_path) for fault in FAULTS]
    for point, fault in random.Random(0).sample(places, count or len(places)):
        check(tmp_path / "struck", point, fault)
