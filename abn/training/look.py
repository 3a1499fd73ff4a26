"""How `attention: look` learns to decide on what a map shows: its steps, and its statistics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from abn.config.params import Train
from abn.data import loader
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.models.abn import AttentionBranchNetwork, Output
from abn.training.distributed import SINGLE, World

PICTURES = 512  # that the statistics are measured on, some batches of the training images


class LookingNetwork(nn.Module):
    """`model` as a training step runs it, on this rank's shard of a batch of `batch` images.

    Each picture is seen under the map of the one before it in the batch, as the network will see it
    under its own: what the map hides may matter, so that the network learns to decide on whatever
    is shown. A network that learns under its own maps can come to write the class into their
    outline, where the decision then reads it (Jethani et al., AISTATS 2021, the reason for REAL-X).
    So no gradient reaches a map, and the losses of the two branches are all there is.
    """

    def __init__(self, model: AttentionBranchNetwork, world: World, batch: int) -> None:
        super().__init__()
        self.model, self.world, self.batch = model, world, batch
        self.looking = False  # whether it decides on the second look already, or on the first

    def forward(self, images: Tensor) -> Output:
        """The outputs for this rank's `images` [B, 3, H, W] in [0, 1]."""
        model = self.model
        seen = model.features(images)
        class_maps, attention = model.attention_branch(seen)
        if self.looking:
            others = self.world.previous(attention.detach(), self.batch)
            seen = model.attend(images, seen, others)
        return Output(model.perception_branch(seen), class_maps.mean((2, 3)), attention)


@torch.no_grad()
def measure_statistics(
    model: AttentionBranchNetwork, train: Split, config: Train, world: World = SINGLE
) -> None:
    """Measure the statistics that the decision of `look` is normalised by, before scores count.

    Those of the second look and of layer4: means over some batches of `train`, PICTURES images in
    all, spread evenly and shown as validation shows them, each under its own map (precise batch
    norm: Wu and Johnson, 2021, section 3), a shard of each from every rank. The running ones are
    of other crops, under the maps of other pictures. Does nothing to a network of `residual`.
    """
    if not model.looks:
        return
    top = [module for module in model.layer4.modules() if isinstance(module, _BatchNorm)]
    for norm in (*model.look_norms, *top):
        norm.reset_running_stats()
    batch = min(config.batch_size, len(train), PICTURES)
    steps, (first, last) = min(len(train), PICTURES) // batch, world.shard(batch)
    # A batch is spread over the whole split, which may be in the order of its classes.
    chosen = torch.linspace(0, len(train) - 1, steps * batch).long().view(batch, steps).T
    mine = train.subset(chosen[:, first:last].flatten())
    view, device = CenterCrop(*config.view), next(model.parameters()).device
    model.eval()
    shown = loader.evaluation(mine, view, last - first, device)
    for step, images in enumerate(shown, start=1):
        features = model.features(images)
        _, attention = model.attention_branch(features)
        with _measuring([*model.trunk_norms(), *top], 1 / step):
            model.perception_branch(model.attend(images, features, attention))


@contextmanager
def _measuring(norms: Sequence[_BatchNorm], weight: float) -> Iterator[None]:
    """Inside, a batch enters the running statistics of `norms` with `weight`."""
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = weight
    try:
        yield
    finally:
        for norm, momentum in zip(norms, usual, strict=True):
            norm.eval().momentum = momentum
