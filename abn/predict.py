"""A whole split through the network, and the headline scores of its predictions."""

from typing import NamedTuple

import torch
from torch import Tensor

from abn.data import loader
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.models.abn import AttentionBranchNetwork, Output, losses


class Predictions(NamedTuple):
    """The network's outputs for N images, on the CPU."""

    logits: Tensor  # [N, K]
    attention_logits: Tensor  # [N, K]
    attention: Tensor  # [N, h, w] in (0, 1)
    labels: Tensor  # int64 [N]


@torch.inference_mode()
def predict(
    model: AttentionBranchNetwork,
    split: Split,
    view: CenterCrop,
    batch_size: int,
    device: torch.device,
    mirrored: bool = False,
) -> Predictions:
    """Run `model`, in eval mode, over `split` in order; with `mirrored`, over its mirror images."""
    model.eval()
    rows = []
    for images in loader.evaluation(split, view, batch_size, device, mirrored):
        output = model(images)
        rows.append((output.logits, output.attention_logits, output.attention[:, 0]))
    logits, attention_logits, attention = (torch.cat(part) for part in zip(*rows, strict=True))
    return Predictions(*(x.cpu() for x in (logits, attention_logits, attention, split.labels)))


def headline(predictions: Predictions) -> dict[str, float]:
    """Top-1 of both branches, and the loss: the sum of both cross-entropies on hard labels."""
    logits, attention_logits, attention, labels = predictions
    perception, branch = losses(Output(logits, attention_logits, attention), labels)
    return {
        "top1": top1(logits, labels),
        "attention_top1": top1(attention_logits, labels),
        "loss": float(perception + branch),
        "loss_perception": float(perception),
        "loss_attention": float(branch),
    }


def energy(logits: Tensor) -> Tensor:
    """The energy score of each row of `logits` [N, K], float64 [N]: log(sum(exp(row))).

    Low for images unlike those that the network was trained on. It is the energy of Liu et al.
    (NeurIPS 2020) with its sign changed.
    """
    return logits.double().logsumexp(1)


def top1(scores: Tensor, labels: Tensor) -> float:
    """The share of the rows of `scores` [N, K] with their maximum at the label, int64 [N]."""
    return float((scores.argmax(1) == labels).double().mean())
