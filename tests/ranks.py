"""Trains a toy network in several processes: `ranks.train(folder, processes, ...)`.

Each process is this module, started by torchrun's engine. RANKS_FAULT says what goes wrong in one.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SECONDS = 300  # no training takes longer, also on a busy machine


def train(
    folder: Path, processes: int, fault: str = "", **config: Any
) -> subprocess.CompletedProcess[str]:
    """Train in `processes` processes, into `folder`; `config` replaces values of params.train.

    `attention` in it is how the map acts, `images` how many there are to learn from.
    """
    return subprocess.run(
        [sys.executable, "-m", "tests.ranks", str(processes)],
        cwd=ROOT,
        env=environment(folder, fault, config),
        text=True,
        capture_output=True,
        timeout=SECONDS,
    )


def environment(folder: Path, fault: str, config: dict[str, Any]) -> dict[str, str]:
    """The environment of each process."""
    own = {"RANKS_FOLDER": str(folder), "RANKS_CONFIG": json.dumps(config), "RANKS_FAULT": fault}
    return os.environ | own | {"OMP_NUM_THREADS": "1", "ABN_DEVICE": "cpu"}


def result(folder: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """The history and the weights that a training wrote to `folder`."""
    from abn.models import checkpoint

    header, weights = checkpoint.read(folder / "model.safetensors")
    return json.loads(header["history"]), weights


def work() -> None:
    """One of the processes."""
    from abn.runtime import progress
    from abn.runtime.signals import GracefulStop
    from abn.training import distributed

    with distributed.world() as world, GracefulStop(ignore=not world.is_main).install() as stop:
        if not world.is_main:
            progress.silence()
        inject_fault(world.rank)
        config = json.loads(os.environ["RANKS_CONFIG"])
        learn(Path(os.environ["RANKS_FOLDER"]), config, world, stop)


def learn(folder: Path, changes: dict[str, Any], world: Any, stop: Any = None) -> None:
    """Train a toy in `world`; only rank 0 starts from the right weights."""
    from safetensors.torch import save_file

    from abn.config import params
    from abn.models import checkpoint
    from abn.training.loop import fit
    from abn.training.resume import ResumeStore
    from tests import toys

    small = {"epochs": 3, "batch_size": 8, "sizes": (32,), "lr": 0.02}
    view = {"val_size": 32, "val_resize": 32}
    attention, images = changes.pop("attention", "residual"), changes.pop("images", 32)
    config = params.load(ROOT / "params.yaml").train.model_copy(update=small | view | changes)
    store = ResumeStore(folder / "resume", every=0) if world.is_main else None
    model, new = toys.begun(config, world.rank, attention)
    splits = toys.split(images), toys.split(7, seed=1)
    history = fit(model, *splits, config, seed=0, world=world, resume=store, stop=stop, new=new)
    if world.is_main:
        meta = {"history": json.dumps(history)}
        save_file(checkpoint.weights(model), folder / "model.safetensors", meta)


def inject_fault(rank: int) -> None:
    """RANKS_FAULT is "RANK WHAT STEP": what happens to a rank after that many of its steps."""
    from abn.runtime.errors import DiskError
    from abn.training.step import Step

    if not (fault := os.environ["RANKS_FAULT"]) or int(fault.split()[0]) != rank:
        return
    _, what, at = fault.split()
    count, call = [0], Step.__call__

    def step(self: Any, batch: Any) -> Any:
        result = call(self, batch)
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


def main() -> None:
    from abn.project import stage
    from abn.runtime import launch, signals

    with stage._errors_reported("train"):
        if not launch.is_worker():
            launch.run("tests.ranks", int(sys.argv[1]))
            return
        signals.end_with_parent()
        work()
        launch.leave()


if __name__ == "__main__":
    main()
