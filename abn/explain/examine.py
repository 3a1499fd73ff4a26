"""The examinations a map has to sit: from a network and what it said of N images to scores [N].

Scores are float64 on the CPU, by map and name; NaN where an image was not examined.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from abn.data import loader
from abn.data.loader import CenterCrop
from abn.explain import (
    counterfactuals,
    faithfulness,
    interventions,
    localisation,
    maps,
    randomisation,
    robustness,
    statistics,
)
from abn.explain.case import Classify, Subject, balanced, batched
from abn.explain.counterfactuals import Pictures
from abn.explain.interventions import Effect
from abn.explain.maps import network_maps
from abn.explain.randomisation import CASCADE, PARTS
from abn.models.abn import AttentionBranchNetwork
from abn.runtime.rng import generator

BATCH = 100  # images perturbed at once
BLUR = 0.1  # sigma of the baseline's Gaussian, as a share of the image's side
BASELINES = ("", "_colour")  # what hides a cell, as the ending of a score: a blur, the mean colour

Values = dict[str, Tensor]  # by score, float64 [N]
Scored = dict[str, Values]  # by map
Curves = dict[str, tuple[Tensor, Tensor]]  # by baseline: mean insertion, mean deletion [steps + 1]


class Effort(NamedTuple):
    """What a profile spends beyond scoring every map on every image."""

    rise_images: int
    rise_masks: int
    images: int  # examined for robustness
    draws: int  # of noise, for sensitivity
    redraws: int  # of the weights, for randomisation
    mosaics: int
    cascade: bool  # whether weights are also drawn anew layer by layer


PROFILES = {
    "quick": Effort(10, 200, 30, 3, 1, 10, cascade=False),
    "full": Effort(20, 1000, 50, 10, 3, 50, cascade=True),
}


def contestants(model: AttentionBranchNetwork, subject: Subject, seed: int) -> dict[str, Tensor]:
    """The maps to compare, each [N, h, w]: the network's own, then the controls."""
    found = batched(partial(network_maps, model), subject.predicted)(subject.images)
    n, h, w = subject.attention.shape
    device = subject.images.device
    found["random"] = maps.random_maps(n, h, w, generator(seed, "explain", "noise")).to(device)
    found["centre"] = maps.centre_maps(n, h, w).to(device)
    found["sobel"] = maps.sobel_maps(subject.images, h, w)
    if subject.objects is not None:
        found["oracle"] = maps.oracle_maps(subject.objects, h, w)
    return found


def faithful(
    model: AttentionBranchNetwork,
    subject: Subject,
    drawn: Tensor,
    steps: int,
    name: str,
    seed: int,
) -> tuple[Values, Curves]:
    """Insertion, deletion and SRG of the maps `drawn` [N, h, w], and the mean curves."""
    values, curves = {}, {}
    for ending in BASELINES:
        draws = generator(seed, "explain", name)
        insertion, deletion = _perturbed(model, subject, drawn, steps, ending, draws)
        values[f"srg{ending}"] = faithfulness.area(insertion) - faithfulness.area(deletion)
        values[f"insertion{ending}"] = faithfulness.area(insertion)
        values[f"deletion{ending}"] = faithfulness.area(deletion)
        curves[ending] = insertion.mean(0), deletion.mean(0)
    return values, curves


def _perturbed(
    model: AttentionBranchNetwork,
    subject: Subject,
    drawn: Tensor,
    steps: int,
    ending: str,
    draws: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Insertion and deletion curves [N, steps + 1], batch by batch."""
    parts = []
    columns = (subject.images, drawn, subject.predicted)
    for images, part, labels in zip(*(x.split(BATCH) for x in columns), strict=True):
        inputs = images, _hidden(images, ending), part, labels
        curves = faithfulness.perturbation_curves(classifier(model), *inputs, steps, draws)
        parts.append([curve.cpu().double() for curve in curves])
    insertion, deletion = (torch.cat(column) for column in zip(*parts, strict=True))
    return insertion, deletion


def _hidden(images: Tensor, ending: str) -> Tensor:
    """The baseline: what shows where a cell is hidden."""
    if ending == "_colour":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    return faithfulness.blur(images, BLUR * images.shape[-1])


def classifier(model: AttentionBranchNetwork) -> Classify:
    """The perception branch's probabilities."""
    return lambda images: model(images).logits.softmax(1)


def rise(
    model: AttentionBranchNetwork, subject: Subject, effort: Effort, steps: int, seed: int
) -> tuple[Values, Curves]:
    """As `faithful`, for RISE's maps of a few images, dear as they are."""
    rows = _some(subject, effort.rise_images, seed, "rise")
    few = subject.at(rows)
    shape = (few.attention.shape[1], few.attention.shape[2])
    draws = generator(seed, "explain", "rise", "masks")
    inputs = few.images, few.predicted, shape, effort.rise_masks
    drawn = maps.rise(classifier(model), *inputs, draws)
    values, curves = faithful(model, few, drawn, steps, "rise", seed)
    return _spread(values, rows, len(subject.images)), curves


def located(drawn: Tensor, subject: Subject, others: Tensor, other: Subject) -> Values:
    """How well maps [N, h, w] point at the object; IoU's threshold is what suits `others` best."""
    assert subject.objects is not None and other.objects is not None
    threshold = localisation.best_threshold(others, other.objects)
    found = localisation.located(drawn, subject.objects, threshold)
    return {score: values.cpu() for score, values in found.items()}


def robust(
    model: AttentionBranchNetwork, subject: Subject, effort: Effort, seed: int
) -> dict[str, Values]:
    """Sensitivity, equivariance and randomisation, by map, on some of the images."""
    rows = _some(subject, effort.images, seed, "robust")
    few = subject.at(rows)
    explainer = batched(partial(network_maps, model), few.predicted)
    cell = few.images.shape[-1] // few.attention.shape[-1]
    noise = generator(seed, "explain", "sensitivity")
    inputs = explainer, classifier(model), few.images, effort.draws, noise
    found = {
        "sensitivity": robustness.sensitivity(*inputs),
        "flip": robustness.flip_equivariance(explainer, few.images),
        "shift": robustness.shift_equivariance(explainer, few.images, cell),
    }
    rungs = CASCADE if effort.cascade else {}
    parts = PARTS | {f"up_to_{rung}": modules for rung, modules in rungs.items()}
    for part, modules in parts.items():
        found[f"randomised_{part}"] = _randomised(model, few, modules, effort.redraws, seed)
    return {
        name: _spread({score: found[score][name] for score in found}, rows, len(subject.images))
        for name in found["flip"]
    }


def _randomised(
    model: AttentionBranchNetwork, few: Subject, modules: Sequence[str], redraws: int, seed: int
) -> dict[str, Tensor]:
    """What is left of each map, |rank correlation| [n], once `modules` are drawn anew; the mean."""
    ours = batched(partial(network_maps, model), few.predicted)(few.images)
    left = []
    for redraw in range(redraws):
        draws = generator(seed, "explain", "redraw", redraw)
        blank = randomisation.randomise(model, modules, few.images, draws)
        theirs = batched(partial(network_maps, blank), few.predicted)(few.images)
        left.append(statistics.similarity(ours, theirs))
    return {name: torch.stack([part[name].abs() for part in left]).nanmean(0) for name in ours}


def rested(
    model: AttentionBranchNetwork, subject: Subject, pictures: Pictures, view: CenterCrop
) -> tuple[Values, dict[str, Tensor]]:
    """What the decisions rest on: how far the logit falls without each part, by part [N].

    Also where each part is, bool [N, H, W]. `pictures` are the subject's, rendered anew.
    """
    assert subject.masks is not None
    regions = counterfactuals.regions(subject.masks, pictures.without)
    without = {part: _logits(model, shown, view) for part, shown in pictures.without.items()}
    whole = subject.trace.logits
    return counterfactuals.importance(whole, without, subject.predicted, regions), regions


def agreeing(drawn: Tensor, importance: Values, regions: dict[str, Tensor]) -> Values:
    """How maps [N, h, w] spread their mass over the parts, and whether as the decision does."""
    found = counterfactuals.density(drawn, regions)
    values = {f"density_{part}": share.cpu().double() for part, share in found.items()}
    del values["density_target"]  # that is "lift"
    return {"agreement": counterfactuals.agreement(importance, found).cpu()} | values


@torch.no_grad()
def _logits(model: AttentionBranchNetwork, canvases: Tensor, view: CenterCrop) -> Tensor:
    """What the perception branch says [N, K] of square `canvases` uint8 [N, S, S, 3]."""
    device = next(model.parameters()).device
    parts = canvases.split(BATCH)
    shown = (loader.transform(part.to(device), torch.ones(len(part)), view) for part in parts)
    return torch.cat([model(images).logits for images in shown])


def pointing_grids(
    model: AttentionBranchNetwork, subject: Subject, effort: Effort, seed: int
) -> dict[str, Tensor]:
    """The grid pointing game, by map: a score for each quadrant [4 * mosaics], or none at all."""
    correct = subject.predicted == subject.labels
    draws = generator(seed, "explain", "mosaics")
    grids = localisation.mosaics(subject.images, subject.labels, correct, effort.mosaics, draws)
    if grids is None:
        return {}
    pointed = localisation.mosaic_pointing(partial(network_maps, model), *grids)
    return {name: values.cpu() for name, values in pointed.items()}


def stable(
    models: Sequence[AttentionBranchNetwork], subject: Subject
) -> dict[str, tuple[Tensor, Tensor]]:
    """By map: IoU of the top cells and rank correlation [N] among `models`, or none at all."""
    if len(models) < 2:
        return {}
    drawn = [batched(partial(network_maps, m), subject.predicted)(subject.images) for m in models]
    return {
        name: robustness.stability(torch.stack([found[name] for found in drawn]))
        for name in drawn[0]
    }


def effects(model: AttentionBranchNetwork, subject: Subject, seed: int) -> dict[str, Effect]:
    """What other maps in the attention's place do to the decisions."""
    shares = None
    if subject.objects is not None:
        shares = maps.oracle_maps(subject.objects, *subject.attention.shape[1:])
    rows = torch.arange(len(subject.images), device=subject.images.device)
    class_map = subject.trace.class_maps[rows, subject.predicted]
    draws = generator(seed, "explain", "interventions")
    others = interventions.replacements(subject.attention, class_map, shares, draws)
    inputs = subject.trace.features, subject.attention, others, subject.labels
    return interventions.intervene(model, *inputs)


def _some(subject: Subject, count: int, seed: int, use: str) -> Tensor:
    """Rows int64 of `count` of the images, evenly over the classes; the same for the same use."""
    return balanced(subject.labels, count, generator(seed, "explain", use))


def _spread(values: Values, rows: Tensor, count: int) -> Values:
    """Values of some `rows` of `count` images, NaN for the others."""
    whole = {}
    for name, part in values.items():
        whole[name] = torch.full((count,), torch.nan, dtype=torch.float64)
        whole[name][rows] = part.cpu().double()
    return whole
