"""Explanations scored: the controls stand where they must, the tables say all, chance repeats."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from abn.data import Split
from abn.explain import Findings, balanced, explain
from abn.model import Output
from abn.params import Explain, Params
from abn.predict import predict
from abn.rng import generator
from tests import toys

LOCATED = ["auroc", "pointing", "energy"]
RELEVANCE = ["images", "srg", "srg_low", "srg_high", "insertion", "deletion"]


@pytest.fixture
def config(params: Params, changed: Callable[..., Explain]) -> Explain:
    return changed(params.explain, images=30, steps=4)


@pytest.fixture
def split() -> Split:
    """Objects with a distractor, mask value 2, along the right edge where none of them is."""
    split = toys.split()
    assert split.masks is not None
    split.masks[(split.masks == 0) & (torch.arange(32) > 27)] = 2
    return split


@pytest.fixture
def blind(split: Split) -> Split:
    return dataclasses.replace(split, masks=None)


class Brightness(toys.Network):
    """A network that looks where it is bright."""

    def forward(self, images: Tensor) -> Output:
        return super().forward(images)._replace(attention=images.mean(1, True)[..., 4::8, 4::8])


def findings(
    split: Split, config: Explain, seed: int = 0, model: nn.Module | None = None
) -> Findings:
    return explain((model or toys.network()).eval(), split, toys.WHOLE, config, seed)


def test_every_map_has_a_row_of_scores(split: Split, config: Explain) -> None:
    maps = findings(split, config).maps
    assert list(maps.columns) == ["map", *RELEVANCE, *LOCATED]
    assert maps["map"].tolist() == ["attention", "random", "centre", "oracle"]
    assert maps["images"].tolist() == [30] * 4
    assert not maps.isna().any(axis=None)
    assert (maps["srg_low"] <= maps["srg"]).all() and (maps["srg"] <= maps["srg_high"]).all()
    assert (maps["srg"] - (maps["insertion"] - maps["deletion"])).abs().max() < 1e-6


def test_the_oracle_finds_the_objects_and_chance_does_not(split: Split, config: Explain) -> None:
    maps = findings(split, config).maps.set_index("map")
    assert maps["auroc"]["oracle"] > 0.95 and maps["pointing"]["oracle"] == 1
    assert 0.4 < maps["auroc"]["random"] < 0.6
    assert maps["energy"]["random"] < maps["energy"]["oracle"]


def test_without_masks_nothing_is_located(blind: Split, config: Explain) -> None:
    headline, maps, curves = findings(blind, config)
    assert list(maps.columns) == ["map", *RELEVANCE]
    assert maps["map"].tolist() == ["attention", "random", "centre"]
    assert not any("oracle" in name for name in [*headline, *curves.columns])
    assert not headline.keys() & set(LOCATED)


def test_masks_change_no_other_score(split: Split, blind: Split, config: Explain) -> None:
    with_masks, without = (findings(s, config).maps[:3][RELEVANCE] for s in (split, blind))
    assert with_masks.equals(without)


def test_the_curves_run_from_nothing_to_all_for_each_map(split: Split, config: Explain) -> None:
    headline, maps, curves = findings(split, config)
    assert curves["fraction"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    names = [f"{name}_{way}" for name in maps["map"] for way in ("insertion", "deletion")]
    assert list(curves.columns) == ["fraction", *names]
    for name in maps["map"]:
        insertion, deletion = curves[f"{name}_insertion"], curves[f"{name}_deletion"]
        assert insertion.iloc[0] == pytest.approx(deletion.iloc[-1], abs=1e-6)
        assert insertion.iloc[0] == pytest.approx(headline["baseline_confidence"], abs=1e-6)
        assert insertion.iloc[-1] == pytest.approx(deletion.iloc[0], abs=1e-6)


def test_what_is_explained_is_the_predicted_class_right_or_wrong(
    split: Split, config: Explain
) -> None:
    curves = findings(split.take(torch.arange(8)), config).curves
    logits = predict(toys.network(), split.take(torch.arange(8)), toys.WHOLE, 8, toys.CPU).logits
    confidence = logits.softmax(1).max(1).values.mean().item()
    assert curves["attention_deletion"][0] == pytest.approx(confidence, abs=1e-5)


def test_the_headline_holds_the_attention_against_the_controls(
    split: Split, config: Explain
) -> None:
    headline, maps, _ = findings(split, config)
    rows = maps.set_index("map")
    for name in (*RELEVANCE, *LOCATED):
        assert headline[name] == rows[name]["attention"]
    for name in ("random", "centre", "oracle"):
        assert headline[f"srg_{name}"] == rows["srg"][name]
        assert headline[f"auroc_{name}"] == rows["auroc"][name]
    gains = {"gain_minimum", "gain_mean", "gain_maximum", "gain_ratio", "gain_entropy"}
    assert gains <= headline.keys()


def test_a_flat_map_is_called_flat(split: Split, config: Explain) -> None:
    model = toys.network()
    nn.init.zeros_(model.look.weight)
    flat = findings(split, config, model=model).headline
    assert flat["flat_share"] == flat["gain_ratio"] == 1
    assert flat["auroc"] == 0.5


def test_a_map_of_the_object_is_found_to_be_one(split: Split, config: Explain) -> None:
    images = split.images * (split.masks == 1)[..., None]  # black around the objects
    bright = dataclasses.replace(split, images=images)
    found = findings(bright, config, model=Brightness()).headline
    assert found["flat_share"] == 0 and found["gain_ratio"] > 1.2
    assert found["auroc"] > 0.95 and found["pointing"] == 1


def test_the_same_seed_finds_the_same_and_another_does_not(split: Split, config: Explain) -> None:
    first, again, other = (findings(split, config, seed) for seed in (0, 0, 1))
    assert first.headline == again.headline != other.headline
    assert first.maps.equals(again.maps) and first.curves.equals(again.curves)


def test_no_more_images_are_scored_than_there_are(split: Split, config: Explain) -> None:
    assert findings(split.take(torch.arange(6)), config).headline["images"] == 6


def test_images_are_drawn_evenly_over_the_classes() -> None:
    labels = torch.arange(400) % 4
    for count, share in ((40, [10] * 4), (42, [10, 10, 11, 11])):
        chosen = balanced(labels, count, generator(0))
        assert len(chosen.unique()) == count
        assert sorted(labels[chosen].bincount().tolist()) == share
        assert chosen.equal(chosen.sort().values)


def test_a_rare_class_gives_all_it_has() -> None:
    labels = torch.tensor([0] * 50 + [2] * 3 + [3] * 50)
    chosen = balanced(labels, 23, generator(0))
    assert labels[chosen].bincount().tolist() == [10, 0, 3, 10]


def test_all_are_drawn_where_there_are_no_more() -> None:
    assert balanced(torch.arange(10) % 3, 99, generator(0)).tolist() == list(range(10))


def test_other_draws_choose_other_images() -> None:
    labels = torch.arange(400) % 4
    first, again, other = (balanced(labels, 40, generator(key)) for key in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)
