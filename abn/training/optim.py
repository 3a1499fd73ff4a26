"""SGD as the ABN's authors use it, or Muon; SAM; schedules; a moving average of the weights."""

import bisect
import copy
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abn.config.params import Train
from abn.models.abn import AttentionBranchNetwork
from abn.training.muon import Muon, is_moved


def optimizer(model: nn.Module, config: Train, new: Collection[str] = ()) -> torch.optim.SGD:
    """The optimizer that `config` names, over `model`; `new` as `sgd` has it."""
    return muon(model, config, new) if config.optimizer == "muon" else sgd(model, config, new)


def sgd(model: nn.Module, config: Train, new: Collection[str] = ()) -> torch.optim.SGD:
    """SGD over `model`; norms and biases have no weight decay unless `decay_norm_and_bias`.

    The parameters named in `new`, those that a start did not fill, learn `new_lr` times as fast.
    """
    return torch.optim.SGD(_groups(model, config, new), **_options(config))


def muon(model: nn.Module, config: Train, new: Collection[str] = ()) -> Muon:
    """Muon for the kernels of `model`'s blocks at `muon_lr`, and for the rest what `sgd` gives."""
    factor = config.muon_lr / config.lr  # its rate follows the same schedule
    blocks = {name for name, p in model.named_parameters() if is_moved(name, p)}
    groups = _groups(model, config, new, blocks, factor)
    return Muon(groups, config.precision == "bf16", **_options(config))


def _groups(
    model: nn.Module,
    config: Train,
    new: Collection[str],
    blocks: Collection[str] = (),
    factor: float = 1.0,
) -> list[dict[str, Any]]:
    """The parameters by weight decay and rate, `factor` times as high in `blocks`, Muon's own."""
    free = config.weight_decay if config.decay_norm_and_bias else 0.0
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {
        (config.weight_decay, 1.0, False): [],
        (free, 1.0, False): [],
    }
    for name, parameter in model.named_parameters():
        decay = config.weight_decay if parameter.ndim > 1 else free
        own = (config.new_lr if name in new else 1.0) * (factor if name in blocks else 1.0)
        groups.setdefault((decay, own, name in blocks), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": own, "muon": moved}
        for (decay, own, moved), parameters in groups.items()
    ]


def _options(config: Train) -> dict[str, Any]:
    """What all of SGD's groups share."""
    own = {"lr": config.lr, "momentum": config.momentum, "nesterov": config.nesterov}
    return own | {"fused": True}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step: `rate` times the factor of each group.

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


@contextmanager
def uphill(model: nn.Module, radius: float) -> Iterator[None]:
    """Inside, `model` is where its loss is higher: for SAM (Foret et al., ICLR 2021, equation 2).

    Its kernels are w + `radius` g / |g|, where g are their gradients and |g| is over all of them;
    norms and biases stay. Afterwards kernels and buffers, such as running statistics, are what they
    were, to the bit: a batch that is seen twice counts once.
    """
    kernels = [p for p in model.parameters() if p.ndim > 1 and p.grad is not None]
    gradients = [p.grad for p in kernels if p.grad is not None]
    changing = [*(kernel.detach() for kernel in kernels), *model.buffers()]
    before = [tensor.clone() for tensor in changing]
    length = torch.stack(torch._foreach_norm(gradients)).norm().clamp(min=1e-12)
    torch._foreach_add_(changing[: len(kernels)], torch._foreach_mul(gradients, radius / length))
    try:
        yield
    finally:
        torch._foreach_copy_(changing, before)


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
