"""Does the map change the decision? The same image under another map.

ABN computes its map first and decides under it (`model.attend`), so the map is a cause of the
prediction and can be set to anything, do(M). A map that is computed afterwards cannot.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from abn.explain.case import PICTURES, Case
from abn.explain.maps import oracle_maps
from abn.models.abn import AttentionBranchNetwork

SHUFFLES = 5  # random orders of the cells, over which an effect is averaged
PAIRINGS = 5  # random circles in which an image gets the map of its neighbour, averaged likewise


class Effect(NamedTuple):
    """What another map does to N decisions: each float64 [N], a mean over the map's draws."""

    flips: Tensor  # the share of draws that change the prediction
    probability: Tensor  # of the class predicted before: after less before, -1 to 1
    divergence: Tensor  # KL(before || after) of the classes' probabilities, nats
    correct: Tensor  # the share of draws after which the prediction is the label


def effects(case: Case) -> dict[str, Effect]:
    """The effect of each replacement for the attention map, by its name."""
    samples = case.samples
    objects = None
    if samples.objects is not None:
        objects = oracle_maps(samples.objects, *samples.attention.shape[1:])
    rows = torch.arange(len(samples.images), device=samples.images.device)
    class_map = samples.trace.class_maps[rows, samples.predicted]
    draws = case.generator("interventions")
    runner_up = _runner_up(case) if case.model.looks else None
    others = replacements(samples.attention, class_map, objects, draws, runner_up)
    inputs = samples.images, samples.trace.features, samples.attention
    return intervene(case.model, *inputs, others, samples.labels)


def _runner_up(case: Case) -> Tensor:
    """The map [N, h, w] that the network would have for the branch's second most likely class."""
    class_maps = case.samples.trace.class_maps
    second = class_maps.mean((2, 3)).topk(2, dim=1).indices[:, 1]
    return case.model.class_attention(class_maps, second)[:, 0]


def replacements(
    attention: Tensor,
    class_map: Tensor,
    objects: Tensor | None,
    draws: torch.Generator,
    other_class: Tensor | None = None,
) -> dict[str, Tensor]:
    """What can replace `attention` [N, h, w], N > 1: each [draws, N, h, w].

    `class_map` [N, h, w] is the attention branch's map of the predicted class, `objects` [N, h, w]
    the share of each cell that the object covers, if that is known; `other_class` [N, h, w] the map
    for another class, if the network has one a class. `none` leaves the map as it is.
    """
    low, high = attention.amin((1, 2), keepdim=True), attention.amax((1, 2), keepdim=True)
    others = {
        "none": attention,
        "zero": torch.zeros_like(attention),
        "mean": attention.mean((1, 2), keepdim=True).expand_as(attention),
        "shuffled": _shuffled(attention, draws),
        # Not 1 - M: the gain stays in its range, so that the pattern alone is what changes.
        "inverted": low + high - attention,
        "another": attention[_donors(len(attention), draws).to(attention.device)],
        "att_cam": low + (high - low) * _unit(class_map),
    }
    if other_class is not None:
        others["other_class"] = other_class
    if objects is not None:
        others["oracle"] = low + (high - low) * _unit(objects)
    return {name: each.view(-1, *attention.shape) for name, each in others.items()}


def _shuffled(maps: Tensor, draws: torch.Generator) -> Tensor:
    """The cells of each map in random orders of its own, [SHUFFLES, N, h, w]."""
    cells = maps.flatten(1).expand(SHUFFLES, -1, -1)
    keys = torch.rand(cells.shape, generator=draws, device=draws.device)
    return cells.gather(2, keys.argsort(2).to(maps.device)).unflatten(2, maps.shape[1:])


def _donors(count: int, draws: torch.Generator) -> Tensor:
    """Other images int64 [PAIRINGS, count > 1] for each: its neighbours in random circles."""
    circles = (torch.randperm(count, generator=draws, device=draws.device) for _ in range(PAIRINGS))
    return torch.stack([order.roll(1)[order.argsort()] for order in circles])


def _unit(maps: Tensor) -> Tensor:
    """Each map scaled to 0 to 1; a flat one is 0."""
    raised = maps - maps.amin((1, 2), keepdim=True)
    return raised / raised.amax((1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


@torch.no_grad()
def intervene(
    model: AttentionBranchNetwork,
    images: Tensor,
    features: Tensor,
    attention: Tensor,
    replacements: Mapping[str, Tensor],
    labels: Tensor,
) -> dict[str, Effect]:
    """The effect of each of `replacements` [draws, N, h, w] for `attention` [N, h, w].

    `features` [N, C, h, w] are the network's own of `images` [N, 3, H, W], before the map: the
    attention branch does not run again, and nothing runs for a map that is the same.
    """
    before = _logits(model, images, features, attention)

    def under(other: Tensor) -> Tensor:
        changed = (other != attention).flatten(1).any(1).nonzero()[:, 0]
        after = before.clone()
        if len(changed):
            inputs = (part[changed] for part in (images, features, other))
            after[changed] = _logits(model, *inputs)
        return after

    means = {}
    for name, others in replacements.items():
        draws = [_effect(before, under(other), labels) for other in others]
        means[name] = Effect(*(torch.stack(part).mean(0) for part in zip(*draws, strict=True)))
    return means


def _logits(
    model: AttentionBranchNetwork, images: Tensor, features: Tensor, maps: Tensor
) -> Tensor:
    """The perception branch's logits [N, K] of images and their features under `maps`."""
    columns = (part.split(PICTURES) for part in (images, features, maps.unsqueeze(1)))
    parts = zip(*columns, strict=True)
    return torch.cat([model.perception_branch(model.attend(*part)) for part in parts])


def _effect(before: Tensor, after: Tensor, labels: Tensor) -> Effect:
    """One draw's effect, from the logits [N, K] before and after."""
    predicted, now = before.argmax(1), after.argmax(1)
    old, new = before.double().log_softmax(1), after.double().log_softmax(1)
    change = (new.exp() - old.exp()).gather(1, predicted.unsqueeze(1)).squeeze(1)
    divergence = (old.exp() * (old - new)).sum(1)
    return Effect((now != predicted).double(), change, divergence, (now == labels).double())


def branch_agreement(attention_logits: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the branches predict the same, bool [N], and how far apart they are, [N].

    The distance is the Jensen-Shannon divergence of their probabilities: 0 to ln 2, nats.
    """
    first, second = (branch.double().softmax(1) for branch in (attention_logits, logits))
    mixed, own = _entropy((first + second) / 2), (_entropy(first) + _entropy(second)) / 2
    return attention_logits.argmax(1) == logits.argmax(1), mixed - own


def _entropy(probabilities: Tensor) -> Tensor:
    """The entropy [N] of rows [N, K], nats."""
    return torch.special.entr(probabilities).sum(1)
