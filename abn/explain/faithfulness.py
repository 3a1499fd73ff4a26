"""How faithful a map is to a decision: what happens as its cells are shown or hidden, and its gain.

Pure functions of batches: maps [N, h, w], images [N, 3, H, W] in [0, 1].
Only `gain` sees the scale of a map; the other scores are the same for a * map + b with a > 0.
A generator may live on the CPU whatever the device of the rest.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain.case import Classify

# The network multiplies its features by (1 + map): below this ratio of the largest gain to the
# smallest, no place counts ten per cent more than any other, and a map is called flat.
FLAT = 1.1


def ranks(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Cell indices [N, h*w] from the highest value to the lowest; equals come in random order."""
    values = maps.flatten(1)
    keys = torch.rand(values.shape, generator=generator, device=generator.device)
    shuffle = keys.argsort(stable=True, dim=1).to(maps.device)
    order = values.gather(1, shuffle).argsort(stable=True, dim=1, descending=True)
    return shuffle.gather(1, order)


def blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, edges reflected; `sigma` in pixels, 0 < 3 sigma <= side - 1."""
    rows, columns = (_blur_matrix(size, sigma).to(images) for size in images.shape[-2:])
    return rows.T @ images @ columns


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """The matrix [size, size] that blurs a row vector from the right: every unit vector, blurred.

    A product, because convolutions on a GPU round their input to TF32 by default.
    """
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.softmax(-(offsets**2) / (2 * sigma**2), 0)
    units = torch.eye(size, dtype=torch.float64).unsqueeze(1)
    padded = F.pad(units, (radius, radius), mode="reflect")
    return F.conv1d(padded, weights.view(1, 1, -1)).squeeze(1)


@torch.no_grad()
def perturbation_curves(
    classify: Classify,
    images: Tensor,
    baseline: Tensor,
    maps: Tensor,
    labels: Tensor,
    steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Insertion and deletion curves, each [N, steps + 1]: the probability of `labels` [N].

    Point i shows the top i/steps of the cells (to the nearest cell) inserted from `images` into
    `baseline`, or replaced in `images` by `baseline`. One baseline serves both, so the difference
    of their areas is the symmetric relevance gain (Blücher et al., TMLR 2024).
    """
    cells = maps[0].numel()
    turn = _turns(maps, images.shape[-2], images.shape[-1], generator)

    def probability(mixed: Tensor) -> Tensor:
        return classify(mixed).gather(1, labels.unsqueeze(1)).squeeze(1)

    whole, hidden = probability(images), probability(baseline)
    insertion, deletion = [hidden], [whole]
    for step in range(1, steps):
        top = turn < round(step * cells / steps)
        insertion.append(probability(torch.where(top, images, baseline)))
        deletion.append(probability(torch.where(top, baseline, images)))
    return torch.stack([*insertion, whole], 1), torch.stack([*deletion, hidden], 1)


def _turns(maps: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """The place in the order, from 0, of each pixel's cell: [N, 1, height, width]."""
    h, w = maps.shape[1:]
    rows = torch.arange(height, device=maps.device) * h // height
    columns = torch.arange(width, device=maps.device) * w // width
    places = ranks(maps, generator).argsort(1)
    return places[:, rows.unsqueeze(1) * w + columns].unsqueeze(1)


def area(curves: Tensor) -> Tensor:
    """The area [N] in [0, 1] under each curve over the fraction of cells, by trapezoids."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)


def gain(maps: Tensor) -> dict[str, Tensor]:
    """How much maps in [0, 1] can change features they multiply as (1 + map); each value [N].

    minimum, mean, maximum of the map; ratio: the largest gain over the smallest, 1 (flat) to 2;
    entropy: of the map as a distribution over its cells, 0 (one cell) to 1 (flat).
    """
    cells = maps.flatten(1).double()
    low, high = cells.aminmax(dim=1)
    entropy = torch.special.entr(shares(cells)).sum(1) / math.log(cells.shape[1])
    return {
        "minimum": low,
        "mean": cells.mean(1),
        "maximum": high,
        "ratio": (1 + high) / (1 + low),
        "entropy": entropy,
    }


def shares(mass: Tensor) -> Tensor:
    """Rows [N, P] of mass >= 0 scaled to sum 1; a row without mass is spread evenly."""
    mass = mass + torch.finfo(mass.dtype).tiny
    return mass / mass.sum(1, keepdim=True)
