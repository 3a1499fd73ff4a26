"""Does a map change when the weights that made it are drawn again?"""

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from abn.explain.case import BATCH
from abn.models.abn import AttentionBranchNetwork

# What can be drawn anew: the network's own modules, bottom-up.
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


@torch.no_grad()
def randomise(
    model: AttentionBranchNetwork,
    modules: Sequence[str],
    images: Tensor,
    generator: torch.Generator,
) -> AttentionBranchNetwork:
    """A copy of `model` whose `modules` know nothing (Adebayo et al., NeurIPS 2018).

    Their weights are drawn anew in the order given, so that with equal generators the steps of
    CASCADE share theirs; bottom-up, as Hedström et al. (2401.06465) advise. The statistics of their
    norms are measured on `images` [N, 3, H, W], lest the signal die or explode.
    """
    device = next(model.parameters()).device
    random = copy.deepcopy(model).cpu()  # where the generator is
    redrawn = [module for name in modules for module in random.get_submodule(name).modules()]
    for module in redrawn:
        _redraw(module, generator)
    random.to(device).eval()
    norms = [module for module in redrawn if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None  # the mean over all batches
    for part in images.tensor_split(-(-len(images) // BATCH)):
        random(part)
    return random.eval()


def _redraw(module: nn.Module, generator: torch.Generator) -> None:
    """He initialisation of a convolution, torch's default of a linear layer, a norm reset."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, 0, "fan_out", "relu", generator)
    elif isinstance(module, nn.Linear):
        bound = module.in_features**-0.5
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
