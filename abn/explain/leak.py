"""Does the outline of the map alone give the class away? For `look`, whose map lies on the picture.

A map that is cut to the shape of the object carries the class into the decision: then a picture
with nothing in it is still named right, and the map explains less than it seems to.
"""

import torch
from torch import Tensor

from abn.explain.case import PICTURES, Case, Samples, Scores
from abn.models.abn import AttentionBranchNetwork

GREY = 0.8  # of the flat picture: far from the mean colour, so that the map shows on it


def score(case: Case) -> Scores:
    """`leak_noise` and `leak_grey` of the attention map of `look`: is the class named, 1 or 0."""
    if not case.model.looks:
        return {}
    named = {name: each == case.samples.predicted for name, each in case.once(answers).items()}
    return {"attention": {f"leak_{name}": same.cpu().double() for name, same in named.items()}}


def answers(case: Case) -> dict[str, Tensor]:
    """What the network decides, int64 [N], on empty pictures under its own map of each image.

    noise: every pixel uniform in [0, 1]; grey: GREY everywhere. For `look` only.
    """
    images = case.samples.images
    draws = case.generator("leak")
    noise = torch.rand(images.shape, generator=draws, device=draws.device).to(images.device)
    empty = {"noise": noise, "grey": torch.full_like(images, GREY)}
    return {name: decisions(case.model, case.samples, each) for name, each in empty.items()}


@torch.no_grad()
def decisions(model: AttentionBranchNetwork, samples: Samples, pictures: Tensor) -> Tensor:
    """The classes int64 [N] decided on `pictures` [N, 3, H, W] under the maps of `samples`."""
    columns = (pictures, samples.trace.features, samples.trace.attention)
    parts = zip(*(column.split(PICTURES) for column in columns), strict=True)
    return torch.cat([model.perception_branch(model.attend(*part)).argmax(1) for part in parts])


def chance(answers: Tensor, predicted: Tensor) -> float:
    """How often the two, int64 [N], would be equal if they had nothing to do with each other.

    The sum over the classes of share of the answers times share of the predictions: a network that
    says one class of every empty picture names that class's images right, and no others.
    """
    classes = int(torch.maximum(answers.max(), predicted.max())) + 1
    counts = (each.bincount(minlength=classes).double() for each in (answers, predicted))
    said, right = (count / count.sum() for count in counts)
    return float((said * right).sum())
