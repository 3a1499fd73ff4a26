"""SGD as the ABN's authors use it, learning-rate schedules, a moving average of the weights."""

import bisect
import copy
import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from abn.config.params import Train
from abn.models.abn import AttentionBranchNetwork


def sgd(model: nn.Module, config: Train, new: Collection[str] = ()) -> torch.optim.SGD:
    """SGD over `model`; norms and biases have no weight decay unless `decay_norm_and_bias`.

    The parameters named in `new`, those that a start did not fill, learn `new_lr` times as fast.
    """
    free = config.weight_decay if config.decay_norm_and_bias else 0.0
    groups: dict[tuple[float, float], list[nn.Parameter]] = {
        (config.weight_decay, 1.0): [],
        (free, 1.0): [],
    }
    for name, parameter in model.named_parameters():
        decay = config.weight_decay if parameter.ndim > 1 else free
        factor = config.new_lr if name in new else 1.0
        groups.setdefault((decay, factor), []).append(parameter)
    return torch.optim.SGD(
        [
            {"params": parameters, "weight_decay": decay, "factor": factor}
            for (decay, factor), parameters in groups.items()
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        fused=True,
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step, that of `sgd`'s groups times their factor.

    In place where a CUDA graph reads a tensor.
    """
    for group in optimizer.param_groups:
        own = float(np.float32(rate * group["factor"]))  # as the tensor rounds it: the same bits
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def learning_rate(config: Train, progress: float) -> float:
    """The learning rate at `progress` in [0, 1) of the training."""
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


class EMA:
    """Exponential moving average of a network's weights and batch norm statistics."""

    def __init__(self, model: AttentionBranchNetwork, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)

    def update(self, model: AttentionBranchNetwork) -> None:
        """average = decay * average + (1 - decay) * model."""
        averaged, current = (  # all but the batch norms' step counters, which nothing reads
            [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
            for network in (self.model, model)
        )
        torch._foreach_lerp_(averaged, current, 1 - self.decay)
