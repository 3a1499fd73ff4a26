"""The maps that are compared: the network's own, those that gradients give, and blind controls.

N images [N, 3, H, W] in [0, 1], classes `labels` int64 [N]; a map is float32 [N, h, w], detached,
on the grid it was computed on; only the order of its cells means the same for all of them.
Everything is batched over images.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain.case import Classify, Explainer, Samples, batched
from abn.models.abn import IMAGENET_MEAN, AttentionBranchNetwork
from abn.runtime.rng import generator as seeded

GRID = 7  # cells a side of RISE's random grids, as published
SHOWN = 0.5  # the chance that RISE shows a cell, as published
CONTROLS = ("random", "centre", "sobel", "oracle")  # on another grid: "centre_2x2"
GREY = (0.299, 0.587, 0.114)  # luma (ITU-R BT.601)


def compared_maps(model: AttentionBranchNetwork, samples: Samples, seed: int) -> dict[str, Tensor]:
    """The maps to compare, each [N, h, w]: the network's own, then the controls of each grid.

    A map keeps the grid it was computed on, and is compared with the controls of that grid: those
    of the attention's grid have plain names, others end in it, as "centre_2x2" (`Case.control`).
    """
    maps = explainer(model, samples.predicted)(samples.images)
    n, h, w = samples.attention.shape
    maps["random"] = random_maps(n, h, w, seeded(seed, "explain", "noise")).to(maps["attention"])
    for name in [*maps]:
        grid = (maps[name].shape[1], maps[name].shape[2])
        ending = grid_ending(grid, (h, w))
        if f"centre{ending}" not in maps:
            maps |= {f"{key}{ending}": each for key, each in _controls(samples, *grid).items()}
    return maps


def grid_ending(grid: tuple[int, int], own: tuple[int, int]) -> str:
    """How the controls of a grid (h, w) end their names; nothing on the attention's `own`."""
    return "" if grid == own else f"_{grid[0]}x{grid[1]}"


def _controls(samples: Samples, h: int, w: int) -> dict[str, Tensor]:
    """The controls of one grid but for the random one, whose SRG is 0 in expectation on any."""
    controls = {
        "centre": centre_maps(len(samples.images), h, w).to(samples.images),
        "sobel": sobel_maps(samples.images, h, w),
    }
    if samples.objects is not None:
        controls["oracle"] = oracle_maps(samples.objects, h, w)
    return controls


def explainer(model: AttentionBranchNetwork, classes: Tensor) -> Explainer:
    """The `network_maps` of `model` for `classes` int64 [N], whatever happens to the images."""
    return batched(partial(network_maps, model), classes)


@torch.no_grad()
def network_maps(
    model: AttentionBranchNetwork, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Where the network looked, and what changes z, the perception branch's logit of `labels`.

    attention: M itself, in (0, 1), the same whatever the label
    att_cam: the attention branch's map of the class, whose mean is the attention logit
    grad_attention: relu(dz/dM * M), the features held
    hirescam: relu(sum over channels of dz/dx * x), x the attended features (Draelos & Carin, 2020)
    gradcam: on layer4 (Selvaraju et al., ICCV 2017); after mean pooling it equals CAM
    gradcam_pp: Grad-CAM++ on layer4 (Chattopadhay et al., WACV 2018)

    The last two keep layer4's coarser grid: enlarged, a map of 2 x 2 would always peak in a corner.

    `model` is in eval mode. Do not call it under `torch.inference_mode`.
    """
    features, class_maps, attention, _ = model.trace(images)
    ours = F.one_hot(labels, class_maps.shape[1])
    (attended, top), slopes = _slopes(model, images, features, attention, ours)
    return {
        "attention": attention[:, 0],
        "att_cam": (class_maps * ours[:, :, None, None]).sum(1),
        "grad_attention": (slopes[0] * attention)[:, 0].relu(),
        "hirescam": (slopes[1] * attended).sum(1).relu(),
        "gradcam": _grad_cam(slopes[2], top),
        "gradcam_pp": _grad_cam_pp(slopes[2], top),
    }


@torch.enable_grad()
def _slopes(
    model: AttentionBranchNetwork,
    images: Tensor,
    features: Tensor,
    attention: Tensor,
    ours: Tensor,
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """(attended features, layer4's output), and dz by the map and by each of these two.

    One backward pass serves all images: in eval mode they do not interact, so the gradient of the
    sum of their logits is each one's own. `ours` [N, K] is one-hot.
    """
    gate = attention.detach().requires_grad_()
    tops: list[Tensor] = []
    with model.layer4.register_forward_hook(lambda *call: tops.append(call[2])):
        attended = model.attend(images, features, gate)
        logits = model.perception_branch(attended)
    slopes = torch.autograd.grad(logits, (gate, attended, tops[0]), ours.to(logits))
    return (attended.detach(), tops[0].detach()), slopes


def _grad_cam(slopes: Tensor, top: Tensor) -> Tensor:
    """[N, h', w'] of the activations `top` [N, C, h', w'] and the logit's slopes there."""
    return (slopes.mean((2, 3), keepdim=True) * top).sum(1).relu()


def _grad_cam_pp(slopes: Tensor, top: Tensor) -> Tensor:
    """As `_grad_cam`, for `top` >= 0, weighted by the derivatives of exp(z).

    alpha = slope^2 / (2 slope^2 + slope^3 sum(top)) is reduced by slope^2, so that nothing
    underflows; the factor exp(z) is left out, as it changes no order.
    """
    rising = slopes.relu()
    alpha = 1 / (2 + rising * top.sum((2, 3), keepdim=True))
    return ((alpha * rising).sum((2, 3), keepdim=True) * top).sum(1).relu()


def _resized(maps: Tensor, h: int, w: int) -> Tensor:
    resized = F.interpolate(maps.unsqueeze(1), (h, w), mode="bilinear", align_corners=False)
    return resized.squeeze(1)


@torch.no_grad()
def rise(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    shape: tuple[int, int],
    masks: int,
    generator: torch.Generator,
    batch: int = 100,
) -> Tensor:
    """The mean probability of `labels` over random `masks`, weighted by what they show: [N, h, w].

    RISE (Petsiuk et al., BMVC 2018), averaged over the cells of `shape` (h, w). All images are
    seen through the same masks, `batch` pictures at once (at least N); what is hidden fades to
    ImageNet's mean colour, which the network normalises to zero.
    """
    count, _, height, width = images.shape
    grey = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    weighted, weight = images.new_zeros(count, height, width), images.new_zeros(height, width)
    grids = torch.rand(masks, GRID, GRID, generator=generator, device=generator.device) < SHOWN
    shifts = torch.rand(masks, 2, generator=generator, device=generator.device)
    size = max(1, batch // count)
    for part, shift in zip(grids.split(size), shifts.split(size), strict=True):
        screens = _screens(part.to(images), shift.to(images), height, width)
        masked = grey + (images.unsqueeze(1) - grey) * screens.unsqueeze(1)  # [N, size, 3, H, W]
        probabilities = classify(masked.flatten(0, 1)).unflatten(0, (count, -1))  # [N, size, K]
        ours = probabilities.take_along_dim(labels.view(-1, 1, 1), 2).squeeze(2)
        weighted += (ours @ screens.flatten(1)).view_as(weighted)
        weight += screens.sum(0)
    return _cells(weighted / weight, *shape)


def _screens(grids: Tensor, shifts: Tensor, height: int, width: int) -> Tensor:
    """`grids` [M, g, g] blown up to g + 1 cells, cut out at `shifts` [M, 2] in [0, 1) cells."""
    tall, wide = math.ceil(height / GRID), math.ceil(width / GRID)
    large = _resized(grids, (GRID + 1) * tall, (GRID + 1) * wide)
    rows = (shifts[:, :1] * tall).long() + torch.arange(height, device=grids.device)
    columns = (shifts[:, 1:] * wide).long() + torch.arange(width, device=grids.device)
    each = torch.arange(len(grids), device=grids.device)
    return large[each[:, None, None], rows[:, :, None], columns[:, None, :]]


def random_maps(n: int, h: int, w: int, generator: torch.Generator) -> Tensor:
    """The control without any knowledge: uniform noise in [0, 1), [n, h, w]."""
    return torch.rand(n, h, w, generator=generator, device=generator.device)


def centre_maps(n: int, h: int, w: int) -> Tensor:
    """The control that only knows the middle: a Gaussian, sigma 0.2 of the side, [n, h, w]."""
    column, row = (torch.exp(-(_offsets(size) ** 2) / (2 * 0.2**2)) for size in (h, w))
    return torch.outer(column, row).repeat(n, 1, 1)


def _offsets(size: int) -> Tensor:
    """Signed distances [size] of the cell centres from the middle, in sides; exactly symmetric."""
    return (torch.arange(size) - (size - 1) / 2) / size


def sobel_maps(images: Tensor, h: int, w: int) -> Tensor:
    """The control that sees edges but no network: the mean luma gradient (Sobel, 3 x 3) of a cell.

    Slices, because convolutions on a GPU round their input to TF32 by default.
    """
    luma = (images * images.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate").squeeze(1)
    across = padded[:, :, 2:] - padded[:, :, :-2]
    down = padded[:, 2:] - padded[:, :-2]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    down = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    return _cells(torch.hypot(across, down), h, w)


def oracle_maps(objects: Tensor, h: int, w: int) -> Tensor:
    """Each cell's share in `objects` bool [N, H, W]: where the object is, as this grid can say it.

    A reference, not a ceiling: a network may decide by a part of the object, or by its ground.
    """
    return _cells(objects.float(), h, w)


def _cells(values: Tensor, h: int, w: int) -> Tensor:
    """The mean of `values` [N, H, W] in each of h x w cells."""
    return F.adaptive_avg_pool2d(values, (h, w))
