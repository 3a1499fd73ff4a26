"""SGD as the ABN's authors use it, and the learning rate as a pure function of progress."""

import bisect
import math

import torch
from torch import nn

from abn.params import Train


def sgd(model: nn.Module, config: Train) -> torch.optim.SGD:
    """SGD over `model`, with norms and biases free of weight decay unless the config says."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    norms_and_biases = [p for p in model.parameters() if p.ndim <= 1]
    free = config.weight_decay if config.decay_norm_and_bias else 0.0
    return torch.optim.SGD(
        [
            {"params": kernels, "weight_decay": config.weight_decay},
            {"params": norms_and_biases, "weight_decay": free},
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        fused=True,
    )


def learning_rate(config: Train, progress: float) -> float:
    """The rate when a share `progress` in [0, 1) of the training is done."""
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    if config.schedule == "cosine":
        rest = (progress - config.warmup) / (1 - config.warmup)
        return config.lr * (1 + math.cos(math.pi * rest)) / 2
    passed = bisect.bisect_right(config.milestones, progress * config.epochs + 1e-9)
    return config.lr * config.gamma**passed


def crop_size(config: Train, epoch: int) -> int:
    """The side of the training crops in `epoch`, in pixels."""
    return config.sizes[bisect.bisect_right(config.grow_at, epoch / config.epochs + 1e-9)]
