"""The resume store: states of unfinished trainings, so that the same command continues.

Each training has a folder `.resume/FINGERPRINT`, outside DVC's outputs. The fingerprint covers all
that the result depends on, so a state is only ever loaded by the same training. A state is one file
with its checksum inside, written under another name and then renamed: after a crash at any moment
the newest file is whole, or it is set aside as `.bad` and the one before is used.

A finished training keeps its last state, because DVC may die before it records the outputs. What is
removed, and when: see `make_room`.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from safetensors import SafetensorError
from torch import Tensor

from abn.models import checkpoint
from abn.project.paths import DONE
from abn.runtime import env, files, locks, progress
from abn.runtime.errors import DataError
from abn.training.state import Row, State

EVERY = 600.0  # seconds between two states
MAX_OVERHEAD = 0.02  # share of the time that saving may take
STATES_KEPT = 2
FINISHED_KEPT = 3  # finished trainings
MAX_BYTES = 20e9  # of all trainings together

LOCK = "lock"  # in the folder of a running training
# The names of what we write. Nothing else is ever removed, nor a copy of a folder.
FOLDER = re.compile("[0-9a-f]{16}")
FILE = r"(state-\d+-\d+|epoch-\d+)\."
PARTIAL = re.compile(rf"\.?{FILE}safetensors(\.abn)?\.part|\.tmp\w{{6}}")  # the last: safetensors'
OURS = re.compile(rf"{FILE}(safetensors|bad)|{PARTIAL.pattern}|{DONE}|{LOCK}(\.soft)?")

DAMAGE = (  # what reading and checking a file raises
    *(OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, RecursionError, RuntimeError),  # the last: of torch
)


def fingerprint(*inputs: Any) -> str:
    """The name, 16 hex digits, of a training by all its inputs: params, code, data, machine."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


class ResumeStore:
    """The folder of one training: its last states, and weights of single epochs.

    `every` is the number of seconds between two states; 0: one after each step.
    """

    def __init__(self, folder: Path, every: float = EVERY) -> None:
        self.folder, self.every = folder, every
        self.cost, self.last = 0.0, time.monotonic()  # seconds: of the last save; when it ended

    def due(self, epoch_ends: bool = False) -> bool:
        """Whether to save now: `every` has passed or an epoch ends, within MAX_OVERHEAD."""
        since = time.monotonic() - self.last
        wanted = epoch_ends or since >= self.every
        return wanted and (not self.every or since * MAX_OVERHEAD >= self.cost)

    def save(self, state: State) -> None:
        """Write `state`. Where the disk refuses, warn and keep the states before."""
        started = time.monotonic()
        epoch, step = state.position
        try:
            self._write(_name(epoch, step), state.tensors(), state.history)
        except OSError as error:
            self.remove_partial()
            progress.say(f"{self.folder}: state not saved ({error.strerror}); training continues")
        self._keep_states(STATES_KEPT)
        self.last = time.monotonic()
        self.cost = self.last - started

    def load(self, state: State) -> bool:
        """Put the newest whole state into `state`; False where there is none."""
        self.remove_partial()
        for path in self._files("state-"):
            try:
                tensors, history = _read(path)
                state.check(tensors, history)
                if path.stem != _name(len(history), len(tensors["step_losses"])):
                    raise ValueError("its name is that of another state")
            except DAMAGE as error:
                progress.say(f"{path}: damaged ({error}); set aside, the state before it is used")
                path.replace(path.with_suffix(".bad"))
                continue
            state.restore(tensors, history)
            return True
        (self.folder / DONE).unlink(missing_ok=True)
        return False

    def save_snapshot(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        """Keep the weights of `epoch` until the training is cleared; OSError on a full disk."""
        self._write(f"epoch-{epoch:04d}", tensors, [])

    def snapshots(self) -> dict[str, dict[str, Tensor]]:
        """The snapshots by name ("epoch-0010"), oldest first; DataError where one is damaged."""
        snapshots = {}
        for path in reversed(self._files("epoch-")):
            try:
                snapshots[path.stem] = _read(path)[0]
            except DAMAGE as error:
                remedy = "run once with ABN_RESUME=never to train from the start"
                raise DataError(f"damaged: {error}", path, remedy) from None
        return snapshots

    def mark_done(self) -> None:
        """Note that the outputs are written; keep the last state only."""
        with suppress(OSError):
            (self.folder / DONE).touch()
        self._keep_states(1)

    def clear(self) -> None:
        """Remove all that this module wrote; killed midway it leaves a whole state or none."""
        (self.folder / DONE).unlink(missing_ok=True)
        ours = [path for path in self.folder.glob("*") if OURS.fullmatch(path.name)]
        # Newest state first, snapshots after all states: a state needs those of earlier epochs.
        for path in sorted(ours, key=lambda path: path.name, reverse=True):
            if not path.name.startswith(LOCK):
                path.unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Remove the files that were being written when a process died."""
        for path in self.folder.glob("*"):
            if PARTIAL.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _keep_states(self, count: int) -> None:
        with suppress(OSError):
            for path in self._files("state-")[count:]:
                path.unlink(missing_ok=True)

    def _files(self, prefix: str) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(f"{prefix}*.safetensors"), reverse=True)

    def _write(self, name: str, tensors: dict[str, Tensor], history: list[Row]) -> None:
        header = {"history": history, "sha256": _digest(tensors, history)}
        with files.replacing(self.folder / f"{name}.safetensors") as part:
            checkpoint.write(part, tensors, {"state": json.dumps(header)})


@contextmanager
def open_store(folder: Path) -> Iterator[ResumeStore]:
    """The store in `folder`, locked: BusyError where another process runs the same training.

    ABN_CHECKPOINT_EVERY sets the seconds between two states. ABN_RESUME=never clears it first.
    """
    never = env.word("ABN_RESUME", "never") == "never"
    store = ResumeStore(folder, env.number("ABN_CHECKPOINT_EVERY", EVERY))
    with locks.alone(folder / LOCK, "the same training"):
        if never:
            store.clear()
        with suppress(FileNotFoundError):  # another process removed it first
            make_room(folder.parent, folder)
        yield store


def make_room(trainings: Path, current: Path, max_bytes: float = MAX_BYTES) -> None:
    """Remove old trainings from the folder `trainings`, but never `current` or a running one.

    Of the finished ones the newest FINISHED_KEPT stay: they are only needed until DVC has recorded
    them. Unfinished ones stay until all together exceed `max_bytes`; then the oldest go, finished
    ones first.
    """
    folders = [folder for folder in trainings.glob("*/") if FOLDER.fullmatch(folder.name)]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    others = [folder for folder in folders if folder != current]
    finished = [folder for folder in others if (folder / DONE).exists()]
    unfinished = [folder for folder in others if folder not in finished]
    for folder in reversed([*unfinished, *finished]):
        size = sum(file.stat().st_size for each in folders for file in each.glob("*"))
        if size > max_bytes or folder in finished[FINISHED_KEPT:]:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a training unless it is running."""
    with suppress(Timeout), locks.acquire(folder / LOCK, timeout=0):
        if not (folder / DONE).exists():
            progress.say(f"{folder}: unfinished and old, removed to make room")
        ResumeStore(folder).clear()
        for lock in (folder / LOCK, locks.soft(folder / LOCK)):
            lock.unlink(missing_ok=True)
        with suppress(OSError):  # a file that is not ours stays, and so does its folder
            folder.rmdir()


def _name(epoch: int, step: int) -> str:
    """The file name, without its ending, of the state after these epochs and steps."""
    return f"state-{epoch:04d}-{step:08d}"


def _read(path: Path) -> tuple[dict[str, Tensor], list[Row]]:
    """The tensors and the history of a file; ValueError unless the checksum matches, all finite."""
    header, tensors = checkpoint.read(path)
    state = json.loads(header["state"])
    if state["sha256"] != _digest(tensors, state["history"]):
        raise ValueError("wrong checksum")
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{bad[0]} holds values that are not finite")
    return tensors, state["history"]


def _digest(tensors: dict[str, Tensor], history: list[Row]) -> str:
    """The checksum of all that a file holds: history, and every name, type, shape and byte."""
    digest = hashlib.sha256(json.dumps(history).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
