"""The commit of a checkpoint, struck at each of its system calls by strace."""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from abn.config import params
from abn.training import optim
from abn.training.resume import Scratch, State
from tests import toys
from tests.faults import NotHere, Outcome, kind

ROOT = Path(__file__).parents[2]
CALLS = "openat,write,ftruncate,fsync,rename,renameat,renameat2,unlink,unlinkat,chmod,fchmod"
STRIKES = {"kill -9": "signal=SIGKILL", "a full disk": "error=ENOSPC", "a bad disk": "error=EIO"}


class Point(NamedTuple):
    """The n-th time that the commit makes a system call, from 1 on."""

    call: str
    number: int


def state(step: int) -> State:
    """What a training of a toy has to save after `step`: other weights at each."""
    model = toys.network(seed=step)
    config = params.load(ROOT / "params.yaml").train
    seen = [torch.tensor([float(n), 0.5]) for n in range(step)]
    return State({"model": model}, optim.sgd(model, config), seen=seen)


def commit(folder: Path, strike: list[str]) -> str:
    """Commit step 3 after steps 1 and 2 in a process of its own under strace; what strace saw."""
    for step in (1, 2):
        Scratch(folder).save(state(step))
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            torch.set_num_threads(1)  # the threads of the parent are not there any more
            os.read(reading, 1)  # until strace is there
            Scratch(folder).save(state(3))
        finally:
            os._exit(0)
    log = folder.parent / "strace.log"
    watch = [
        "strace",
        "-f",
        "-y",
        "-o",
        str(log),
        "-e",
        f"trace={CALLS}",
        *strike,
        "-p",
        str(child),
    ]
    with subprocess.Popen(watch, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        attached = strace.stderr.readline()
        if "attached" not in attached:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise NotHere(f"strace cannot attach: {attached.strip()}")
        os.write(writing, b"x")
        os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    return log.read_text()


def points(folder: Path) -> list[Point]:
    """Every call that the commit makes to files of the scratch."""
    found, counts = [], dict.fromkeys(CALLS.split(","), 0)
    for line in commit(folder / "plain", []).splitlines():
        if (call := re.match(r"\d+\s+(\w+)\(", line)) and call[1] in counts:
            counts[call[1]] += 1
            if str(folder) in line:
                found.append(Point(call[1], counts[call[1]]))
    assert len(found) > 12, found
    return found


def strike(folder: Path, point: Point, how: str) -> None:
    """Whatever happens at `point`, one of the last two states is there, whole."""
    shutil.rmtree(folder, ignore_errors=True)
    inject = f"inject={point.call}:{STRIKES[how]}:when={point.number}"
    seen = commit(folder, ["-e", inject])
    assert "INJECTED" in seen or "killed by SIGKILL" in seen, (point, how, seen[-500:])
    scratch, found = Scratch(folder), state(0)
    words = scratch.load(found)
    assert words.startswith("RESUMED"), (point, how, words)
    step = found.place()[1]
    assert step in (2, 3)
    saved = state(step).tensors()
    assert all(saved[name].equal(tensor) for name, tensor in found.tensors().items())
    names = {path.name for path in folder.iterdir()}
    assert all(name.startswith("state-") for name in names), names


def _struck(folder: Path, draws: random.Random, count: int | None = None) -> Outcome:
    if sys.platform != "linux" or not shutil.which("strace"):
        raise NotHere("no strace")
    places = [(point, how) for point in points(folder) for how in STRIKES]
    chosen = places if count is None else draws.sample(places, count)
    started = time.monotonic()
    for point, how in chosen:
        strike(folder / "struck", point, how)
    seconds = (time.monotonic() - started) / len(chosen)
    return Outcome(f"a whole state in {len(chosen)} of {len(chosen)} places", seconds=seconds)


@kind("commits", "a system call of the commit fails")
def _(folder: Path, draws: random.Random) -> Outcome:
    return _struck(folder, draws, 6)


@kind("commits", "every system call of the commit x kill, ENOSPC, EIO", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    return _struck(folder, draws)
