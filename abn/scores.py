"""How well a map explains a decision: perturbation curves, gain, localisation, controls, intervals.

Pure functions of batches: maps [N, h, w], images [N, 3, H, W] in [0, 1], masks bool [N, H, W].
Only `gain` sees the scale of a map; the other scores are the same for a * map + b with a > 0.
A generator may live on the CPU whatever the device of the rest.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Classify = Callable[[Tensor], Tensor]  # images [N, 3, H, W] -> probabilities [N, K]


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

    insertion, deletion = [], []
    for step in range(steps + 1):
        top = turn < round(step * cells / steps)
        insertion.append(probability(torch.where(top, images, baseline)))
        deletion.append(probability(torch.where(top, baseline, images)))
    return torch.stack(insertion, 1), torch.stack(deletion, 1)


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
    entropy = torch.special.entr(_shares(cells)).sum(1) / math.log(cells.shape[1])
    return {
        "minimum": low,
        "mean": cells.mean(1),
        "maximum": high,
        "ratio": (1 + high) / (1 + low),
        "entropy": entropy,
    }


def _shares(mass: Tensor) -> Tensor:
    """Rows [N, P] of mass >= 0 scaled to sum 1; a row without mass is spread evenly."""
    mass = mass + torch.finfo(mass.dtype).tiny
    return mass / mass.sum(1, keepdim=True)


def random_maps(n: int, h: int, w: int, generator: torch.Generator) -> Tensor:
    """The control that knows nothing: uniform noise in [0, 1), [n, h, w]."""
    return torch.rand(n, h, w, generator=generator, device=generator.device)


def centre_maps(n: int, h: int, w: int) -> Tensor:
    """The control that only knows the middle: a Gaussian, sigma 0.2 of the side, [n, h, w]."""
    column, row = (torch.exp(-(_offsets(size) ** 2) / (2 * 0.2**2)) for size in (h, w))
    return torch.outer(column, row).repeat(n, 1, 1)


def _offsets(size: int) -> Tensor:
    """Signed distances [size] of the cell centres from the middle, in sides; exactly symmetric."""
    return (torch.arange(size) - (size - 1) / 2) / size


def auroc(maps: Tensor, masks: Tensor) -> Tensor:
    """The chance [N] that a pixel inside the mask outranks one outside, a tie counting 1/2.

    The map is upsampled bilinearly. Chance is 0.5; NaN where a mask is empty or full.
    """
    values, inside = _upsampled(maps, masks), masks.flatten(1)
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    positives, negatives = inside.sum(1).double(), (~inside).sum(1).double()
    wins = ((below + not_above) * inside).sum(1).double() / 2  # also over the pixels inside
    return (wins / positives - positives / 2) / negatives


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the centre pixel of the top cell (the first of equals) lies in the mask: bool [N]."""
    h, w = maps.shape[1:]
    height, width = masks.shape[1:]
    top = maps.flatten(1).argmax(1)
    row = (2 * (top // w) + 1) * height // (2 * h)
    column = (2 * (top % w) + 1) * width // (2 * w)
    return masks.flatten(1).gather(1, (row * width + column).unsqueeze(1)).squeeze(1)


def energy(maps: Tensor, masks: Tensor) -> Tensor:
    """The share [N] in [0, 1] of the mass above the map's minimum that lies in the mask.

    The map is upsampled bilinearly. A flat map scores the mask's own share of the image.
    """
    return (_shares(_upsampled(maps, masks)) * masks.flatten(1)).sum(1)


def _upsampled(maps: Tensor, masks: Tensor) -> Tensor:
    """The maps less their minimum, at the masks' size, as float64 rows [N, H*W].

    float64, because float32 values are then weighted exactly (at 2, 4, 8... times the size) and
    equal ones stay equal.
    """
    maps = maps.double()
    raised = maps - maps.amin((1, 2), keepdim=True)
    size = (masks.shape[1], masks.shape[2])
    return F.interpolate(raised.unsqueeze(1), size, mode="bilinear", align_corners=False).flatten(1)


def bootstrap(
    values: Tensor, generator: torch.Generator, draws: int = 1000
) -> tuple[float, float, float]:
    """The mean of `values` [N] and its 95 % percentile interval: (mean, low, high).

    For a paired comparison pass the differences; leave out NaN before.
    """
    values = values.to(generator.device, torch.float64)
    shape = (draws, len(values))
    picks = torch.randint(len(values), shape, generator=generator, device=generator.device)
    levels = torch.tensor([0.025, 0.975], dtype=torch.float64, device=generator.device)
    low, high = values[picks].mean(1).quantile(levels).tolist()
    return values.mean().item(), low, high
