"""A training of toys by several processes, to be run as `ranks.train(folder, processes, ...)`.

Each process is this module, started by the real engine; what a test may break in them is in FAULT.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SECONDS = 120  # none takes longer, also on a busy machine


def train(
    folder: Path, processes: int, fault: str = "", **config: Any
) -> subprocess.CompletedProcess[str]:
    """Train in so many processes, into `folder`; `config` replaces values of params.train."""
    return subprocess.run(
        [sys.executable, "-m", "tests.ranks", str(processes)],
        cwd=ROOT,
        env=environment(folder, fault, config),
        text=True,
        capture_output=True,
        timeout=SECONDS,
    )


def environment(folder: Path, fault: str, config: dict[str, Any]) -> dict[str, str]:
    """What each of the processes is told."""
    asked = {"RANKS_FOLDER": str(folder), "RANKS_CONFIG": json.dumps(config), "RANKS_FAULT": fault}
    return os.environ | asked | {"OMP_NUM_THREADS": "1", "ABN_DEVICE": "cpu"}


def result(folder: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """The history and the weights that a training left in `folder`."""
    from abn.models import checkpoint

    header, weights = checkpoint.read(folder / "model.safetensors")
    return json.loads(header["history"]), weights


def work() -> None:
    """One of the processes."""
    from abn.runtime import progress
    from abn.runtime.signals import Stopper
    from abn.training import distributed

    with distributed.world() as world, Stopper(patient=not world.is_main).listening() as stopper:
        if not world.is_main:
            progress.silence()
        break_something(world.rank)
        config = json.loads(os.environ["RANKS_CONFIG"])
        learn(Path(os.environ["RANKS_FOLDER"]), config, world, stopper)


def learn(folder: Path, changes: dict[str, Any], world: Any, stopper: Any) -> None:
    """Train a toy in `world`; only the main process starts from the right weights."""
    from safetensors.torch import save_file

    from abn.config import params
    from abn.models import checkpoint
    from abn.training import resume
    from abn.training.loop import fit
    from tests import toys

    small = {"epochs": 3, "batch_size": 8, "sizes": (32,), "lr": 0.02}
    seen = {"val_size": 32, "val_resize": 32}
    config = params.load(ROOT / "params.yaml").train.model_copy(update=small | seen | changes)
    scratch = resume.Scratch(folder / "scratch", 0, world, stopper)
    model, splits = toys.network(seed=world.rank), (toys.split(32), toys.split(7, seed=1))
    history = fit(model, *splits, config, 0, scratch, lambda row, speed: None)
    if world.is_main:
        meta = {"history": json.dumps(history)}
        save_file(checkpoint.weights(model), folder / "model.safetensors", meta)


def break_something(rank: int) -> None:
    """FAULT is "RANK WHAT STEP": what befalls a process after so many steps of its own."""
    from abn.runtime.errors import DiskError
    from abn.training.step import Step

    if not (fault := os.environ["RANKS_FAULT"]) or int(fault.split()[0]) != rank:
        return
    _, what, at = fault.split()
    count, whole = [0], Step.__call__

    def step(self: Any, batch: Any) -> Any:
        result = whole(self, batch)
        count[0] += 1
        if count[0] == int(at):
            if what == "error":
                raise DiskError("the disk is gone", f"rank {rank}", "buy another")
            if what == "unplugged":
                subprocess.run(["ip", "link", "set", "cable", "down"], check=True)
            else:
                os.kill(os.getpid(), getattr(signal, what))
        return result

    Step.__call__ = step  # type: ignore[method-assign]


if __name__ == "__main__":
    from abn.project.stage import _end, _mendable
    from abn.runtime import launch, signals
    from abn.runtime.errors import UserError

    try:
        if launch.is_worker():
            signals.end_with_parent()
            work()
            launch.leave()
        else:
            launch.run("tests.ranks", int(sys.argv[1]))
    except signals.Stopped as stopped:
        _end(str(stopped) or "stopped with a checkpoint", 143)
    except Exception as error:
        told = error if isinstance(error, UserError) else _mendable(error, "train", None)
        if told is None:
            raise
        _end(told.line(), told.exit_code)
