"""Does a map change when the weights that made it are random again?

The sanity check of Adebayo et al. (NeurIPS 2018): a map that stays the same does not show what the
network learned.
"""

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from abn.explain.case import BATCH, Case, Samples, Scores
from abn.explain.maps import explainer
from abn.explain.statistics import similarity
from abn.models.abn import AttentionBranchNetwork

# What can be randomised: the network's own modules, bottom-up.
ATTENTION = ("att_layer4", "bn_att", "att_conv", "bn_att2", "att_conv2", "att_conv3", "bn_att3")
STEPS: dict[str, tuple[str, ...]] = {
    "conv1": ("conv1", "bn1"),
    "layer1": ("layer1",),
    "layer2": ("layer2",),
    "layer3": ("layer3",),
    "attention": ATTENTION,
    "perception": ("layer4", "fc"),
}
CASCADE = dict(zip(STEPS, itertools.accumulate(STEPS.values()), strict=True))  # and all below
PARTS = {
    "attention": STEPS["attention"],
    "perception": STEPS["perception"],
    "all": CASCADE["perception"],
}


def score(case: Case) -> Scores:
    """|Rank correlation| of each network map with itself after parts of the network are random.

    On some images, [draws of weights, N]: images that share a draw are not independent.
    """
    rows, few = case.some(case.budget.robustness_images, "robust")
    trained = explainer(case.model, few.predicted)(few.images)
    cascade = CASCADE if case.budget.cascade else {}
    parts = PARTS | {f"up_to_{step}": modules for step, modules in cascade.items()}
    values = {f"randomised_{part}": _remaining(case, few, trained, parts[part]) for part in parts}
    return case.scores(values, rows)


def _remaining(
    case: Case, few: Samples, trained: dict[str, Tensor], modules: Sequence[str]
) -> dict[str, Tensor]:
    """What is left of each of the maps `trained` after `modules` are random: [draws, n]."""
    correlations = []
    for draw in range(case.budget.randomisations):
        model = randomise(case.model, modules, few.images, case.generator("redraw", draw))
        correlations.append(similarity(trained, explainer(model, few.predicted)(few.images)))
    return {name: torch.stack([part[name].abs() for part in correlations]) for name in trained}


@torch.no_grad()
def randomise(
    model: AttentionBranchNetwork,
    modules: Sequence[str],
    images: Tensor,
    generator: torch.Generator,
) -> AttentionBranchNetwork:
    """A copy of `model` whose `modules` have random weights (Adebayo et al., NeurIPS 2018).

    The weights are drawn in the order given, so that with equal generators the steps of CASCADE
    share theirs; bottom-up, as Hedström et al. (2401.06465) advise. The statistics of their norms
    are measured on `images` [N, 3, H, W], so that the signal neither dies nor explodes.
    """
    device = next(model.parameters()).device
    random = copy.deepcopy(model).cpu()  # where the generator is
    parts = [getattr(random, name) for name in modules if hasattr(random, name)]
    changed = [module for part in parts for module in part.modules()]
    for module in changed:
        _reset(module, generator)
    pairs = zip(random.trunk_norms(), random.look_norms, strict=False)  # residual has no second
    for norm, second in pairs:
        if norm in changed:
            _reset(second, generator)
    random.to(device).eval()
    norms = [module for module in changed if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None  # the mean over all batches
    for part in images.tensor_split(-(-len(images) // BATCH)):
        random(part)
    return random.eval()


def _reset(module: nn.Module, generator: torch.Generator) -> None:
    """He initialisation of a convolution, torch's default of a linear layer, a norm reset."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, 0, "fan_out", "relu", generator)
    elif isinstance(module, nn.Linear):
        bound = module.in_features**-0.5
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
