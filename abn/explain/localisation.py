"""Does a map point at the object? Maps [N, h, w] against masks bool [N, H, W] of where it is.

Maps are upsampled bilinearly to the masks' size. `auroc`, `rank_accuracy` and `pointing` see the
order of the values alone; `energy_raw` is the only score that an increasing affine change moves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain.faithfulness import shares

TOLERANCE = 15 / 224  # of the side: what TorchRay allows a pointed-at pixel to be off
CUTS = 50  # thresholds tried


def located(maps: Tensor, masks: Tensor, threshold: float) -> dict[str, Tensor]:
    """Every score of this module, each [N]; `threshold` is for `iou`."""
    share, inside = energy(maps, masks), masks.flatten(1).double().mean(1)
    near = dilated(masks, round(TOLERANCE * masks.shape[-1]))
    return {
        "auroc": auroc(maps, masks),
        "rank_accuracy": rank_accuracy(maps, masks),
        "pointing": pointing(maps, masks).double(),
        "pointing_tolerant": pointing(maps, near).double(),
        "energy": share,
        "energy_raw": energy_raw(maps, masks),
        "lift": share / inside,
        "iou": iou(maps, masks, threshold),
    }


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

    Relevance rank accuracy (Arras et al., 2022). Of pixels tied at the end of that count, as many
    are taken to be inside as is to be expected.
    """
    values, inside = upsampled(maps, masks).flatten(1), masks.flatten(1)
    count = inside.sum(1, keepdim=True)
    last = values.sort(1, descending=True).values.gather(1, (count - 1).clamp_min(0))
    above, tied = values > last, values == last
    room = count - above.sum(1, keepdim=True)
    drawn = room * (tied & inside).sum(1, keepdim=True) / tied.sum(1, keepdim=True).double()
    return (((above & inside).sum(1, keepdim=True) + drawn) / count).squeeze(1)


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the centre pixel of the top cell (the first of equals) lies in the mask: bool [N].

    The pointing game (Zhang et al., ECCV 2016), without tolerance; see `dilated`.
    """
    h, w = maps.shape[1:]
    height, width = masks.shape[1:]
    top = maps.flatten(1).argmax(1)
    row = (2 * (top // w) + 1) * height // (2 * h)
    column = (2 * (top % w) + 1) * width // (2 * w)
    return masks.flatten(1).gather(1, (row * width + column).unsqueeze(1)).squeeze(1)


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
    """The share [N] in [0, 1] of the positive mass that lies in the mask, the minimum left in."""
    whole = upsampled(maps, masks) + maps.double().amin((1, 2), keepdim=True)
    return (shares(whole.clamp_min(0).flatten(1)) * masks.flatten(1)).sum(1)


def iou(maps: Tensor, masks: Tensor, threshold: float) -> Tensor:
    """Intersection over union [N] of the mask and the map, scaled to [0, 1], above `threshold`."""
    found = _scaled(maps, masks) >= threshold
    inside = masks.flatten(1)
    return (found & inside).sum(1) / (found | inside).sum(1).double()


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
