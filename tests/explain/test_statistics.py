"""Intervals, wins and the table of maps against answers known by arithmetic."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from abn.explain import statistics
from abn.explain.statistics import spearman
from abn.runtime.rng import generator


def test_the_bootstrap_of_a_constant_has_no_width():
    mean, low, high = statistics.bootstrap(torch.full((7,), 0.3), generator(0))
    assert low == high == pytest.approx(mean) == pytest.approx(0.3)


def test_the_bootstrap_interval_matches_the_normal_one_and_repeats():
    values = torch.arange(400.0) % 2
    mean, low, high = statistics.bootstrap(values, generator(0), draws=4000)
    assert mean == 0.5
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)
    assert (mean, low, high) == statistics.bootstrap(values, generator(0), draws=4000)


def test_what_was_not_measured_does_not_count():
    values = torch.tensor([0.25, float("nan"), 0.75])
    mean, low, high = statistics.interval(values, 0) or (0, 0, 0)
    assert mean == 0.5 and low == 0.25 and high == 0.75
    assert statistics.interval(torch.tensor([float("nan")]), 0) is None
    assert statistics.interval(None, 0) is None


def test_wins_are_counted_in_pairs_and_a_tie_is_half_a_win():
    ours = torch.tensor([3.0, 1.0, 2.0, float("nan")])
    theirs = torch.tensor([1.0, 2.0, 2.0, 0.0])
    assert statistics.beats(ours, theirs) == 0.5
    assert statistics.beats(ours[:1], theirs[:1]) == 1
    assert statistics.beats(ours[:1], theirs[:1], lower=True) == 0
    assert statistics.beats(ours[3:], theirs[3:]) is None


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


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
