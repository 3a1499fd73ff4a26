"""Chance levels against counting."""

import itertools

import pytest
import torch

from abn.explain import chance
from abn.explain.case import Case
from abn.explain.statistics import spearman
from abn.runtime.rng import generator


def test_the_overlap_of_two_random_top_fifths_is_counted() -> None:
    tops = [set(top) for top in itertools.combinations(range(6), 2)]  # a fifth of six is two
    counted = [len(top & tops[0]) / len(top | tops[0]) for top in tops]
    assert chance.overlap(6) == pytest.approx(sum(counted) / len(counted))
    assert chance.overlap(16) == pytest.approx(0.158, abs=0.001)


def test_the_rank_correlation_of_random_maps_is_what_random_maps_have() -> None:
    draws = torch.rand(2, 4000, 16, generator=generator("chance"))
    assert chance.rank_correlation(16) == pytest.approx(
        spearman(*draws).abs().mean().item(), abs=0.01
    )
    assert chance.rank_correlation(1) == 1


def test_each_score_has_the_level_of_a_map_that_knows_nothing(case: Case) -> None:
    levels = {
        "srg": 0,
        "auroc": 0.5,
        "grid_pointing": 0.25,
        "lift": 1,
        "density_background": 1,
        "energy": 0.25,  # the object is one quarter of the image
        "pointing": 0.25,
        "stability": chance.overlap(16),
        "randomised_all": chance.rank_correlation(16),
        "deletion": None,
        "iou": None,
    }
    for score, level in levels.items():
        assert chance.level(case, "attention", score) == pytest.approx(level)
    tolerant = chance.level(case, "attention", "pointing_tolerant")
    assert tolerant is not None and 0.25 < tolerant < 0.5
