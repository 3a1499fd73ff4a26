"""What many tests start from: the committed parameters, and a way to change a section of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from abn.config import params as parameters

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported, by whichever test
ROOT = Path(__file__).parent.parent


@pytest.fixture
def params() -> parameters.Params:
    """The embedded default, params.yaml."""
    return parameters.load(ROOT / "params.yaml")


@pytest.fixture
def changed() -> Callable[..., Any]:
    """`changed(section, key=value)`: the section with some values replaced, unchecked."""
    return lambda section, **values: section.model_copy(update=values)


SHARED = {"finished", "one", "two"}  # fixtures of a module that take long


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what takes long to make run in one process, where several run them."""
    for item in items:
        if SHARED & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
