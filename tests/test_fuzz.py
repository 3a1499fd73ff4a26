"""A little of each target; `python -m tests.fuzz TARGET` runs as much as wished."""

from pathlib import Path

import pytest

from tests import fuzz

COUNT = 200


@pytest.mark.parametrize("target", fuzz.targets())
def test_bad_input_ends_in_a_documented_error(target: str, tmp_path: Path) -> None:
    assert len(list(fuzz.run(target, range(COUNT), tmp_path))) == COUNT
