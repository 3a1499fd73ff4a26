"""What the decision rests on, measured by rendering the picture again without it.

For the set `shapes`, whose parts are the layers in `shapes.MASK`; the patch is the shortcut that
`data.shapes.shortcut` asks for. Nothing is blanked: what is left is a picture of the same make, and
no baseline has to be chosen (the idea of FunnyBirds: Hesse et al., ICCV 2023).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from abn.config.params import Shapes
from abn.datasets import shapes
from abn.explain import localisation
from abn.explain.statistics import spearman
from abn.runtime.errors import DataError

Change = Callable[[int], dict[str, Any]]  # of the picture at an index, as `shapes.render` takes it


class Pictures(NamedTuple):
    """N pictures, whole and without each of their parts; canvases are uint8 [N, S, S, 3]."""

    whole: Tensor
    masks: Tensor  # uint8 [N, S, S], as `shapes.MASK`
    without: dict[str, Tensor]  # by part; instead of its background, it has the next picture's


def parts(config: Shapes, seed: int, size: int, index: Tensor, split: str = "val") -> Pictures:
    """The pictures at `index` int64 [N] of a split; config, seed and size as in params.yaml.

    There is a "patch" to do without only where `config.shortcut` is not None.
    """
    names = [part for part in shapes.MASK if part != "patch" or config.shortcut is not None]

    def rendered(change: Change) -> tuple[Tensor, Tensor]:
        return _rendered(config, seed, size, index, split, change)

    whole, masks = rendered(lambda i: {})
    return Pictures(whole, masks, {part: rendered(_taken(part))[0] for part in names})


def recoloured(
    config: Shapes, seed: int, size: int, index: Tensor, classes: Tensor, split: str = "val"
) -> Tensor:
    """The canvases of `parts`, the patch in the colours of `classes` int64 [N]; all else equal."""
    colours = dict(zip(index.tolist(), classes.tolist(), strict=True))
    return _rendered(config, seed, size, index, split, lambda i: {"colour": colours[i]})[0]


def conflicting(index: Tensor) -> Tensor:
    """A class int64 [N] for each picture that is not its own: each of the nine in turn."""
    count = len(shapes.CLASSES)
    return (index + 1 + index // count % (count - 1)) % count


def check(whole: Tensor, packed: Tensor) -> None:
    """DataError unless the pictures rendered now are those of the split, to the byte."""
    if not torch.equal(whole, packed.cpu()):
        raise DataError("not rendered from these data.shapes", "data/val", "run `dvc repro`")


def regions(masks: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Where each of the parts `names` is, bool [N, H, W], from `masks` uint8 [N, H, W]."""
    return {part: masks == shapes.MASK[part] for part in names}


def importance(
    whole: Tensor, without: Mapping[str, Tensor], labels: Tensor, masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """By how much the logit of `labels` falls without each part, [N]; NaN where it is absent.

    `whole` and `without[part]` are logits [N, K], `masks[part]` bool [N, H, W].
    """
    score = whole.gather(1, labels[:, None])[:, 0]
    drops = {
        part: score - logits.gather(1, labels[:, None])[:, 0] for part, logits in without.items()
    }
    return {part: drop.where(masks[part].any((1, 2)), torch.nan) for part, drop in drops.items()}


def density(maps: Tensor, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of a map [N, h, w] over each part, relative to its mean over the image: [N].

    The map is counted from its minimum, and upsampled. 1 is chance; NaN where a part is absent or
    the map is flat.
    """
    low, high = maps.flatten(1).aminmax(dim=1)
    found = {}
    for part, mask in masks.items():
        lift = localisation.energy(maps, mask) / mask.double().mean((1, 2))
        found[part] = lift.where(low < high, torch.nan)
    return found


def agreement(importance: Mapping[str, Tensor], density: Mapping[str, Tensor]) -> Tensor:
    """Spearman's correlation [N] of the two over a picture's parts; NaN if it has less than three.

    With four parts at most it takes few values: look at its mean over many pictures.
    """
    a, b = (
        torch.stack([values[part] for part in importance], 1) for values in (importance, density)
    )
    few = (~(a.isnan() | b.isnan())).sum(1) < 3
    return spearman(a, b).masked_fill(few, torch.nan)


def reliance(
    aligned: Tensor, conflict: Tensor, removed: Tensor, labels: Tensor, shown: Tensor
) -> dict[str, float]:
    """Accuracy by what the patch says, and how often it is believed; logits are [N, K].

    aligned: its colour is that of the class; conflict: of the class `shown` [N]; removed: no patch.
    reliance: the share of the conflicts in which the prediction is the patch's class.
    """
    answers = {"aligned": aligned, "conflict": conflict, "removed": removed}
    found = {f"accuracy_{name}": _share(logits, labels) for name, logits in answers.items()}
    return found | {"reliance": _share(conflict, shown)}


def _rendered(
    config: Shapes, seed: int, size: int, index: Tensor, split: str, change: Change
) -> tuple[Tensor, Tensor]:
    """Canvases uint8 [N, S, S, 3] and masks uint8 [N, S, S]."""
    samples = [shapes.render(seed, split, i, size, config, **change(i)) for i in index.tolist()]
    images, masks = (
        np.stack(column) for column in zip(*((s.image, s.mask) for s in samples), strict=True)
    )
    return torch.from_numpy(images), torch.from_numpy(masks)


def _taken(part: str) -> Change:
    """What takes a part away."""
    if part == "background":
        return lambda i: {"redrawn": {part: i + 1}}
    return lambda i: {"without": [part]}


def _share(logits: Tensor, classes: Tensor) -> float:
    return float((logits.argmax(1) == classes).double().mean())
