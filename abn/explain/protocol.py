"""Does the attention map explain the decision? All scores, the tables, and the verdict.

Every map is scored on the same images, on the same grid, for the class that was predicted, right
or wrong. The results depend on the weights, the data and the seed alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from abn.config.params import Explain
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.explain import (
    answers,
    counterfactuals,
    faithfulness,
    leak,
    localisation,
    randomisation,
    robustness,
    stability,
    sufficiency,
    tables,
)
from abn.explain.case import BUDGETS, Case, Pictures, Scores, collect, select
from abn.explain.maps import compared_maps
from abn.models.abn import AttentionBranchNetwork
from abn.runtime import progress

Rerender = Callable[[Tensor], Pictures]  # of the images at an index int64 [N]
# Every score: to add one, write it in its family's file. The order is that of the table's rows.
FAMILIES: tuple[Callable[[Case], Scores], ...] = (
    faithfulness.score,
    sufficiency.score,
    leak.score,
    robustness.score,
    randomisation.score,
    localisation.score,
    counterfactuals.score,
    stability.score,
)


class ExplainResults(NamedTuple):
    """The headline numbers and the tables behind them."""

    headline: tables.Headline
    maps: pd.DataFrame  # one row per map and score
    curves: pd.DataFrame  # mean insertion and deletion, one row per share of the cells
    interventions: pd.DataFrame  # one row per map put in the attention's place
    gates: pd.DataFrame  # one row per question of the verdict on the attention map
    map_gates: pd.DataFrame  # one row per map and question that applies to it
    images: pd.DataFrame  # one row per image

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by name."""
        return {name: x for name, x in self._asdict().items() if isinstance(x, pd.DataFrame)}


def explain(
    model: AttentionBranchNetwork,
    train: Split,
    val: Split,
    view: CenterCrop,
    config: Explain,
    siblings: Sequence[AttentionBranchNetwork] = (),
    rerender: Rerender | None = None,
) -> ExplainResults:
    """Score the attention map of `model`, and the maps it competes with, on images of `val`.

    `train` only fixes the threshold of IoU; `siblings` are the same network from other seeds;
    `rerender` gives the images at an index without their parts, for data that can be rendered.
    DataError if what it renders is not what `val` holds.
    """
    case, known = build(model, val, view, config), train.has_mask.nonzero()[:, 0]
    if case.samples.masks is not None and len(known):
        case = replace(case, train=build(model, train.subset(known), view, config))
    if rerender is not None:
        pictures = rerender(case.samples.index)
        counterfactuals.check(pictures.whole, val.take(case.samples.index).images)
        case = replace(case, pictures=pictures)
    case = replace(case, siblings=siblings)
    scored = scores(case)
    gates = answers.answers(case, scored, config.gates)
    table = tables.maps_table(case, scored)
    return ExplainResults(
        tables.headline(case, scored, table, gates),
        table,
        tables.curves_table(case),
        tables.interventions_table(case),
        pd.DataFrame(gates["attention"]),
        tables.gates_table(gates),
        tables.images_table(case, scored, val.classes),
    )


def build(model: AttentionBranchNetwork, split: Split, view: CenterCrop, config: Explain) -> Case:
    """The model on `config.images` images of `split`, and the maps to compare there."""
    samples = collect(model, split, select(split, config.images, config.seed), view)
    maps, budget = compared_maps(model, samples, config.seed), BUDGETS[config.profile]
    return Case(model, samples, maps, budget, config.steps, config.seed, view)


def scores(case: Case) -> Scores:
    """Every score of every map, family by family; see `Scores`.

    The oracle, a map of the object, has scores only where the object is known.
    """
    merged: Scores = {name: {} for name in case.maps}
    with progress.bar("explain", len(FAMILIES), "family") as bar:
        for family in progress.counted(FAMILIES, bar):
            for name, values in family(case).items():
                merged.setdefault(name, {}).update(values)
    for name in (each for each in merged if each.startswith("oracle")):
        known = case.applies(name)
        merged[name] = {k: values.where(known, torch.nan) for k, values in merged[name].items()}
    return merged
