"""Does a map point at the object, or at the image of its class among others?

Maps [N, h, w] against masks bool [N, H, W] of where the object is, upsampled bilinearly to the
masks' size. `auroc`, `rank_accuracy` and `pointing` see the order of the values alone;
`energy_raw` is the only score that an increasing affine change moves.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain.case import BATCH, Case, ClassExplainer, Scores, batched
from abn.explain.faithfulness import shares
from abn.explain.maps import network_maps
from abn.models.abn import AttentionBranchNetwork

TOLERANCE = 15 / 224  # of the side: what TorchRay allows a pointed-at pixel to be off
CUTS = 50  # thresholds tried


def score(case: Case) -> Scores:
    """Scores on mosaics of four images; and, on images that have a mask, the scores against it.

    `grid_pointing` and `class_follow` have a value for each mosaic, not for each sample.
    """
    by_map, located = _on_mosaics(case), case.samples.located
    if case.samples.objects is None:
        return by_map
    objects, rows = case.samples.objects[located], located.nonzero()[:, 0].cpu()
    for name, whole in case.maps.items():
        maps = whole[located]
        values = scores(maps, objects, _threshold(case.train, name))
        if name.startswith("centre"):  # on an even grid its four middle cells tie
            values |= pointing_scores(torch.ones_like(maps[:, :1, :1]), objects)
        spread = {key: case.spread(part, rows) for key, part in values.items()}
        by_map.setdefault(name, {}).update(spread)
    return by_map


def _threshold(train: Case | None, name: str) -> float | None:
    """Where the map `name` is cut for `iou`; None without training images that have a mask."""
    if train is None or train.samples.objects is None:
        return None
    located = train.samples.located
    return best_threshold(train.maps[name][located], train.samples.objects[located])


def _on_mosaics(case: Case) -> Scores:
    """The scores on mosaics, float64 [mosaics], by map; empty where there are no mosaics."""
    samples, draws = case.samples, case.generator("mosaics")
    correct = samples.predicted == samples.labels
    grids = mosaics(samples.images, samples.labels, correct, case.budget.mosaics, draws)
    if grids is None:
        return {}
    pointing = mosaic_pointing(partial(network_maps, case.model), *grids)
    by_map = {name: {"grid_pointing": shares.cpu()} for name, shares in pointing.items()}
    if case.model.looks:
        by_map["attention"]["class_follow"] = class_follow(case.model, *grids).cpu()
    return by_map


def scores(maps: Tensor, masks: Tensor, threshold: float | None) -> dict[str, Tensor]:
    """Every score against masks, each [N]; `threshold` is for `iou`, which needs it."""
    share, inside = energy(maps, masks), masks.flatten(1).double().mean(1)
    overlap = {} if threshold is None else {"iou": iou(maps, masks, threshold)}
    return {
        "auroc": auroc(maps, masks),
        "rank_accuracy": rank_accuracy(maps, masks),
        **pointing_scores(maps, masks),
        "energy": share,
        "energy_raw": energy_raw(maps, masks),
        "lift": share / inside,
        **overlap,
    }


def pointing_scores(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """`pointing` without tolerance and with TorchRay's."""
    near = dilated(masks, round(TOLERANCE * masks.shape[-1]))
    return {"pointing": pointing(maps, masks), "pointing_tolerant": pointing(maps, near)}


def auroc(maps: Tensor, masks: Tensor) -> Tensor:
    """The chance [N] that a pixel inside the mask outranks one outside, a tie counting 1/2.

    Chance is 0.5; NaN where a mask is empty or full.
    """
    values, inside = upsampled(maps, masks).flatten(1), masks.flatten(1)
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    not_above = torch.searchsorted(ordered, values, right=True)
    positives, negatives = inside.sum(1).double(), (~inside).sum(1).double()
    wins = ((below + not_above) * inside).sum(1).double() / 2  # also over the pixels inside
    return (wins / positives - positives / 2) / negatives


def rank_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """The share [N] inside the mask of the |mask| highest pixels; NaN where it is empty.

    Relevance rank accuracy (Arras et al., 2022). Of the pixels tied for the last places,
    the expected number counts as inside.
    """
    values, inside = upsampled(maps, masks).flatten(1), masks.flatten(1)
    count = inside.sum(1, keepdim=True)
    last = values.sort(1, descending=True).values.gather(1, (count - 1).clamp_min(0))
    above, tied = values > last, values == last
    room = count - above.sum(1, keepdim=True)
    expected = room * (tied & inside).sum(1, keepdim=True) / tied.sum(1, keepdim=True).double()
    return (((above & inside).sum(1, keepdim=True) + expected) / count).squeeze(1)


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the centre pixel of the top cell lies in the mask, 1 or 0: float64 [N].

    The pointing game (Zhang et al., ECCV 2016), without tolerance; see `dilated`. Where cells tie
    for the top, the share of them that lie in the mask: the chance that one drawn at random does.
    """
    h, w = maps.shape[1:]
    height, width = masks.shape[1:]
    rows = (2 * torch.arange(h, device=maps.device) + 1) * height // (2 * h)
    columns = (2 * torch.arange(w, device=maps.device) + 1) * width // (2 * w)
    hits = masks[:, rows][:, :, columns]
    top = maps == maps.amax((1, 2), keepdim=True)
    return (hits & top).sum((1, 2)) / top.sum((1, 2)).double()


def dilated(masks: Tensor, pixels: int) -> Tensor:
    """`masks` grown by a square of `pixels` on each side."""
    side = 2 * pixels + 1
    return F.max_pool2d(masks.float().unsqueeze(1), side, 1, pixels).squeeze(1) > 0


def energy(maps: Tensor, masks: Tensor) -> Tensor:
    """The share [N] in [0, 1] of the mass above the map's minimum that lies in the mask.

    A flat map scores the mask's own share of the image.
    """
    return (shares(upsampled(maps, masks).flatten(1)) * masks.flatten(1)).sum(1)


def energy_raw(maps: Tensor, masks: Tensor) -> Tensor:
    """The share [N] in [0, 1] of the positive mass that lies in the mask, the minimum included."""
    raised = upsampled(maps, masks) + maps.double().amin((1, 2), keepdim=True)
    return (shares(raised.clamp_min(0).flatten(1)) * masks.flatten(1)).sum(1)


def iou(maps: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """Intersection over union [N] of the mask and the map, scaled to [0, 1], above `threshold`."""
    above = _scaled(maps, masks) >= threshold
    inside = masks.flatten(1)
    return (above & inside).sum(1) / (above | inside).sum(1).double()


def best_threshold(maps: Tensor, masks: Tensor) -> float:
    """The one threshold in [0, 1] that gives the highest mean `iou`: for use on other images.

    Choosing it on the images it is then used on would flatter (Choe et al., CVPR 2020).
    """
    cuts = [cut / CUTS for cut in range(CUTS + 1)]
    return max(cuts, key=lambda cut: float(iou(maps, masks, cut).mean()))


def upsampled(maps: Tensor, masks: Tensor) -> Tensor:
    """The maps less their minimum, at the masks' size: float64 [N, H, W].

    float64, because float32 values are then weighted exactly (at 2, 4, 8... times the size) and
    equal ones stay equal.
    """
    raised = maps.double() - maps.double().amin((1, 2), keepdim=True)
    size = (masks.shape[1], masks.shape[2])
    return F.interpolate(raised.unsqueeze(1), size, mode="bilinear", align_corners=False).squeeze(1)


def _scaled(maps: Tensor, masks: Tensor) -> Tensor:
    """Upsampled maps over their highest value, rows [N, H*W] in [0, 1]; a flat one is 0."""
    values = upsampled(maps, masks).flatten(1)
    return values / values.amax(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


def mosaics(
    images: Tensor, labels: Tensor, correct: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """`count` mosaics [count, 3, 2H, 2W] of 2 x 2 images and their classes int64 [count, 4].

    Four different classes, each at random, not by confidence, from the images `correct` bool [N];
    quadrants along the rows. None where fewer than four classes have a correct image.
    """
    labels_cpu, usable = labels.cpu(), correct.cpu()
    present = labels_cpu[usable].unique()
    if len(present) < 4:
        return None
    order = torch.rand(count, len(present), generator=generator).argsort(1)
    classes = present[order[:, :4]]
    fits = usable & (labels_cpu == classes.unsqueeze(2))  # [count, 4, N]
    picks = torch.rand(fits.shape, generator=generator).where(fits, -1).argmax(2)
    tiles = images[picks.to(images.device)].unflatten(1, (2, 2))  # [count, 2, 2, 3, H, W]
    grids = tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return grids, classes.to(labels.device)


def mosaic_pointing(explain: ClassExplainer, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
    """`grid_pointing` [C] of each map on mosaics [C, 3, 2H, 2W] of `classes` [C, 4]."""
    quadrants = [batched(explain, column, BATCH // 4)(images) for column in classes.T]
    names = quadrants[0]
    stacked = {name: torch.stack([maps[name] for maps in quadrants], 1) for name in names}
    return {name: grid_pointing(maps) for name, maps in stacked.items()}


def grid_pointing(maps: Tensor) -> Tensor:
    """The share [C] of a positive mass in its own quadrant (Böhle et al., CVPR 2021).

    `maps` [C, 4, h, w] explain the classes of the four quadrants; the mean of the four is a
    mosaic's score, because they are not independent. Chance, and the score of a map without
    positive mass, is 0.25: also of any map that is the same for every class.
    """
    mass = maps.double().clamp_min(0)
    halves = mass.repeat_interleave(2, 2).repeat_interleave(2, 3)  # also of a middle row or column
    inside = halves.unflatten(3, (2, -1)).unflatten(2, (2, -1)).sum((3, 5)).flatten(2)  # [C, 4, 4]
    inside = inside + torch.finfo(torch.float64).tiny  # even where there is none
    return (inside / inside.sum(2, keepdim=True)).diagonal(dim1=1, dim2=2).mean(1)


@torch.no_grad()
def class_follow(model: AttentionBranchNetwork, images: Tensor, classes: Tensor) -> Tensor:
    """Does the decision follow the map? The share [C] of four maps whose class then wins.

    On each mosaic [C, 3, 2H, 2W] the map of each of its four `classes` [C, 4] is laid in turn, and
    the class must be the most probable of the four. Chance is 0.25: also the score of a network
    that does not heed its map, as one of the four wins under all of them. For `look` only.
    """
    batches = zip(images.split(BATCH // 4), classes.split(BATCH // 4), strict=True)
    return torch.cat([_followed(model, *batch) for batch in batches])


def _followed(model: AttentionBranchNetwork, mosaics: Tensor, four: Tensor) -> Tensor:
    features, class_maps, _, _ = model.trace(mosaics)
    shares = []
    for place, column in enumerate(four.T):
        attention = model.class_attention(class_maps, column)
        logits = model.perception_branch(model.attend(mosaics, features, attention))
        shares.append(logits.gather(1, four).argmax(1) == place)
    return torch.stack(shares).double().mean(0)
