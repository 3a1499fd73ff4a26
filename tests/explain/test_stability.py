"""How alike the maps of several networks are, by hand."""

import dataclasses

import pytest
import torch
from scipy import stats

from abn.explain import stability
from abn.explain.case import Case
from abn.runtime.rng import generator
from tests import toys


def test_equal_maps_of_all_networks_are_stable():
    maps = torch.rand(1, 5, 4, 4, generator=generator(0)).repeat(3, 1, 1, 1)
    iou, correlation = stability.stability(maps)
    assert (iou.tolist(), correlation.tolist()) == ([1] * 5, [1] * 5)


def test_stability_is_the_mean_over_the_pairs():
    """Ten cells, so two on top: {9, 8} twice and {9, 0}: IoU 1, 1/3 and 1/3."""
    first = torch.arange(10.0)
    third = first.clone()
    third[0] = 8.5
    iou, correlation = stability.stability(torch.stack([first, first, third]).view(3, 1, 2, 5))
    assert iou.item() == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    rank = stats.spearmanr(first, third).statistic
    assert correlation.item() == pytest.approx((1 + 2 * rank) / 3)


def test_the_top_fifth_is_rounded_up_and_the_first_of_equals_is_in_it():
    """Sixteen cells, so four on top: the last, then the first three of the equal rest."""
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 3, 3] = 1
    maps[1, 0, 0, 3] = 1  # and cells 0, 1, 2
    assert stability.stability(maps)[0].item() == pytest.approx(3 / 5)


def test_the_overlap_of_written_cells_is_the_stability_of_the_maps():
    """Sixteen cells, four on top: {15, 0, 1, 2} and {3, 0, 1, 2}, bits 0x8007 and 0xf."""
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 3, 3] = 1
    maps[1, 0, 0, 3] = 1
    one, other = map(stability.written, stability.top_cells(maps))
    assert (one, other) == (["x8007"], ["xf"])
    assert stability.overlap(one, other) == pytest.approx(3 / 5)
    random = torch.rand(2, 5, 14, 14, generator=generator(0))
    one, other = map(stability.written, stability.top_cells(random))
    assert stability.overlap(one, other) == pytest.approx(stability.stability(random)[0].mean())


def test_stability_is_not_scored_for_a_single_network(case: Case) -> None:
    assert stability.score(case) == {}
    twin = dataclasses.replace(case, siblings=[toys.network().eval()])
    scores = stability.score(twin)["attention"]
    assert scores["stability"].tolist() == [1] * 40
    assert scores["stability_ranks"].tolist() == pytest.approx([1] * 40)
