"""Rank correlation against answers known by hand, and scipy's."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from abn.explain.correlation import spearman
from abn.runtime.rng import generator


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_equal_orders_correlate_at_one_and_opposite_ones_at_minus_one():
    row = rows([1, 5, 2, 9])
    assert spearman(row, row.exp()).tolist() == [1]
    assert spearman(row, -row).tolist() == [-1]


def test_the_rank_correlation_of_a_swap_is_known_by_hand():
    """1 - 6 sum(d^2) / (n (n^2 - 1)), with d = (0, 1, -1, 0) and n = 4."""
    assert spearman(rows([1, 2, 3, 4]), rows([1, 3, 2, 4])).item() == pytest.approx(0.8)


def test_ties_are_ranked_as_scipy_ranks_them():
    a = torch.randint(5, (20, 30), generator=generator("a")).float()
    b = torch.randint(5, (20, 30), generator=generator("b")) + a
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert spearman(a, b).tolist() == pytest.approx(expected)


def test_the_rank_correlation_of_a_constant_row_is_unknown():
    a, b = rows([1, 2, 3], [4, 4, 4]), rows([3, 2, 1], [1, 2, 3])
    assert spearman(a, b)[0] == -1
    assert spearman(a, b)[1].isnan() and spearman(b, a)[1].isnan()


def test_a_place_that_either_row_does_not_know_does_not_count():
    nan = float("nan")
    a, b = rows([1, 9, 2, 3, nan], [nan] * 5), rows([3, nan, 4, 5, 0], [1, 2, 3, 4, 5])
    assert spearman(a, b)[0] == 1
    assert spearman(a, b)[1].isnan()
