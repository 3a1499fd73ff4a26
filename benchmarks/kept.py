"""What a long benchmark keeps in its work folder, so that the same command goes on after a kill.

    WORK/data/NAME/         a packed data set
    WORK/trainings/NAME/    a network, trained as the train stage does, and what that cost
    WORK/found/NAME/        what was measured

NAME is a fingerprint of all that the content depends on: parameters, code, data, machine. Where one
of them differs, so does the name. Nothing is removed; you may remove the folder when you like.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

import abn
from abn.config import yaml_file
from abn.config.messages import params_error
from abn.config.params import Data, Params
from abn.data import packed
from abn.data.packed import Split
from abn.datasets import pack
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.project import paths
from abn.runtime import device, files, locks, progress
from abn.runtime.errors import ParamsError
from abn.runtime.signals import GracefulStop
from abn.training import loop, resume
from abn.training.resume import ResumeStore
from abn.training.state import State
from benchmarks import measure, ours

TRAINING = ("data", "models", "training")  # the rooms whose code the weights depend on
Splits = tuple[Split, Split]  # train, val
Job = tuple[Params, Splits]


class Training(NamedTuple):
    """A finished training; the seconds are those of `loop.fit`, with its validations."""

    file: Path  # byte for byte the pipeline's checkpoint/model.safetensors
    cpu_seconds: float  # of all threads together
    wall_seconds: float

    def network(self) -> AttentionBranchNetwork:
        """The network on the device, in eval mode."""
        return checkpoint.load(self.file, device.choose()).model

    def row(self) -> dict[str, Any]:
        """What a record says of it."""
        seconds = {"cpu_seconds": self.cpu_seconds, "wall_seconds": self.wall_seconds}
        return {"weights": checkpoint.sha256(self.file), **seconds}


class TimedStore(ResumeStore):
    """A resume store that also keeps what the training had cost when its last state was saved."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.before, self.started = (0.0, 0.0), _clocks()

    def spent(self) -> tuple[float, float]:
        """CPU and wall seconds until now; what a kill made to be done again counts once."""
        pairs = zip(self.before, self.started, _clocks(), strict=True)
        cpu, wall = (before + now - started for before, started, now in pairs)
        return cpu, wall

    def save(self, state: State) -> None:
        """Write `state`, and before it what it has cost."""
        costs = self._costs() | {self._name(state): self.spent()}
        _write(self.folder / "costs.json", costs)
        super().save(state)

    def load(self, state: State) -> bool:
        """Put the newest whole state into `state`; False where there is none."""
        found = super().load(state)
        if found:
            self.before = self._costs()[self._name(state)]
        return found

    def _name(self, state: State) -> str:
        return "epoch {}, step {}".format(*state.position)

    def _costs(self) -> dict[str, tuple[float, float]]:
        path = self.folder / "costs.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else {}


def parser(description: str | None, params: Path, seeds: list[int]) -> argparse.ArgumentParser:
    """The options of a benchmark that trains each mode from several seeds, with these defaults."""
    made = measure.parser(description)
    add = made.add_argument
    changes = "parameters to change, such as train.epochs=6 arch=resnet34"
    add("--params", type=Path, default=params, help="the recipe (%(default)s)")
    add("--attention", nargs="+", default=["residual", "look"], help="modes (residual look)")
    add("--seeds", type=int, nargs="+", default=seeds, help="of the trainings (%(default)s)")
    add("-S", "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=changes)
    add("--work", type=Path, default=Path(".cache/kept"), help="what is kept (%(default)s)")
    return made


def params(options: argparse.Namespace, **own: Any) -> Params:
    """The parameters in --params, changed by --set and then by `own`, both by dotted key.

    ParamsError as for params.yaml.
    """
    values = yaml_file.read(options.params)
    for key, value in (_changes(options.set) | own).items():
        _put(values, key, value)
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise params_error(options.params, Params, error.errors(include_url=False)) from None


def recipe(params: Params, *without: str) -> dict[str, Any]:
    """What a record says of `params`; not where the data came from, a path on this machine."""
    hidden: dict[str, Any] = {"data": {"url"}, "visualize": True}
    return params.model_dump(mode="json", exclude=hidden | dict.fromkeys(without, True))


def settings(options: argparse.Namespace, recipe: dict[str, Any], *without: str) -> dict[str, Any]:
    """What a record says of a run: the recipe, not the words of --set, which may name a file."""
    hidden = {"set", *without}
    return {key: x for key, x in vars(options).items() if key not in hidden} | {"recipe": recipe}


def code(*rooms: str) -> str:
    """A fingerprint, 16 hex digits, of the source in `rooms`: folders or files of abn/."""
    home = Path(abn.__file__).parent
    sources = sorted(path for room in rooms for path in _sources(home / room))
    return resume.fingerprint(
        {str(path.relative_to(home)): path.read_text("utf-8") for path in sources}
    )


def machine() -> list[str]:
    """All of this machine that the bits of a result depend on."""
    return device.identity(device.choose())


def data(config: Data, work: Path) -> Splits:
    """The data set that `config` names, packed as the download stage does.

    A folder of images is packed at each call: no name says what is in it.
    """
    described = config.model_dump(mode="json", exclude={"url", "holdout"})
    folder = work / "data" / resume.fingerprint(described, code("data", "datasets"))
    paths_by_split = {split: folder / f"{split}.safetensors" for split in ("train", "val")}
    with locks.alone(folder / "lock", "packing the same data"):
        if config.name == "folder" or not all(path.exists() for path in paths_by_split.values()):
            pack.pack(pack.open_source(config, paths.DOWNLOADS), config.size, paths_by_split)
    return packed.read(paths_by_split["train"]), packed.read(paths_by_split["val"])


def train_all(plan: Mapping[str, Job], work: Path) -> Iterator[Training]:
    """The trainings that `plan` has by a name for the console, in its order, each when asked for.

    Says on the way what is left and, by the mean of those that are done, for how long.
    """
    missing = [name for name, job in plan.items() if not _weights(_folder(job, work)).exists()]
    progress.say(f"{len(plan)} trainings, {len(plan) - len(missing)} of them kept in {work}")
    seconds: list[float] = []
    for number, (name, job) in enumerate(plan.items(), 1):
        if name in missing:
            left = _time_left(seconds, len(missing) - missing.index(name))
            progress.say(f"training {number} of {len(plan)}: {name}; {left}")
        training = train(job, work)
        seconds.append(training.wall_seconds)
        yield training


def train(job: Job, work: Path) -> Training:
    """The training of `job`: kept, gone on with, or new.

    Raises Stopped on Ctrl-C or SIGTERM, after saving its state; BusyError where another process is
    at it.
    """
    folder = _folder(job, work)
    with locks.alone(folder / "lock", "the same training"):
        if not _weights(folder).exists():
            _train(job, folder)
    return Training(_weights(folder), *json.loads((folder / "seconds.json").read_text("utf-8")))


def measured(path: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure()` found: kept in `path`, or measured now and kept there."""
    if not path.exists():
        _write(path, measure())
    return json.loads(path.read_text("utf-8"))


def _changes(words: Sequence[str]) -> dict[str, Any]:
    """The values by dotted key that words "key=value" give, values read as YAML."""
    changed: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise ParamsError("not key=value", f"-S {word}", "write -S train.epochs=2")
        changed |= yaml_file.loads(f"{key}: {value}", f"-S {word}")
    return changed


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key; one that is new is refused when `values` are checked."""
    *sections, last = key.split(".")
    for name in sections:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ParamsError("unknown key", f"-S {key}", f"{name} is a value, not a section")
    values[last] = value


def _train(job: Job, folder: Path) -> None:
    params, splits = job
    train, val = packed.hold_out(*splits, params.data.holdout, params.data.seed)
    about = params.arch, len(train.classes), params.train, params.seed, params.attention
    model, store = ours.network(*about, params.smooth), TimedStore(folder / "states")
    with GracefulStop().install() as stop:
        loop.fit(model, train, val, params.train, seed=params.seed, resume=store, stop=stop)
    _write(folder / "seconds.json", store.spent())
    unlike = loop.unlike_below(model, val, params.train)
    header = train.classes, checkpoint.recipe(params), train.images.shape[1], unlike
    checkpoint.save_all(_weights(folder).parent, {"model": checkpoint.weights(model)}, *header)
    store.clear()


def _folder(job: Job, work: Path) -> Path:
    params, splits = job
    digests = [split.digest for split in splits]
    inputs = checkpoint.recipe(params), code(*TRAINING), digests, machine()
    return work / "trainings" / resume.fingerprint(*inputs)


def _weights(folder: Path) -> Path:
    return folder / "checkpoint" / paths.MODEL


def _time_left(seconds: Sequence[float], count: int) -> str:
    if not seconds:
        return "for how long is known when one is done"
    minutes = count * sum(seconds) / len(seconds) / 60
    return f"about {minutes:.0f} minutes for the {count} that are left"


def _sources(room: Path) -> Iterator[Path]:
    return room.rglob("*.py") if room.is_dir() else iter([room])


def _write(path: Path, content: Any) -> None:
    with files.replacing(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


def _clocks() -> tuple[float, float]:
    return time.process_time(), time.monotonic()
