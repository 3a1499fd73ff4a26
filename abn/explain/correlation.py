"""Rank correlation, batched: whether two rows of values go up and down together."""

import torch
from torch import Tensor


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
