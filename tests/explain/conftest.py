"""A small network, what it says of 40 images, and its case: to be scored, never to be changed."""

import pytest
import torch

from abn.data.packed import Split
from abn.explain.case import BUDGETS, Case, Samples, collect
from abn.explain.maps import compared_maps
from tests import toys


@pytest.fixture(scope="session")
def split() -> Split:
    return toys.split()


@pytest.fixture(scope="session")
def samples(split: Split) -> Samples:
    return collect(toys.network().eval(), split, torch.arange(40), toys.WHOLE)


@pytest.fixture(scope="session")
def case(samples: Samples) -> Case:
    model = toys.network().eval()
    maps = compared_maps(model, samples, 0)
    return Case(model, samples, maps, BUDGETS["quick"], 4, 0, toys.WHOLE)
