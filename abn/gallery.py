"""Which images are shown, chosen by a rule and never by hand."""

import torch

from abn import batches
from abn.batches import View
from abn.data import Split
from abn.model import AttentionBranchNetwork
from abn.visualize import Tile


@torch.inference_mode()
def first_of_each_class(
    model: AttentionBranchNetwork, split: Split, view: View, classes: int
) -> list[Tile]:
    """The first image of each of the first `classes` classes that `split` has, and its map."""
    device = next(model.parameters()).device
    labels = split.labels.tolist()
    first = [labels.index(label) for label in sorted(set(labels))[:classes]]
    chosen = split.take(torch.tensor(first))
    images = batches.through(chosen.images.to(device), chosen.aspect, view)
    output = model(images)
    confidence, predicted = output.logits.softmax(1).max(1)
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [
        Tile(
            pixels[i].cpu().numpy(),
            output.attention[i, 0].cpu().numpy(),
            split.classes[int(chosen.labels[i])],
            split.classes[int(predicted[i])],
            float(confidence[i]),
        )
        for i in range(len(first))
    ]
