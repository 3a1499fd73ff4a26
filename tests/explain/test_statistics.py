"""Intervals, wins and rank correlation against answers known by arithmetic."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from abn.explain import statistics
from abn.explain.statistics import Estimate, estimate, spearman
from abn.runtime.rng import generator

NAN = float("nan")


def found(values: Tensor, share: bool = False) -> Estimate:
    result = estimate(values, share)
    assert result is not None
    return result


def test_none_of_forty_is_a_share_of_up_to_nine_per_cent() -> None:
    none, all_ = found(torch.zeros(40), share=True), found(torch.ones(40), share=True)
    assert (none.mean, none.low, none.units) == (0, 0, 40)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 40))  # 0.088
    assert (all_.low, all_.high) == (pytest.approx(0.025 ** (1 / 40)), 1)


def test_the_interval_of_a_share_is_clopper_and_pearsons() -> None:
    expected = stats.binomtest(7, 50).proportion_ci(method="exact")
    share = found((torch.arange(50) < 7).float(), share=True)
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high))


def test_a_share_of_several_draws_an_image_lies_between_those_of_whole_images() -> None:
    values = torch.tensor([0.2, 0.4] + [0.0] * 28)  # 0.6 of 30
    share, none, one = (found(x, True) for x in (values, torch.zeros(30), torch.eye(30)[0]))
    assert share.mean == pytest.approx(0.02)
    assert none.high < share.high < one.high and 0 < share.low < one.low


def test_values_without_skewness_have_students_interval() -> None:
    values = torch.tensor([-1.0, 0.0, 1.0] * 10) + 2
    half = stats.t.ppf(0.975, 29) * values.std().item() / math.sqrt(30)
    mean, low, high, units, *_ = found(values)
    assert (mean, low, high, units) == pytest.approx((2, 2 - half, 2 + half, 30), abs=1e-5)


def test_a_long_tail_widens_the_interval_on_its_own_side_only() -> None:
    values = torch.ones(30)
    values[:2] = 5
    half = stats.t.ppf(0.975, 29) * values.std().item() / math.sqrt(30)
    mean, low, high, *_ = found(values)
    assert low == pytest.approx(mean - half, rel=1e-5) and high > mean + 1.2 * half
    mirrored = found(-values)
    assert (mirrored.low, mirrored.high) == pytest.approx((-high, -low))


def test_a_constant_has_an_interval_without_width() -> None:
    for values in (torch.full((25,), 0.3), torch.full((5, 25), 0.3)):
        mean, low, high, units, *_ = found(values)
        assert low == high == pytest.approx(mean) == pytest.approx(0.3) and units == 25


def test_fewer_than_twenty_units_have_no_interval() -> None:
    assert estimate(torch.rand(19)) is None and estimate(torch.zeros(19), share=True) is None
    assert estimate(torch.rand(50, 19)) is None  # fifty draws are not fifty images
    assert found(torch.rand(20)).units == 20
    assert estimate(None) is None


def test_what_was_not_measured_does_not_count() -> None:
    values = torch.cat([torch.rand(20), torch.full((20,), NAN)])
    assert found(values) == found(values[:20])
    table = torch.stack([values, values + 0.1, torch.full((40,), NAN)])
    assert found(table) == found(table[:2, :20])
    assert estimate(torch.full((40,), NAN)) is None


def test_draws_that_differ_widen_the_interval_however_many_images_share_them() -> None:
    draws = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    table = draws.unsqueeze(1).expand(5, 400)
    mean, low, high, units, *_ = found(table)
    half = stats.t.ppf(0.975, 4) * draws.std().item() / math.sqrt(5)  # five values, whatever n
    assert (mean, low, high, units) == pytest.approx((0.3, 0.3 - half, 0.3 + half, 400), abs=1e-6)
    same = torch.rand(400, generator=generator("images")).expand(5, 400)
    assert found(same).high == pytest.approx(
        same[0].mean().item() + stats.t.ppf(0.975, 399) * same[0].std().item() / 20, abs=1e-5
    )


def test_what_more_images_would_give_is_the_interval_of_the_same_mean() -> None:
    none = found(torch.zeros(40), share=True).at(183)
    assert (none.units, none.low) == (183, 0) and none.high == pytest.approx(0.01996, abs=1e-5)
    mean, low, high, *_ = found(torch.tensor([0.0, 1.0] * 20))
    larger = found(torch.tensor([0.0, 1.0] * 20)).at(160)
    assert larger.mean == mean
    assert larger.low == pytest.approx(mean - (mean - low) / 2)
    assert larger.high == pytest.approx(mean + (high - mean) / 2)


def test_a_stricter_level_is_wider() -> None:
    values = torch.rand(60, generator=generator("level"))
    usual, strict = found(values), estimate(values, level=0.99)
    assert strict is not None and strict.low < usual.low < usual.high < strict.high


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
