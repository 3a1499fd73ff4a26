"""What an unfinished training leaves behind, so that the same command goes on where it stopped.

It lives outside DVC's outputs, in a folder named by a fingerprint of everything the result depends
on, and is loaded only for that fingerprint. A file counts once its record, with its checksum, is on
the disk: whenever the process or the machine dies, the files of the record before are whole.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from abn import retention
from abn.models import checkpoint
from abn.models.checkpoint import weights
from abn.retention import DONE, LOCK
from abn.runtime import env, files, locks, progress
from abn.runtime.errors import DataError
from abn.runtime.signals import Stopper
from abn.training.distributed import ALONE, World

EVERY = 600.0  # seconds between two checkpoints
SHARE = 0.02  # of the time, at most, goes into checkpoints
KEPT = 2  # checkpoints

DAMAGE = (OSError, SafetensorError, ValueError, KeyError)  # what reading a damaged file raises
Row = dict[str, float]


def fingerprint(
    params: dict[str, Any], code: dict[str, str], data: list[str], machine: list[str]
) -> str:
    """A name for one training: the params it reads, digests of its code and data, where it runs."""
    inputs = [params, code, data, machine]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class State:
    """All that changes while a network is trained."""

    models: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    history: list[Row] = field(default_factory=list)  # a row per finished epoch
    seen: list[Tensor] = field(default_factory=list)  # [loss, share of hits] per step since then
    best: dict[str, Tensor] = field(default_factory=dict)  # weights of the best epoch, if wanted

    def place(self) -> tuple[int, int]:
        """Epochs and steps done."""
        return len(self.history), len(self.seen)

    def tensors(self) -> dict[str, Tensor]:
        """All of it on the CPU, by name."""
        found = {f"best/{key}": tensor for key, tensor in self.best.items()}
        for name, model in self.models.items():
            found |= {f"{name}/{key}": tensor for key, tensor in weights(model).items()}
        for name, parameter in self._parameters():
            if (momentum := self.optimizer.state[parameter].get("momentum_buffer")) is not None:
                found[f"momentum/{name}"] = momentum.to("cpu", copy=True).contiguous()
        seen = torch.stack(self.seen).cpu() if self.seen else torch.empty(0, 2)
        return found | {"seen": seen}

    def restore(self, tensors: dict[str, Tensor], history: list[Row]) -> None:
        """Put what `tensors` and `history` hold in place of the present state."""
        for name, model in self.models.items():
            model.load_state_dict(dict(_under(f"{name}/", tensors)))
        for name, parameter in self._parameters():
            if (momentum := tensors.get(f"momentum/{name}")) is not None:
                # In the parameter's layout: fused SGD walks through the memory of both in step.
                here = torch.empty_like(parameter).copy_(momentum)
                self.optimizer.state[parameter]["momentum_buffer"] = here
        device = next(self.models["model"].parameters()).device
        self.seen = list(tensors["seen"].to(device).unbind())
        self.best, self.history = dict(_under("best/", tensors)), history

    def share(self, world: World) -> None:
        """Make everyone's state that of the main process."""
        if world.size == 1:
            return
        device = next(self.models["model"].parameters()).device
        story = [self.history, len(self.seen), any(self.optimizer.state.values())]
        self.history, steps, moving = json.loads(world.text_from_main(json.dumps(story), device))
        for model in self.models.values():
            world.copy_from_main(model.state_dict().values())
        for _, parameter in self._parameters() if moving else ():
            found = self.optimizer.state[parameter]
            found.setdefault("momentum_buffer", torch.zeros_like(parameter))
            world.copy_from_main([found["momentum_buffer"]])
        seen = torch.stack(self.seen) if self.seen else torch.empty(steps, 2, device=device)
        world.copy_from_main([seen])
        self.seen = list(seen.unbind())

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.models["model"].named_parameters()


class Scratch:
    """The folder of one unfinished training: its last states, and the weights it keeps.

    `every` is the number of seconds between two states; 0: one after each step. In a `world` of
    many only the main process writes. `stopper` is who may interrupt it.
    """

    def __init__(
        self,
        folder: Path,
        every: float = EVERY,
        world: World = ALONE,
        stopper: Stopper | None = None,
    ) -> None:
        self.folder, self.every, self.world = folder, every, world
        self.stopper = stopper or Stopper()
        self.cost, self.last = 0.0, time.monotonic()  # seconds

    def due(self, epoch_ends: bool = False) -> bool:
        """Whether it is time to save, and saving is not taking more than its share of it."""
        since = time.monotonic() - self.last
        wanted = epoch_ends or since >= self.every
        return wanted and (not self.every or since * SHARE >= self.cost)

    def save(self, state: State) -> None:
        """Commit `state`; where the disk refuses, say so and go on with the states before."""
        if not self.world.is_main:
            return
        started = time.monotonic()
        epoch, step = state.place()
        try:
            self._commit(f"state-{epoch:04d}-{step:08d}", state.tensors(), state.history)
        except OSError as error:
            progress.say(f"{self.folder}: no checkpoint ({error.strerror}); training goes on")
        self._keep(KEPT)
        self.last = time.monotonic()
        self.cost = self.last - started

    def load(self, state: State) -> str:
        """Put the newest state that is whole into everyone's `state`; what was found, in words."""
        found = self.world.is_main and self._load(state)
        state.share(self.world)
        epoch, step = state.place()
        if not found:
            return "FRESH"
        ended = ": it had ended; ABN_RESUME=never trains anew"
        said = f"RESUMED after epoch {epoch}, step {step} of the next"
        return said + ended * (self.folder / DONE).exists()

    def keep(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Keep `tensors` under `name` until the end."""
        if self.world.is_main:
            self._commit(name, tensors, [])

    def snapshots(self) -> dict[str, dict[str, Tensor]]:
        """What was kept of single epochs, by name; DataError where one is damaged."""
        found = {}
        for record in sorted(self._records("epoch-")):
            try:
                found[record.stem] = self._read(record)[0]
            except DAMAGE as error:
                remedy = "set ABN_RESUME=never once to train from the start"
                raise DataError(f"damaged: {error}", record, remedy) from None
        return found

    def finish(self, weights: Path) -> None:
        """Note that the training has ended with these `weights`; of its states keep the last.

        DVC may still fail to record them, and remove the file before the same command runs again.
        """
        with suppress(OSError), files.replacing(self.folder / DONE) as part:
            part.write_text(checkpoint.sha256(weights))
        self._keep(1)

    def clear(self) -> None:
        """Forget what was saved, then what was kept."""
        retention.disown(self.folder)
        self._tidy()

    def _keep(self, count: int) -> None:
        """Remove all states but the last `count`."""
        with suppress(OSError):
            for old in self._records("state-")[count:]:
                old.unlink()  # first: a record must never be without its file
                old.with_suffix(".safetensors").unlink(missing_ok=True)

    def _load(self, state: State) -> bool:
        self._tidy()
        for record in self._records("state-"):
            try:
                tensors, history = self._read(record)
            except DAMAGE as error:
                progress.say(f"{record}: damaged ({error}); set aside, the one before is used")
                record.replace(record.with_suffix(".bad"))
                continue
            state.restore(tensors, history)
            return True
        (self.folder / DONE).unlink(missing_ok=True)
        return False

    def _commit(self, name: str, tensors: dict[str, Tensor], history: list[Row]) -> None:
        """Write the file, then its record; a file without its record does not count."""
        data = self.folder / f"{name}.safetensors"
        try:
            with files.replacing(data) as part:
                checkpoint.write(part, tensors, {"history": json.dumps(history)})
                digest = checkpoint.sha256(part)
            with files.replacing(data.with_suffix(".json")) as part:
                part.write_text(json.dumps({"sha256": digest}))
        except OSError:
            self._tidy()
            raise

    def _read(self, record: Path) -> tuple[dict[str, Tensor], list[Row]]:
        """What was committed under `record`; ValueError where it is not the same any more."""
        data = record.with_suffix(".safetensors")
        if json.loads(record.read_bytes()) != {"sha256": checkpoint.sha256(data)}:
            raise ValueError("the checksum is another")
        header, tensors = checkpoint.read(data)
        return tensors, json.loads(header["history"])

    def _records(self, prefix: str) -> list[Path]:
        """The records of `prefix`, newest first."""
        return sorted(self.folder.glob(f"{prefix}*.json"), reverse=True)

    def _tidy(self) -> None:
        """Remove what was being written when a process died."""
        for path in self.folder.glob("*"):
            recorded = path.suffix == ".safetensors" and path.with_suffix(".json").exists()
            if (
                path.suffix not in (".json", ".bad")
                and path.name not in (LOCK, DONE)
                and not recorded
            ):
                path.unlink(missing_ok=True)


@contextmanager
def training(
    folder: Path, world: World = ALONE, stopper: Stopper | None = None
) -> Iterator[Scratch]:
    """The scratch in `folder` for this process alone.

    BusyError where another process is at the same training. ABN_CHECKPOINT_EVERY gives the seconds
    between two states, ABN_RESUME=never clears the scratch first.
    """
    scratch = Scratch(folder, env.number("ABN_CHECKPOINT_EVERY", EVERY), world, stopper)
    if not world.is_main:
        yield scratch
        return
    with locks.alone(folder / LOCK, "the same training"):
        if os.environ.get("ABN_RESUME") == "never":
            scratch.clear()
        retention.make_room(folder.parent, folder)
        yield scratch


def _under(prefix: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names begin with `prefix`, without it."""
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor
