"""Does a map stay where it should?

It should survive noise too weak to change the prediction, follow the image when that is mirrored
or shifted, and come out alike when the training is repeated.

An `Explainer` is always given all N images in their order; `case.batched` makes one.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain.case import BATCH, Classify, Explainer
from abn.explain.statistics import similarity, spearman

RADIUS = 0.02  # of the noise, where a pixel goes from 0 to 1
SHARE = 5  # one cell in so many is a top cell


def sensitivity(
    explain: Explainer,
    classify: Classify,
    images: Tensor,
    draws: int,
    generator: torch.Generator,
    radius: float = RADIUS,
) -> dict[str, Tensor]:
    """The largest relative change |A(x + e) - A(x)| / |A(x)| of each map over `draws`, [N].

    Max-sensitivity (Yeh et al., NeurIPS 2019): e uniform in +-radius, x + e clipped to [0, 1].
    A draw that changes the prediction does not count; NaN where none does, or A(x) is all zero.
    """
    still, predicted = explain(images), _predict(classify, images)
    sizes = {name: _length(maps) for name, maps in still.items()}
    worst = {name: torch.full_like(size, torch.nan) for name, size in sizes.items()}
    for _ in range(draws):
        noise = torch.rand(images.shape, generator=generator, device=generator.device)
        moved = (images + radius * (2 * noise - 1).to(images.device)).clamp(0, 1)
        same = _predict(classify, moved) == predicted
        for name, maps in explain(moved).items():
            change = _length(maps - still[name]) / sizes[name]
            counted = change.where(same & (sizes[name] > 0), torch.nan)
            worst[name] = worst[name].fmax(counted)  # a number beats NaN
    return worst


@torch.no_grad()
def _predict(classify: Classify, images: Tensor) -> Tensor:
    return torch.cat([classify(part).argmax(1) for part in images.split(BATCH)])


def _length(maps: Tensor) -> Tensor:
    return torch.linalg.vector_norm(maps, dim=(1, 2), dtype=torch.float64)


def flip_equivariance(explain: Explainer, images: Tensor) -> dict[str, Tensor]:
    """The rank correlation [N] of a mirrored image's map with the image's map, mirrored."""
    mirrored = {name: maps.flip(-1) for name, maps in explain(images).items()}
    return similarity(mirrored, explain(images.flip(-1)))


def shift_equivariance(explain: Explainer, images: Tensor, pixels: int) -> dict[str, Tensor]:
    """The rank correlation [N] of maps before and after the image moves right by a whole cell.

    `pixels` is a cell's side. The left edge is repeated; the cells that both show are compared.
    """
    shifted = F.pad(images, (pixels, 0, 0, 0), mode="replicate")[..., :-pixels]
    before = {name: maps[..., :-1] for name, maps in explain(images).items()}
    return similarity(before, {name: maps[..., 1:] for name, maps in explain(shifted).items()})


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
