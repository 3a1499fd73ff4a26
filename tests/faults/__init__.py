"""Faults injected for real: each kind breaks something and asserts what must hold afterwards.

`tests/test_faults.py` injects every kind once, as part of the tests; `python -m tests.faults`
injects them as often as asked and prints the table of docs/reliability.md.
"""

import importlib
import pkgutil
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """How a fault ended, after all that must hold was asserted."""

    ended: str  # in a few words: "error[DATA], exit 3", "the same bytes"
    lost: str = "nothing"
    seconds: float = 0.0  # from the fault, or the command after it, until all was well again


class NotHere(Exception):
    """This machine cannot inject the fault; says why."""


class Kind(NamedTuple):
    """A kind of fault: `inject` gets an empty folder and draws to choose time and place by.

    A `slow` one takes more than a few seconds, too long for the tests.
    """

    group: str
    name: str
    inject: Callable[[Path, random.Random], Outcome]
    slow: bool = False


KINDS: dict[str, Kind] = {}  # by "group: name", in the order of their definition

Inject = Callable[[Path, random.Random], Outcome]


def kind(group: str, name: str, slow: bool = False) -> Callable[[Inject], Inject]:
    """Register the function below as the kind `name` of `group`."""

    def register(inject: Inject) -> Inject:
        key = f"{group}: {name}"
        assert key not in KINDS, f"two kinds are called {key}"
        KINDS[key] = Kind(group, name, inject, slow)
        return inject

    return register


def catalogue() -> dict[str, Kind]:
    """Every kind that the modules of this package define."""
    for module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
        if not module.startswith("_"):
            importlib.import_module(f"{__name__}.{module}")
    return KINDS
