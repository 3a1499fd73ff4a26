"""SGD as the ABN's authors use it, its rate as a function of progress, an average of weights."""

import bisect
import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from abn.config.params import Train
from abn.models.abn import AttentionBranchNetwork


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


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, in single precision; in place where a CUDA graph reads it."""
    rate = float(np.float32(rate))  # what a tensor holds, so that a replayed step is the plain one
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


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


class Average:
    """An exponential moving average of all that a network has learnt, its norms' statistics too."""

    def __init__(self, model: AttentionBranchNetwork, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)

    def update(self, model: AttentionBranchNetwork) -> None:
        """Move a share 1 - decay towards `model`."""
        pairs = zip(_floats(self.model), _floats(model), strict=True)
        mine, its = (list(side) for side in zip(*pairs, strict=True))
        torch._foreach_lerp_(mine, its, 1 - self.decay)


def _floats(model: nn.Module) -> list[Tensor]:
    """What there is to average; the rest is the counter of a norm, which nothing reads."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
