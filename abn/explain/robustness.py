"""Does a map stay the same where it should?

It should survive noise too weak to change the prediction, and follow the image when that is
mirrored or shifted.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain.case import PICTURES, Case, Classify, Explainer, Scores
from abn.explain.maps import explainer
from abn.explain.statistics import similarity

RADIUS = 0.02  # of the noise, where a pixel goes from 0 to 1
DRAWS = 5  # of noise: a part of the definition, because more draws find a larger change


def score(case: Case) -> Scores:
    """Sensitivity and equivariance of the network's maps, on some of the images."""
    rows, few = case.some(case.budget.robustness_images, "robust")
    explain = explainer(case.model, few.predicted)
    noise = case.generator("sensitivity")
    values = {
        "sensitivity": sensitivity(explain, case.classify, few.images, DRAWS, noise),
        "flip": flip_equivariance(explain, few.images),
        "shift": shift_equivariance(explain, few.images),
    }
    return case.scores(values, rows)


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
        noisy = (images + radius * (2 * noise - 1).to(images.device)).clamp(0, 1)
        same = _predict(classify, noisy) == predicted
        for name, maps in explain(noisy).items():
            change = _length(maps - still[name]) / sizes[name]
            counted = change.where(same & (sizes[name] > 0), torch.nan)
            worst[name] = worst[name].fmax(counted)  # a number beats NaN
    return worst


@torch.no_grad()
def _predict(classify: Classify, images: Tensor) -> Tensor:
    return torch.cat([classify(part).argmax(1) for part in images.split(PICTURES)])


def _length(maps: Tensor) -> Tensor:
    return torch.linalg.vector_norm(maps, dim=(1, 2), dtype=torch.float64)


def flip_equivariance(explain: Explainer, images: Tensor) -> dict[str, Tensor]:
    """The rank correlation [N] of a mirrored image's map with the image's map, mirrored."""
    mirrored = {name: maps.flip(-1) for name, maps in explain(images).items()}
    return similarity(mirrored, explain(images.flip(-1)))


def shift_equivariance(explain: Explainer, images: Tensor) -> dict[str, Tensor]:
    """The rank correlation [N] of maps before and after the image moves right by a whole cell.

    Each map's own cell. The left edge is repeated; the cells that both show are compared.
    """
    before = explain(images)
    sides = {name: images.shape[-1] // maps.shape[-1] for name, maps in before.items()}
    moved = {pixels: explain(_shifted(images, pixels)) for pixels in {*sides.values()}}
    after = {name: moved[pixels][name][..., 1:] for name, pixels in sides.items()}
    return similarity({name: maps[..., :-1] for name, maps in before.items()}, after)


def _shifted(images: Tensor, pixels: int) -> Tensor:
    return F.pad(images, (pixels, 0, 0, 0), mode="replicate")[..., :-pixels]
