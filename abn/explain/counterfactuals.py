"""Which parts of a picture decide, measured by rendering it again without them.

For the set `shapes`, whose parts are the layers in `shapes.MASK`; the patch is the shortcut that
`data.shapes.shortcut` asks for. Nothing is blanked: what remains is a picture of the same kind, and
no baseline has to be chosen (the idea of FunnyBirds: Hesse et al., ICCV 2023).
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from abn.config.params import Shapes
from abn.data import loader
from abn.datasets import shapes
from abn.explain import localisation
from abn.explain.case import PICTURES, Case, Pictures, Scores
from abn.runtime.errors import DataError

Change = Callable[[int], dict[str, Any]]  # of the picture at an index, as `shapes.render` takes it


def score(case: Case) -> Scores:
    """How dense each map is on each part, and whether in the order of its importance."""
    if case.pictures is None:
        return {}
    importance, regions = case.once(part_importance), case.once(part_regions)
    by_map: Scores = {}
    for name, maps in case.maps.items():
        densities = density(maps, regions)
        by_map[name] = {"agreement": agreement(importance, densities).cpu()}
        for part, values in densities.items():
            if part != "target":  # that is "lift"
                by_map[name][f"density_{part}"] = values.cpu().double()
    return by_map


def part_regions(case: Case) -> dict[str, Tensor]:
    """Where each part of the pictures is, bool [N, H, W]; empty without pictures."""
    if case.pictures is None:
        return {}
    assert case.samples.masks is not None
    return regions(case.samples.masks, case.pictures.without)


def part_importance(case: Case) -> dict[str, Tensor]:
    """By how much the predicted class's logit falls without each part, [N]; as `importance`."""
    if case.pictures is None:
        return {}
    without = {part: _logits(case, canvases) for part, canvases in case.pictures.without.items()}
    trace, predicted = case.samples.trace, case.samples.predicted
    return importance(trace.logits, without, predicted, case.once(part_regions))


@torch.no_grad()
def _logits(case: Case, canvases: Tensor) -> Tensor:
    """The perception branch's logits [N, K] of square `canvases` uint8 [N, S, S, 3]."""
    device = case.samples.images.device
    parts = canvases.split(PICTURES)
    cropped = (
        loader.transform(part.to(device), torch.ones(len(part)), case.view) for part in parts
    )
    return torch.cat([case.model(images).logits for images in cropped])


def parts(config: Shapes, seed: int, size: int, index: Tensor, split: str = "val") -> Pictures:
    """The pictures at `index` int64 [N] of a split; config, seed and size as in params.yaml.

    Only where `config.shortcut` is not None is there a "patch" to leave out.
    """
    names = [part for part in shapes.MASK if part != "patch" or config.shortcut is not None]

    def rendered(change: Change) -> tuple[Tensor, Tensor]:
        samples = [shapes.render(seed, split, i, size, config, **change(i)) for i in index.tolist()]
        columns = zip(*((sample.image, sample.mask) for sample in samples), strict=True)
        images, masks = (torch.from_numpy(np.stack(column)) for column in columns)
        return images, masks

    whole, masks = rendered(lambda i: {})
    return Pictures(whole, masks, {part: rendered(_without(part))[0] for part in names})


def check(rendered: Tensor, packed: Tensor) -> None:
    """DataError unless the pictures rendered now are those of the split, to the byte."""
    if not torch.equal(rendered, packed.cpu()):
        raise DataError("not rendered from these data.shapes", "data/val", "run `dvc repro`")


def regions(masks: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Where each of the parts `names` is, bool [N, H, W], from `masks` uint8 [N, H, W]."""
    return {part: masks == shapes.MASK[part] for part in names}


def importance(
    logits: Tensor, without: Mapping[str, Tensor], labels: Tensor, masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """By how much the logit of `labels` falls without each part, [N]; NaN where it is absent.

    `logits` and `without[part]` are [N, K], `masks[part]` bool [N, H, W].
    """
    score = logits.gather(1, labels[:, None])[:, 0]
    drops = {part: score - each.gather(1, labels[:, None])[:, 0] for part, each in without.items()}
    return {part: drop.where(masks[part].any((1, 2)), torch.nan) for part, drop in drops.items()}


def density(maps: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of a map [N, h, w] over each part, relative to its mean over the image: [N].

    The map is upsampled, less its minimum. 1 is chance; NaN where a part is absent or the map flat.
    """
    low, high = maps.flatten(1).aminmax(dim=1)
    densities = {}
    for part, mask in masks.items():
        lift = localisation.energy(maps, mask) / mask.double().mean((1, 2))
        densities[part] = lift.where(low < high, torch.nan)
    return densities


def agreement(importance: Mapping[str, Tensor], density: Mapping[str, Tensor]) -> Tensor:
    """Kendall's rank correlation [N] of the two over a picture's parts, weighted by importance.

    sum of w * sign(i_p - i_q) * sign(d_p - d_q) over sum of w, over all pairs of parts p, q with
    the weight w = |i_p - i_q|: a pair counts by how much more one part decides than the other. So
    it matters that the map is denser on the part that decides, and hardly in which order it has
    two parts that do not. 1 to -1; a random map's mean is 0. NaN where fewer than two parts are
    there, or all are equally important.
    """
    i, d = (_differences([values[part] for part in importance]) for values in (importance, density))
    both = ~(i.isnan() | d.isnan())
    agreed = (i * d.sign()).where(both, 0).sum(1)
    return agreed / i.abs().where(both, 0).sum(1)  # 0 / 0 is NaN


def _differences(parts: list[Tensor]) -> Tensor:
    """The differences of all pairs of P values [N]: [N, P * (P - 1) / 2]."""
    pairs = itertools.combinations(parts, 2)
    empty = parts[0].new_empty(len(parts[0]), 0)
    return torch.cat([empty, *((a - b).unsqueeze(1) for a, b in pairs)], 1)


def _without(part: str) -> Change:
    """The change that removes a part."""
    if part == "background":
        return lambda i: {"redrawn": {part: i + 1}}
    return lambda i: {"without": [part]}
