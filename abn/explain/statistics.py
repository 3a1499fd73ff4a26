"""Statistics of scores: intervals that keep what they promise, paired wins, rank correlation.

Every interval is at 95 %: of all repetitions at most 2.5 % put the true value below it and at most
2.5 % above it (tests/explain/test_error_rates.py simulates that). It covers other images of the
same kind and, where a score has several draws of random weights, other draws; not other trainings.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from scipy import special
from torch import Tensor

# How the names of scores begin where less is better, and where there is no better.
LOWER = ("deletion", "sensitivity", "randomised", "leak", "sufficient")
NEUTRAL = "density"
SHARES = ("pointing", "leak", "class_follow")  # of yes and no, of one draw an image or of a few
UNITS = 20  # with fewer independent units no method keeps its promise: then there is no interval
LEVEL = 0.95
HAZEN = 8.5  # the skewness of n values is too small by a factor of about 1 + 8.5 / n
Bounds = tuple[Tensor, Tensor]


class Estimate(NamedTuple):
    """A mean and its interval."""

    mean: float
    low: float
    high: float
    units: int  # independent ones that were measured: images, or mosaics
    share: bool = False  # whether the interval is that of a share
    level: float = LEVEL

    def at(self, units: int) -> "Estimate":
        """The interval to expect if `units` were measured and their mean were the same."""
        if self.share:
            ends = share_bounds(torch.tensor(self.mean), units, self.level)
            low, high = (float(end) for end in ends)
        else:
            scale = (self.units / units) ** 0.5
            low, high = (self.mean + (end - self.mean) * scale for end in (self.low, self.high))
        return self._replace(low=low, high=high, units=units)


def estimate(values: Tensor | None, share: bool = False, level: float = LEVEL) -> Estimate | None:
    """The mean of `values` and its interval; None if fewer than UNITS units were measured.

    `values` are [n], one for each independent unit, or [draws, n] where all units share each draw
    of random weights. For a paired comparison pass the differences. NaN was not measured.
    `share`: every value lies in [0, 1] and is yes (1), no (0) or the mean of a few of these.
    """
    if values is None:
        return None
    table = torch.atleast_2d(values.detach().cpu().double())
    measured = ~table.isnan()
    table = table[measured.any(1)][:, measured.any(0)]
    draws, units = table.shape
    if units < UNITS:
        return None
    mean = table.nanmean()
    if share:
        low, high = share_bounds(mean, units, level)
    elif draws == 1:
        low, high = mean_bounds(table[0], level)
    else:
        low, high = two_level_bounds(table, level)
    return Estimate(float(mean), float(low), float(high), units, share, level)


def share_bounds(mean: Tensor, units: int, level: float = LEVEL) -> Bounds:
    """The exact interval of shares `mean` [...] of `units` (Clopper & Pearson, Biometrika 1934).

    units * mean need not be whole: means of several draws vary less than single draws do, so the
    interval is then wider than it has to be.
    """
    tail, yes = (1 - level) / 2, (units * mean.double()).numpy().round(9)
    no = units - yes
    low = special.betaincinv(yes.clip(1e-300), no + 1, tail)
    high = special.betaincinv(yes + 1, no.clip(1e-300), 1 - tail)
    return torch.as_tensor(low).where(mean > 0, 0.0), torch.as_tensor(high).where(mean < 1, 1.0)


def mean_bounds(values: Tensor, level: float = LEVEL) -> Bounds:
    """The interval of the mean of `values` [..., n]: Student's, widened where they are skew.

    On each side the wider of Student's interval and of Hall's (JRSS B, 1992), which corrects it for
    skewness: with 20 images neither Student's nor BCa's alone keeps its 2.5 % on what occurs here.
    """
    n, mean, sd = values.shape[-1], values.mean(-1), values.std(-1)
    cubes = (values - mean.unsqueeze(-1)).pow(3).mean(-1)
    skewness = cubes / sd.pow(3).clamp_min(torch.finfo(sd.dtype).tiny) * (1 + HAZEN / n)
    t = torch.full_like(mean, float(special.stdtrit(n - 1, (1 + level) / 2)) / n**0.5)
    below = torch.maximum(t, _hall(t, skewness, n))
    above = torch.maximum(t, -_hall(-t, skewness, n))
    return mean - sd * below, mean + sd * above


def _hall(t: Tensor, skewness: Tensor, n: int) -> Tensor:
    """(mean - true mean) / sd where Hall's cubic of it, which never falls, is `t`."""
    skewness = skewness.where(skewness.abs() > 1e-6, 1e-6)
    inside = 1 + skewness * (t - skewness / (6 * n))
    return 3 / skewness * (inside.sign() * inside.abs().pow(1 / 3) - 1)


def two_level_bounds(values: Tensor, level: float = LEVEL) -> Bounds:
    """The interval of the mean of `values` [..., draws, n] over other draws and other units.

    The variances of the draws' means and of the units' means add up; the degrees of freedom are
    Welch's and Satterthwaite's, so that few draws widen it: a bootstrap of five is too narrow.
    """
    means = values.nanmean(-1), values.nanmean(-2)
    variances = [each.var(-1) / each.shape[-1] for each in means]
    terms = [x.square() / (size - 1) for x, size in zip(variances, values.shape[-2:], strict=True)]
    total = variances[0] + variances[1]
    freedom = (total.square() / (terms[0] + terms[1])).nan_to_num(1.0)
    reach = torch.as_tensor(special.stdtrit(freedom.numpy(), (1 + level) / 2)) * total.sqrt()
    mean = values.nanmean((-2, -1))
    return mean - reach, mean + reach


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
