"""One fault of each kind, as part of the tests; `python -m tests.faults` injects more of them."""

import random
from pathlib import Path

import pytest

from tests import faults

KINDS = {name: kind for name, kind in faults.catalogue().items() if not kind.slow}


@pytest.mark.parametrize("name", KINDS)
def test_a_fault_ends_as_promised(name: str, tmp_path: Path) -> None:
    try:
        outcome = KINDS[name].inject(tmp_path, random.Random(name))
    except faults.NotHere as reason:
        pytest.skip(str(reason))
    assert outcome.ended and outcome.lost == "nothing"
