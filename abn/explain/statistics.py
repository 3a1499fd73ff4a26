"""Statistics of scores: bootstrap intervals, paired wins, rank correlation."""

from collections.abc import Mapping

import torch
from torch import Tensor

from abn.runtime.rng import generator

# How the names of scores begin where less is better, and where there is no better.
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
    """`bootstrap` of the values [N] that are not NaN, with fixed draws; None if there are none."""
    if values is None:
        return None
    measured = values.cpu().double()
    measured = measured[~measured.isnan()]
    return bootstrap(measured, generator(seed, "explain", "interval")) if len(measured) else None


def beats(values: Tensor, control: Tensor, lower: bool = False) -> float | None:
    """The share of images on which `values` [N] win over `control` [N], a tie counting 1/2.

    Only the images that have both values count; None if there are none.
    """
    margin = (control - values if lower else values - control).double()
    margin = margin[~margin.isnan()]
    return float((margin.sign() + 1).mean() / 2) if len(margin) else None


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation float64 [N] of rows [N, P], equals sharing their mean rank.

    A place where either row is NaN does not count. NaN where the rest of a row is constant.
    """
    unknown = a.isnan() | b.isnan()
    x, y = (_centred_ranks(rows.masked_fill(unknown, torch.nan)) for rows in (a, b))
    return (x * y).nansum(1) / (x.square().nansum(1) * y.square().nansum(1)).sqrt()


def _centred_ranks(rows: Tensor) -> Tensor:
    """Twice the mean ranks in rows [N, P], less their mean; exact without ties; NaN stays NaN."""
    rows = rows.contiguous()
    ordered = rows.nan_to_num(torch.inf).sort(1).values
    below = torch.searchsorted(ordered, rows)
    not_above = torch.searchsorted(ordered, rows, right=True)
    ranks = (below + not_above).double().masked_fill(rows.isnan(), torch.nan)
    return ranks - ranks.nanmean(1, keepdim=True)


def similarity(maps: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rank correlation [N] of each of `maps` [N, h, w] with its namesake in `others`."""
    return {name: spearman(maps[name].flatten(1), others[name].flatten(1)) for name in maps}
