"""Is a map faithful to the decision? What happens as its cells are shown or hidden, and its gain.

Maps [N, h, w], images [N, 3, H, W] in [0, 1]. Only `gain` sees the scale of a map; the other
scores are the same for a * map + b with a > 0. A generator may be on the CPU for tensors on a GPU.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain.case import BATCH, PICTURES, Case, Classify, Samples, Scores
from abn.explain.maps import rise
from abn.runtime import progress

BLUR = 0.1  # sigma of the baseline's Gaussian, as a share of the image's side
BASELINES = ("", "_colour")  # what hides a cell, as the ending of a score: a blur, the mean colour
# The attention's gates compare these on every image; the oracle is their common reference. So may
# Att-CAM be: where the attention fails, it is the likeliest map to recommend.
EVERYWHERE = ("attention", "att_cam", "centre", "sobel", "oracle")
COLOUR = ("attention", "centre", "oracle")  # measured under the other baseline too, as a check


class Curves(NamedTuple):
    """The probability of the prediction as the cells of one map are shown or hidden."""

    rows: Tensor  # int64 [n]: the samples measured
    insertion: Tensor  # float64 [n, steps + 1]
    deletion: Tensor  # float64 [n, steps + 1]


class Job(NamedTuple):
    """Maps that are measured on the same images under the same baseline."""

    rows: Tensor  # int64 [n]: the samples measured
    samples: Samples  # at `rows`
    places: dict[str, Tensor]  # by map, int64 [n, h, w]: see `places`
    ending: str  # of the baseline


def score(case: Case) -> Scores:
    """Insertion, deletion and their difference (SRG) of every map; some under both baselines.

    The maps that the attention's gates compare are measured on every image, the others on fewer.
    SRG is 0 in expectation for a random order of the cells, on any grid.
    """
    scores: Scores = {}
    for (name, ending), pair in case.once(curves).items():
        insertion, deletion = area(pair.insertion), area(pair.deletion)
        values = {"srg": insertion - deletion, "insertion": insertion, "deletion": deletion}
        spread = {f"{key}{ending}": case.spread(part, pair.rows) for key, part in values.items()}
        scores.setdefault(name, {}).update(spread)
    return scores


def curves(case: Case) -> dict[tuple[str, str], Curves]:
    """The curves of every map and of RISE's, by map and ending of the baseline."""
    jobs = _jobs(case)
    batches = [(job, part) for job in jobs for part in torch.arange(len(job.rows)).split(BATCH)]
    parts: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
    with progress.bar("curves", len(batches), "batch") as bar:
        for job, part in progress.counted(batches, bar):
            for name, pair in _measured(case, job, part).items():
                parts.setdefault((name, job.ending), []).append(pair)
    rows = {(name, job.ending): job.rows for job in jobs for name in job.places}
    return {
        key: Curves(rows[key], *(torch.cat(column) for column in zip(*pairs, strict=True)))
        for key, pairs in parts.items()
    }


def _jobs(case: Case) -> list[Job]:
    """Every map under the blur, then some under the mean colour."""
    every = torch.arange(len(case.samples.images))
    some, few = case.some(case.budget.rival_images, "rivals")
    rows, fewer = case.some(case.budget.rise_images, "rise")

    def places_of(names: Iterable[str], here: Tensor) -> dict[str, Tensor]:
        maps = {name: case.maps[name] for name in case.maps if name in names}
        kept = {name: each[here.to(each.device)] for name, each in maps.items()}
        return {name: places(each, case.generator(name)) for name, each in kept.items()}

    sampled = {"rise": places(_rise(case, fewer), case.generator("rise"))}
    jobs = (
        Job(every, case.samples, places_of(EVERYWHERE, every), ""),
        Job(some, few, places_of(case.maps.keys() - {*EVERYWHERE}, some), ""),
        Job(rows, fewer, sampled, ""),
        Job(some, few, places_of(COLOUR, some), "_colour"),
    )
    return [job for job in jobs if job.places]


def _rise(case: Case, few: Samples) -> Tensor:
    """RISE's maps [n, h, w]: too expensive for all samples."""
    shape = (few.attention.shape[1], few.attention.shape[2])
    inputs = few.images, few.predicted, shape, case.budget.rise_masks
    return rise(case.classify, *inputs, case.generator("rise", "masks"), PICTURES)


def _measured(case: Case, job: Job, part: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The insertion and deletion curves of a job's maps on its images `part` int64 [n]."""
    here = part.to(job.samples.images.device)
    images, labels = job.samples.images[here], job.samples.predicted[here]
    orders = {name: each[here] for name, each in job.places.items()}
    inputs = images, _baseline(images, job.ending), orders, labels, case.steps
    return perturbation_curves(case.classify, *inputs)


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
    places: Mapping[str, Tensor],
    labels: Tensor,
    steps: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Insertion and deletion curves by map, each float64 [N, steps + 1], on the CPU.

    `places` of each map are int64 [N, h, w]. Point i is the probability of `labels` [N] with the
    top i/steps of the cells inserted from `images` into `baseline`, or replaced in `images` by
    `baseline`. One baseline serves both, so the difference of their areas is the symmetric
    relevance gain (Blücher et al., TMLR 2024). The numbers of cells are `counts`; between them the
    curves are straight. Maps of one grid share their pictures: equal ones are classified once.
    """
    grids: dict[torch.Size, list[str]] = {}
    for name, each in places.items():
        grids.setdefault(each.shape[1:], []).append(name)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for grid, names in grids.items():
        points = counts(grid.numel(), steps)
        top = torch.stack([_top(places[name].cpu(), points) for name in names], 1)
        shown = torch.stack([top, ~top], 2)  # [N, maps, 2, points, h, w]
        inputs = shown.flatten(1, 3), images, baseline, labels
        values = _probabilities(classify, *inputs).view(shown.shape[:4])
        even = values.double() @ _between(points, steps)
        found |= {name: (even[:, i, 0], even[:, i, 1]) for i, name in enumerate(names)}
    return {name: found[name] for name in places}


def places(maps: Tensor, generator: torch.Generator) -> Tensor:
    """The place of each cell of `maps` [N, h, w] in its map's ranking: int64, 0 is the highest."""
    return ranks(maps, generator).argsort(1).view(maps.shape)


def counts(cells: int, steps: int) -> list[int]:
    """How many of `cells` are shown at the points of a curve, ascending from 0 to all.

    Each i/steps of them to the nearest cell; and with each count its complement, so that the
    pictures of insertion and deletion are the same for a random order.
    """
    nearest = {round(step * cells / steps) for step in range(steps + 1)}
    return sorted(nearest | {cells - count for count in nearest})


def _top(places: Tensor, points: list[int]) -> Tensor:
    """Whether a cell is among the top ones: bool [N, points, h, w]."""
    return places.unsqueeze(1) < torch.tensor(points).view(1, -1, 1, 1)


def _between(points: list[int], steps: int) -> Tensor:
    """The matrix float64 [points, steps + 1] from values at `points` to values at even steps."""
    even = np.arange(steps + 1) * points[-1] / steps
    rows = [np.interp(even, points, unit) for unit in np.eye(len(points))]
    return torch.from_numpy(np.stack(rows))


def _probabilities(
    classify: Classify, shown: Tensor, images: Tensor, baseline: Tensor, labels: Tensor
) -> Tensor:
    """The probability [N, P], on the CPU, of `labels` with the cells `shown` bool [N, P, h, w]."""
    count, pictures, h, w = shown.shape
    owner = torch.arange(count).repeat_interleave(pictures).unsqueeze(1)
    wanted = torch.cat([owner, shown.flatten(0, 1).flatten(1).long()], 1)
    distinct, place = wanted.unique(dim=0, return_inverse=True)
    cells = _cell_of_pixel(h, w, images.shape[-2], images.shape[-1])
    values = []
    for part in distinct.split(PICTURES):
        rows = part[:, 0].to(images.device)
        visible = part[:, 1:].bool()[:, cells].unsqueeze(1).to(images.device)
        chances = classify(torch.where(visible, images[rows], baseline[rows]))
        values.append(chances.gather(1, labels[rows].unsqueeze(1)).squeeze(1).cpu())
    return torch.cat(values)[place].view(count, pictures)


def _cell_of_pixel(h: int, w: int, height: int, width: int) -> Tensor:
    """The index of each pixel's cell, int64 [height, width]."""
    rows = torch.arange(height) * h // height
    return rows.unsqueeze(1) * w + torch.arange(width) * w // width


def area(curves: Tensor) -> Tensor:
    """The area [N] in [0, 1] under each curve over the fraction of cells, by trapezoids."""
    return torch.trapezoid(curves, dx=1 / (curves.shape[1] - 1), dim=1)


def gain(maps: Tensor, looks: bool = False) -> dict[str, Tensor]:
    """How much maps in [0, 1] can change what they multiply; each value [N].

    The gain of a cell is 1 + map on features (residual), the map itself on the picture (`looks`).

    minimum, mean, maximum of the map; ratio: the largest gain over the smallest, 1 where the map
    is flat, at most 2 (residual) or without bound (infinite where the smallest is 0);
    entropy: of the map as a distribution over its cells, 0 (one cell) to 1 (flat).
    """
    cells = maps.flatten(1).double()
    low, high = cells.aminmax(dim=1)
    least = 0 if looks else 1
    ratio = ((least + high) / (least + low)).where(low < high, 1.0)
    entropy = torch.special.entr(shares(cells)).sum(1) / math.log(cells.shape[1])
    return {
        "minimum": low,
        "mean": cells.mean(1),
        "maximum": high,
        "ratio": ratio,
        "entropy": entropy,
    }


def shares(mass: Tensor) -> Tensor:
    """Rows [N, P] of mass >= 0 scaled to sum 1; a row without mass is spread evenly."""
    mass = mass + torch.finfo(mass.dtype).tiny
    return mass / mass.sum(1, keepdim=True)
