"""Bad input by the hundred thousand: each target makes one, feeds it, and says what may happen.

`python -m tests.fuzz TARGET` runs a target as long as wished; `tests/test_fuzz.py` runs a little of
each. A target is a module here with `example(draws, folder)`, which raises AssertionError when its
input ends in anything but a documented error.
"""

import importlib
import pkgutil
import random
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

LIMIT = 10.0  # seconds that one example may take

Example = Callable[[random.Random, Path], None]


class Failure(Exception):
    """An example did not end as it must; names the seed that makes it again."""


def targets() -> list[str]:
    """The names of all targets."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in found if not name.startswith("_")]


def load(target: str) -> Example:
    return importlib.import_module(f"{__name__}.{target}").example


def run(target: str, seeds: Iterable[int], folder: Path) -> Iterator[int]:
    """Run the example of every seed, and give the seed back; the first bad one is a Failure."""
    example = load(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is odd; only what it does counts
        for seed in seeds:
            try:
                with _alarm():
                    example(random.Random(seed), folder)
            except Exception as error:
                again = f"python -m tests.fuzz {target} --count 1 --seed {seed}"
                raise Failure(f"{type(error).__name__}: {error}\nagain: {again}") from error
            yield seed


@contextmanager
def _alarm() -> Iterator[None]:
    """AssertionError after LIMIT."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"took longer than {LIMIT:.0f} s")

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
