"""Each test here has a repository of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking import stores


@pytest.fixture(autouse=True)
def root(tmp_path: Path) -> Iterator[Path]:
    """The current folder, with a store in its database."""
    with stores.repository(tmp_path):
        yield tmp_path
