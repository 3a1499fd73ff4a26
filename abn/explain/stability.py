"""Do networks trained from other seeds look at the same cells?"""

import itertools

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
    rows = maps.flatten(2)
    count = -(-rows.shape[2] // SHARE)
    places = rows.argsort(dim=2, descending=True, stable=True).argsort(2)
    ious, correlations = [], []
    for a, b in itertools.combinations(range(len(maps)), 2):
        shared = ((places[a] < count) & (places[b] < count)).sum(1).double()
        ious.append(shared / (2 * count - shared))
        correlations.append(spearman(rows[a], rows[b]))
    return torch.stack(ious).mean(0), torch.stack(correlations).mean(0)
