"""What every benchmark needs: the machine in words, turns taken side by side, results as JSON."""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import yaml
from scipy.stats import t

from abn.config.params import Params
from abn.runtime import files
from abn.runtime.errors import UserError

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"
# Options of a run that say nothing of what it found.
PRIVATE = ("out", "folder", "cache", "work", "train", "val", "until", "known", "chosen")
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "transformers", "accelerate")


class Turn(NamedTuple):
    """Some steps of one contestant."""

    images: int
    seconds: float
    waiting: float  # seconds of these in which the next batch was not there yet


Play = Callable[[int], Turn]  # for a number of steps
Build = Callable[[argparse.Namespace], Play]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    return made


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder on the project's disk, which git does not see, for the length of the block."""
    Path(".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=".cache") as folder:
        yield Path(folder)


def recipe(name: str) -> Params:
    """presets/NAME.yaml, read with what a machine that only computes has."""
    return Params.model_validate(yaml.safe_load(Path(f"presets/{name}.yaml").read_text("utf-8")))


@contextmanager
def for_people() -> Iterator[None]:
    """Ends the program with one line where a user can act on an error, or has stopped it."""
    try:
        yield
    except UserError as error:
        if os.environ.get("ABN_DEBUG"):
            raise
        print(error.line(), file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def over_trainings(values: Iterable[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation and 95 % t interval of values, one a training; None: not known.

    The interval is for trainings from other seeds on the same data; with two or three it is wide.
    """
    numbers = list(values)
    count = len(numbers)
    found: dict[str, float | int | None] = dict.fromkeys(("mean", "sd", "low", "high"))
    if count:
        found["mean"] = statistics.fmean(numbers)
    if count > 1:
        spread, middle = statistics.stdev(numbers), statistics.fmean(numbers)
        reach = float(t.ppf(0.975, count - 1)) * spread / count**0.5
        found |= {"sd": spread, "low": middle - reach, "high": middle + reach}
    return found | {"trainings": count}


def spread(found: dict[str, Any]) -> str:
    """What `over_trainings` found, in words: mean +- sd."""
    if found["mean"] is None:
        return "-"
    return f"{found['mean']:.4g}" + (f" +- {found['sd']:.2g}" if found["sd"] is not None else "")


def with_interval(found: dict[str, Any]) -> str:
    """What `over_trainings` found, in words: mean [low, high]."""
    if found["low"] is None:
        return spread(found)
    return "{mean:.3g} [{low:.3g}, {high:.3g}]".format(**found)


def machine() -> dict[str, Any]:
    """Where and with what a figure was measured."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def save(folder: Path, name: str, settings: dict[str, Any], results: Any) -> None:
    """Write NAME.json: what was measured, with which settings, where and when.

    It is whole at any moment: a process that is killed leaves what was saved before.
    """
    day = time.strftime("%Y-%m-%d", time.gmtime())
    plain = {k: v.name if isinstance(v, Path) else v for k, v in settings.items()}
    kept = {k: v for k, v in plain.items() if k not in PRIVATE}
    record = {"date": day, "machine": machine(), "settings": kept, "found": results}
    text = json.dumps(record, indent=2) + "\n"
    with files.replacing(folder / f"{name}.json") as part:
        part.write_text(text, encoding="utf-8")
    print(f"-> {folder / name}.json")


class Contestant:
    """A training in a process of its own, so that memory and settings are its own too."""

    def __init__(self, name: str, build: Build, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.turns = name, list[Turn]()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(build, options, theirs))
        self.process.start()
        theirs.close()  # so that its death is an end of file here
        self._answer()

    def play(self, steps: int) -> Turn:
        """Let it train for `steps` while all others rest."""
        self.pipe.send(steps)
        turn: Turn = self._answer()
        self.turns.append(turn)
        return turn

    def stop(self) -> float:
        """End it; its peak memory in GB, its workers' included."""
        self.pipe.send(None)
        peak: float = self._answer()
        self.process.join()
        return peak

    def _answer(self) -> Any:
        """What it sends, or the reason why it cannot."""
        answer = self.pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


@contextmanager
def contest(builds: dict[str, Build], options: argparse.Namespace) -> Iterator[list[Contestant]]:
    """All contestants, ready to play; none outlives the block."""
    playing: list[Contestant] = []
    try:
        for name, build in builds.items():
            playing.append(Contestant(name, build, options))
        yield playing
    finally:
        for contestant in playing:
            contestant.process.terminate()


def alternate(contestants: list[Contestant], rounds: int, steps: int) -> Iterator[dict[str, Turn]]:
    """`rounds` times `steps` of each in turn, after one turn to warm up; a line per round."""
    for number in range(-1, rounds):
        turns = {}
        order = contestants if number % 2 else contestants[::-1]  # nobody is always the first
        for contestant in order:
            turns[contestant.name] = contestant.play(2 if number < 0 else steps)
        if number >= 0:
            yield turns


def speeds(rounds: list[dict[str, Turn]]) -> dict[str, float]:
    """Images per second of every contestant: the median over the rounds."""
    return {
        name: statistics.median(turns[name].images / turns[name].seconds for turns in rounds)
        for name in rounds[0]
    }


def ratio(rounds: list[dict[str, Turn]], ours: str, theirs: str) -> float:
    """How many times as fast `ours` is: the median of the ratios within one round."""
    return statistics.median(
        (turns[ours].images / turns[ours].seconds) / (turns[theirs].images / turns[theirs].seconds)
        for turns in rounds
    )


def waiting(rounds: list[dict[str, Turn]], name: str) -> float:
    """The share of the time in which `name` waited for data: the median over the rounds."""
    return statistics.median(turns[name].waiting / turns[name].seconds for turns in rounds)


def timed(steps: int, batches: Iterable[T], size: int, learn: Callable[[T], Any]) -> Turn:
    """Take `steps` of `batches` of `size` images and `learn` from them; the first is not counted.

    The first step is when workers start, pages are fetched and kernels chosen.
    """
    source, waited = iter(batches), 0.0
    learn(next(source))
    wait_for_device()
    started = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - asked
        learn(batch)
    wait_for_device()
    return Turn(steps * size, time.perf_counter() - started, waited)


def wait_for_device() -> None:
    """Until the GPU has done what it was given, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """GB that this process and its children hold at most meanwhile, looked at once a second.

    Proportional shares: a page that several map counts once.
    """
    most, over = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(1):
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            most = max(most, sum(_held(process) for process in family))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield lambda: most / 1e9
    over.set()
    thread.join()


def _serve(build: Build, options: argparse.Namespace, pipe: Connection) -> None:
    """Build a contestant and let it play when the parent process asks."""
    if sys.platform == "linux":  # how a DataLoader starts its workers in a program of its own
        multiprocessing.set_start_method("fork", force=True)
    with peak_memory() as peak:
        try:
            play = build(options)
            pipe.send("ready")
            while (steps := pipe.recv()) is not None:
                pipe.send(play(steps))
        except Exception as error:
            pipe.send(error)
            raise
        pipe.send(device_peak() or peak())


def device_peak() -> float:
    """GB of a GPU's memory that this process has held at most; 0 without one."""
    import torch

    return torch.cuda.max_memory_reserved() / 1e9 if torch.cuda.is_available() else 0.0


def _held(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.Error, OSError):
        return 0


def _processor() -> str:
    names = Path("/proc/cpuinfo")
    lines = names.read_text("utf-8").splitlines() if names.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
