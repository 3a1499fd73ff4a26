"""How little of the picture is enough, by a map's own ranking? And how much of it can go?

The top of a map is shown and the rest hidden, pixel by pixel: maps [N, h, w] are upsampled
bilinearly and cut at a threshold, so that pixels of equal value are shown together. A decision is
kept where the predicted class is still the most probable one.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from abn.explain.case import PICTURES, Case, Classify, Samples, Scores
from abn.explain.faithfulness import BLUR, blur
from abn.explain.localisation import upsampled
from abn.explain.maps import CONTROLS
from abn.models.abn import AttentionBranchNetwork

# Shares of the pixels shown at first, ascending; small areas are what is looked for. Decisions are
# not monotone in the share, so halving alone would find any one of several crossings.
SHARES = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
HALVINGS = 4  # of the interval between two of them: to a sixteenth of the area or less
IMAGES = 20  # measured at once, under all maps

Keeps = Callable[[Tensor, Tensor], Tensor]  # rows int64 [n], shown bool [n, H, W] -> kept bool [n]


class Extents(NamedTuple):
    """For N images: areas as shares of the picture, float64 [N], and pixels.

    Both areas are NaN, and no pixel is in the mask, where the decision is kept with everything
    hidden: then nothing can be said with this way of hiding.
    """

    sufficient: Tensor  # the smallest top of the map that keeps the decision, above 0 to 1
    removable: Tensor  # the most that can be hidden, from the lowest up, never losing it, 0 to 1
    mask: Tensor  # bool [N, H, W]: the sufficient pixels


def score(case: Case) -> Scores:
    """`sufficient_area` and `removable_area` of the maps on some of the images.

    All maps but the controls of coarser grids: in pixels every map meets those of the finest.

    What is hidden is blurred, and the whole network decides. For `look` also, ending in `_hidden`:
    what is hidden is what the network's own map would hide (`hidden`).
    """
    rows, few = case.some(case.budget.sufficiency_images, "sufficiency")
    maps = {name: case.maps[name][rows.to(few.images.device)] for name in _names(case)}
    parts = [_areas(case, few, maps, part) for part in torch.arange(len(rows)).split(IMAGES)]
    areas = {score: torch.cat([part[score] for part in parts], 1) for score in parts[0]}
    values = {score: dict(zip(maps, each, strict=True)) for score, each in areas.items()}
    return case.scores(values, rows)


def _names(case: Case) -> list[str]:
    """The maps but the controls of coarser grids."""
    parts = {name: name.partition("_") for name in case.maps}
    return [name for name, (kind, _, grid) in parts.items() if not (grid and kind in CONTROLS)]


def _areas(case: Case, few: Samples, maps: dict[str, Tensor], part: Tensor) -> dict[str, Tensor]:
    """Each score [maps, n] of the samples at `part` int64 [n]: all maps at once, in pixels."""
    here = few.take(part.repeat(len(maps)))
    size = few.images[: len(part), 0]
    pixels = [upsampled(each[part.to(each.device)], size) for each in maps.values()]
    ways = {"": blurred(case.classify, here.images, here.predicted)}
    if case.model.looks:
        ways["_hidden"] = hidden(case.model, here)
    areas = {}
    for ending, keeps in ways.items():
        found = extents(keeps, torch.cat(pixels), here.images)
        areas[f"sufficient_area{ending}"] = found.sufficient.view(len(maps), -1)
        areas[f"removable_area{ending}"] = found.removable.view(len(maps), -1)
    return areas


def sufficient_masks(model: AttentionBranchNetwork, samples: Samples, maps: Tensor) -> Tensor:
    """The pixels bool [N, H, W] that are enough, by `maps` [N, h, w]: "these 23 % are enough".

    Hidden as `look` hides, in a residual network by a blur. Empty where the decision is kept with
    everything hidden.
    """
    if model.looks:
        keeps = hidden(model, samples)
    else:
        keeps = blurred(lambda images: model(images).logits, samples.images, samples.predicted)
    return extents(keeps, maps, samples.images).mask


def blurred(classify: Classify, images: Tensor, predicted: Tensor) -> Keeps:
    """Hide by the blur of the insertion curves; `classify` sees the picture that results."""
    baseline = blur(images, BLUR * images.shape[-1])

    def keeps(rows: Tensor, shown: Tensor) -> Tensor:
        mixed = torch.where(shown.unsqueeze(1), images[rows], baseline[rows])
        return classify(mixed).argmax(1) == predicted[rows]

    return keeps


def hidden(model: AttentionBranchNetwork, samples: Samples) -> Keeps:
    """Hide as `look` does: a map of 1 and 0 in place of the network's own.

    What the map hides cannot decide, so that here "decided from these pixels" holds literally.
    """

    def keeps(rows: Tensor, shown: Tensor) -> Tensor:
        maps = shown.unsqueeze(1).to(samples.images.dtype)
        attended = model.attend(samples.images[rows], samples.trace.features[rows], maps)
        return model.perception_branch(attended).argmax(1) == samples.predicted[rows]

    return keeps


@torch.no_grad()
def extents(keeps: Keeps, maps: Tensor, images: Tensor) -> Extents:
    """How much of `images` [N, 3, H, W] is enough, and how much can go, by `maps` [N, h, w].

    First SHARES of the pixels are shown. The sufficient share lies below the smallest that keeps
    the decision, the removable one above the largest that loses it; both are then narrowed by
    halving, always towards a picture that was seen to keep it. Where decisions are monotone the
    two areas add up to 1; else what can go is less.
    """
    cut = _cutter(maps, images)
    rows = torch.arange(len(images), device=images.device)
    shares = images.new_tensor(SHARES).double()

    def kept(rows: Tensor, shares: Tensor) -> Tensor:
        if not len(rows):
            return rows.bool()
        pairs = zip(rows.split(PICTURES), shares.split(PICTURES), strict=True)
        return torch.cat([keeps(part, cut(part, share)) for part, share in pairs])

    first = torch.stack([kept(rows, share.expand(len(rows))) for share in shares[:-1]])
    first = torch.cat([first, torch.ones_like(first[:1])])  # all shown: the decision itself
    least = first.long().argmax(0)  # of SHARES, the first that keeps it
    safe = len(SHARES) - first.long().flip(0).argmin(0)  # the one after the last that loses it
    measured = ~first[0]
    apart = measured & (safe != least)  # elsewhere both lie between the same two
    ends = torch.cat([least[measured], safe[apart]])
    where = torch.cat([rows[measured], rows[apart]])
    narrowed = _halved(kept, where, shares[ends - 1], shares[ends])

    enough = torch.zeros(len(rows), *images.shape[2:], dtype=torch.bool, device=images.device)
    count = int(measured.sum())
    enough[measured] = cut(where[:count], narrowed[:count])
    left = enough.clone()  # where the two areas are not complements, more is left than is enough
    left[apart] = cut(where[count:], narrowed[count:])
    areas = (each.double().mean((1, 2)).where(measured, torch.nan) for each in (enough, left))
    sufficient, remaining = areas
    return Extents(sufficient, 1 - remaining, enough)


def _cutter(maps: Tensor, images: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of rows int64 [n] and shares [n]: the top of these maps, bool [n, H, W].

    At least that share of the pixels: more where the last of them have equals.
    """
    values = upsampled(maps, images[:, 0])
    ordered = values.flatten(1).sort(1, descending=True).values
    pixels = ordered.shape[1]

    def cut(rows: Tensor, shares: Tensor) -> Tensor:
        numbers = (shares * pixels).round().long()
        lowest = ordered[rows, (numbers - 1).clamp_min(0)].masked_fill(numbers == 0, torch.inf)
        return values[rows] >= lowest.view(-1, 1, 1)

    return cut


def _halved(
    kept: Callable[[Tensor, Tensor], Tensor], rows: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Shares [n] that keep the decisions, close above ones that lose it, between `low` and `high`.

    At `low` the decision is lost, at `high` it is kept; and so it remains.
    """
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        still = kept(rows, middle)
        low, high = low.where(still, middle), high.where(~still, middle)
    return high
