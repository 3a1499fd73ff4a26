"""Pictures whose patch may mislead, and what a network makes of them: which part it relies on.

For the set `shapes` with `data.shapes.shortcut`. Maps and importance are those of the predicted
class, on pictures whose patch shows their own class.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from abn.config.params import Data, Shapes
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.datasets import shapes
from abn.explain import counterfactuals, maps
from abn.explain.case import Samples, collect
from abn.models.abn import AttentionBranchNetwork
from abn.predict import predict
from abn.runtime.rng import generator

BATCH = 50  # images looked at once
Parts = dict[str, Tensor]  # a value [N] for each part of N pictures


class Pictures(NamedTuple):
    """The same N pictures in every way they are shown; canvases are uint8 [N, S, S, 3]."""

    aligned: Split  # the patch in the colour of the picture's class
    without: dict[str, Tensor]  # `aligned` without each part
    conflict: Tensor  # the patch in another class's colour
    shown: Tensor  # int64 [N]: that class


class Examined(NamedTuple):
    """What one network makes of the pictures."""

    behaviour: dict[str, float]  # accuracies and reliance
    importance: Parts
    density: dict[str, Parts]  # by map


def pictures(config: Data, count: int) -> Pictures:
    """The first `count` validation pictures, in every way."""
    index = torch.arange(count)
    telling = config.shapes.model_copy(update={"shortcut": 1.0})
    labels, shown = index % len(shapes.CLASSES), conflicting(index)
    whole, masks, without = counterfactuals.parts(telling, config.seed, config.size, index)
    conflict = recoloured(telling, config, index, shown)
    about = shapes.CLASSES, "shapes", "", tuple(shapes.names("val", count))
    aligned = Split(whole, labels, torch.ones(count), masks, *about)
    return Pictures(aligned, without, conflict, shown)


def examine(
    model: AttentionBranchNetwork, pictures: Pictures, view: CenterCrop, seed: int
) -> Examined:
    """Show `model` the pictures through `view`; `seed` draws the random map."""
    device = next(model.parameters()).device

    def logits(canvases: Tensor) -> Tensor:
        shown = dataclasses.replace(pictures.aligned, images=canvases)
        return predict(model, shown, view, BATCH, device).logits

    labels = pictures.aligned.labels
    samples = collect(model, pictures.aligned, torch.arange(len(labels)), view)
    assert samples.masks is not None
    masks = counterfactuals.regions(samples.masks.cpu(), pictures.without)
    whole, conflict = logits(pictures.aligned.images), logits(pictures.conflict)
    without = {part: logits(canvases) for part, canvases in pictures.without.items()}
    drawn = _maps(model, samples, seed)
    return Examined(
        reliance(whole, conflict, without["patch"], labels, pictures.shown),
        counterfactuals.importance(whole, without, whole.argmax(1), masks),
        {name: counterfactuals.density(each, masks) for name, each in drawn.items()},
    )


def conflicting(index: Tensor) -> Tensor:
    """A wrong class int64 [N] for each picture: each of the nine others in turn."""
    count = len(shapes.CLASSES)
    return (index + 1 + index // count % (count - 1)) % count


def recoloured(looks: Shapes, config: Data, index: Tensor, classes: Tensor) -> Tensor:
    """The validation pictures at `index`, with the patch in the colours of `classes` int64 [N]."""
    pairs = zip(index.tolist(), classes.tolist(), strict=True)
    samples = [shapes.render(config.seed, "val", i, config.size, looks, colour=c) for i, c in pairs]
    return torch.from_numpy(np.stack([sample.image for sample in samples]))


def reliance(
    aligned: Tensor, conflict: Tensor, removed: Tensor, labels: Tensor, shown: Tensor
) -> dict[str, float]:
    """Accuracy by the patch's colour, and how often the network follows it; logits are [N, K].

    aligned: its colour is that of the class; conflict: of the class `shown` [N]; removed: no patch.
    reliance: the share of the conflicts in which the prediction is the patch's class.
    """
    answers = {"aligned": aligned, "conflict": conflict, "removed": removed}
    accuracies = {f"accuracy_{name}": _share(logits, labels) for name, logits in answers.items()}
    return accuracies | {"reliance": _share(conflict, shown)}


def _maps(model: AttentionBranchNetwork, samples: Samples, seed: int) -> dict[str, Tensor]:
    """Every map of the predicted classes and the two blind controls, each [N, h, w] on the CPU."""
    own = maps.explainer(model, samples.predicted)(samples.images)
    drawn = {name: values.cpu() for name, values in own.items()}
    n, h, w = samples.attention.shape
    drawn["centre"] = maps.centre_maps(n, h, w)
    drawn["random"] = maps.random_maps(n, h, w, generator(seed, "shortcut", "noise"))
    return drawn


def _share(logits: Tensor, classes: Tensor) -> float:
    return float((logits.argmax(1) == classes).double().mean())
