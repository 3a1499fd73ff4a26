"""Is a map faithful to the decision? What happens as its cells are shown or hidden, and its gain.

Maps [N, h, w], images [N, 3, H, W] in [0, 1]. Only `gain` sees the scale of a map; the other
scores are the same for a * map + b with a > 0. A generator may be on the CPU for tensors on a GPU.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain.case import Case, Classify, Samples, Scores
from abn.explain.maps import rise
from abn.runtime import progress

BATCH = 100  # images perturbed at once
BLUR = 0.1  # sigma of the baseline's Gaussian, as a share of the image's side
BASELINES = ("", "_colour")  # what hides a cell, as the ending of a score: a blur, the mean colour


class Curves(NamedTuple):
    """The probability of the prediction as the cells of one map are shown or hidden."""

    rows: Tensor  # int64 [n]: the samples measured
    insertion: Tensor  # float64 [n, steps + 1]
    deletion: Tensor  # float64 [n, steps + 1]


def score(case: Case) -> Scores:
    """Insertion, deletion and their difference (SRG) of every map, under both baselines."""
    scores: Scores = {}
    for (name, ending), pair in case.once(curves).items():
        insertion, deletion = area(pair.insertion), area(pair.deletion)
        values = {"srg": insertion - deletion, "insertion": insertion, "deletion": deletion}
        spread = {f"{key}{ending}": case.spread(part, pair.rows) for key, part in values.items()}
        scores.setdefault(name, {}).update(spread)
    return scores


def curves(case: Case) -> dict[tuple[str, str], Curves]:
    """The curves of every map and of RISE's, by map and ending of the baseline."""
    every_row = torch.arange(len(case.samples.images))
    inputs = {name: (every_row, case.samples, maps) for name, maps in case.maps.items()}
    rows, few = case.some(case.budget.rise_images, "rise")
    inputs["rise"] = rows, few, _rise(case, few)
    with progress.bar("curves", len(inputs), "map") as bar:
        return {
            (name, ending): _perturbed(case, name, ending, *columns)
            for name, columns in progress.counted(inputs.items(), bar)
            for ending in BASELINES
        }


def _rise(case: Case, few: Samples) -> Tensor:
    """RISE's maps [n, h, w]: too expensive for all samples."""
    shape = (few.attention.shape[1], few.attention.shape[2])
    inputs = few.images, few.predicted, shape, case.budget.rise_masks
    return rise(case.classify, *inputs, case.generator("rise", "masks"))


def _perturbed(
    case: Case, name: str, ending: str, rows: Tensor, samples: Samples, maps: Tensor
) -> Curves:
    """The curves of `maps` [n, h, w] of `samples`, those at `rows`, batch by batch."""
    draws, parts = case.generator(name), []
    columns = (samples.images, maps, samples.predicted)
    for images, part, labels in zip(*(x.split(BATCH) for x in columns), strict=True):
        inputs = images, _baseline(images, ending), part, labels
        pair = perturbation_curves(case.classify, *inputs, case.steps, draws)
        parts.append([curve.cpu().double() for curve in pair])
    return Curves(rows, *(torch.cat(column) for column in zip(*parts, strict=True)))


def _baseline(images: Tensor, ending: str) -> Tensor:
    """What shows where a cell is hidden."""
    if ending == "_colour":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    return blur(images, BLUR * images.shape[-1])


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
    rank = _pixel_ranks(maps, images.shape[-2], images.shape[-1], generator)

    def probability(mixed: Tensor) -> Tensor:
        return classify(mixed).gather(1, labels.unsqueeze(1)).squeeze(1)

    first, last = probability(baseline), probability(images)
    insertion, deletion = [first], [last]
    for step in range(1, steps):
        top = rank < round(step * cells / steps)
        insertion.append(probability(torch.where(top, images, baseline)))
        deletion.append(probability(torch.where(top, baseline, images)))
    return torch.stack([*insertion, last], 1), torch.stack([*deletion, first], 1)


def _pixel_ranks(maps: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """The rank, from 0 for the highest, of each pixel's cell: [N, 1, height, width]."""
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
