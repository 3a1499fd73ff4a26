"""Do networks trained from other seeds look at the same cells?"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from abn.explain.case import Case, Scores
from abn.explain.maps import explainer
from abn.explain.statistics import spearman

SHARE = 5  # one cell in five is a top cell


def score(case: Case) -> Scores:
    """How alike the maps of the network and its siblings are; nothing without siblings."""
    if not case.siblings:
        return {}
    models, samples = (case.model, *case.siblings), case.samples
    maps = [explainer(model, samples.predicted)(samples.images) for model in models]
    stacked = {name: torch.stack([each[name] for each in maps]) for name in maps[0]}
    values = {name: stability(each) for name, each in stacked.items()}
    return {
        name: {"stability": iou.cpu(), "stability_ranks": ranks.cpu()}
        for name, (iou, ranks) in values.items()
    }


def stability(maps: Tensor) -> tuple[Tensor, Tensor]:
    """How alike S > 1 trained networks' maps [S, N, h, w] of the same images are: two scores [N].

    The IoU of the top 20 % of the cells (rounded up, the first of equals; LFI-CAM, ICCV 2021), and
    the rank correlation; means over the pairs.
    """
    rows, top = maps.flatten(2), top_cells(maps)
    ious, correlations = [], []
    for a, b in itertools.combinations(range(len(maps)), 2):
        shared, either = (top[a] & top[b]).sum(1), (top[a] | top[b]).sum(1)
        ious.append(shared.double() / either)
        correlations.append(spearman(rows[a], rows[b]))
    return torch.stack(ious).mean(0), torch.stack(correlations).mean(0)


def top_cells(maps: Tensor) -> Tensor:
    """Which cells are the top 20 % of maps [..., h, w], rounded up: bool [..., h * w]."""
    rows = maps.flatten(-2)
    places = rows.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return places < -(-rows.shape[-1] // SHARE)


def written(cells: Tensor) -> list[str]:
    """`top_cells` bool [N, cells] as texts: x, then hexadecimal digits; the first cell is a 1."""
    return [f"x{sum(1 << i for i in row.nonzero()[:, 0].tolist()):x}" for row in cells.cpu()]


def overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """The mean IoU of `top_cells` of the same N > 0 images as texts, from two networks."""
    pairs = [(int(a[1:], 16), int(b[1:], 16)) for a, b in zip(one, other, strict=True)]
    return sum((a & b).bit_count() / (a | b).bit_count() for a, b in pairs) / len(pairs)
