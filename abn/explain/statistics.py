"""What a score is worth: its mean over the images, a bootstrap interval, and how often it wins."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from abn.runtime.rng import generator

# How the names of scores begin of which less is better, and that have no better and no worse.
LOWER = ("deletion", "sensitivity", "randomised")
NEUTRAL = "density"
Interval = tuple[float, float, float]  # mean, low, high


def bootstrap(values: Tensor, generator: torch.Generator, draws: int = 1000) -> Interval:
    """The mean of `values` [N] and its 95 % percentile interval: (mean, low, high).

    For a paired comparison pass the differences; leave out NaN before.
    """
    values = values.to(generator.device, torch.float64)
    shape = (draws, len(values))
    picks = torch.randint(len(values), shape, generator=generator, device=generator.device)
    levels = torch.tensor([0.025, 0.975], dtype=torch.float64, device=generator.device)
    low, high = values[picks].mean(1).quantile(levels).tolist()
    return values.mean().item(), low, high


def interval(values: Tensor | None, seed: int) -> Interval | None:
    """`bootstrap` of what is not NaN in `values` [N], always the same; None if nothing is."""
    if values is None:
        return None
    measured = values.cpu().double()
    measured = measured[~measured.isnan()]
    return bootstrap(measured, generator(seed, "explain", "interval")) if len(measured) else None


def beats(values: Tensor, control: Tensor, lower: bool = False) -> float | None:
    """The share of images on which `values` [N] win over `control` [N], a tie counting 1/2.

    Only the images that both measured count; None if there are none.
    """
    margin = (control - values if lower else values - control).double()
    margin = margin[~margin.isnan()]
    return float((margin.sign() + 1).mean() / 2) if len(margin) else None


def table(scored: Mapping[str, Mapping[str, Tensor]], seed: int) -> pd.DataFrame:
    """One row per map and score [N] in `scored[map][score]`; a NaN is an image not measured.

    map, score, mean, low, high, images; beats_random and beats_centre, the paired shares of wins;
    of_ceiling, the mean over the oracle's on the same images, where more is better and it has any.
    """
    rows = [
        _row(scored, name, score, seed)
        for name, values in scored.items()
        for score in values
        if not values[score].isnan().all()
    ]
    return pd.DataFrame(rows)


def _row(
    scored: Mapping[str, Mapping[str, Tensor]], name: str, score: str, seed: int
) -> dict[str, str | float | None]:
    values = scored[name][score]
    found = interval(values, seed)
    assert found is not None
    measured = ~values.isnan()
    row: dict[str, str | float | None] = {"map": name, "score": score}
    row |= dict(zip(("mean", "low", "high"), found, strict=True))
    row["images"] = int(measured.sum())
    rivals = {} if score.startswith(NEUTRAL) else {k: v.get(score) for k, v in scored.items()}
    for control in ("random", "centre"):
        against = rivals.get(control) if name != control else None
        won = None if against is None else beats(values, against, score.startswith(LOWER))
        row[f"beats_{control}"] = won
    oracle = rivals.get("oracle") if not score.startswith(LOWER) else None
    ceiling = 0.0 if oracle is None else float(oracle[measured].mean())
    row["of_ceiling"] = found[0] / ceiling if ceiling > 0 else None
    return row


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation float64 [N] of rows [N, P], equals sharing their mean rank.

    A place where either row is NaN does not count. NaN where what is left of a row is constant.
    """
    unknown = a.isnan() | b.isnan()
    x, y = (_centred_ranks(rows.masked_fill(unknown, torch.nan)) for rows in (a, b))
    return (x * y).nansum(1) / (x.square().nansum(1) * y.square().nansum(1)).sqrt()


def _centred_ranks(rows: Tensor) -> Tensor:
    """Twice the mean ranks in rows [N, P], less their mean: whole without ties; NaN stays NaN."""
    rows = rows.contiguous()
    ordered = rows.nan_to_num(torch.inf).sort(1).values
    below = torch.searchsorted(ordered, rows)
    not_above = torch.searchsorted(ordered, rows, right=True)
    ranks = (below + not_above).double().masked_fill(rows.isnan(), torch.nan)
    return ranks - ranks.nanmean(1, keepdim=True)


def similarity(maps: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rank correlation [N] of each of `maps` [N, h, w] with its namesake in `others`."""
    return {name: spearman(maps[name].flatten(1), others[name].flatten(1)) for name in maps}
