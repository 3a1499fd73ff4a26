"""This project's training, set up as the train stage does, to be driven step by step."""

import torch

from abn.config.params import Attention, Train
from abn.data import loader
from abn.data.packed import Split
from abn.models.abn import AttentionBranchNetwork
from abn.runtime import device
from abn.training import optim
from abn.training.step import Step, build

RATE = 1e-3  # small enough for any batch to be learnt from again and again


def network(
    arch: str,
    classes: int,
    config: Train,
    seed: int = 0,
    attention: Attention = "residual",
    smooth: bool = False,
) -> AttentionBranchNetwork:
    """A new network on the device, ready to train."""
    place = device.choose()
    torch.manual_seed(seed)
    how = attention, config.look.contrast
    model = AttentionBranchNetwork(arch, classes, config.zero_init, *how, smooth=smooth)
    return model.to(place, memory_format=torch.channels_last).train()


def step(arch: str, split: Split, config: Train) -> Step:
    """The step that the train stage would take on `split`, at a constant rate."""
    return step_of(network(arch, len(split.classes), config), split, config)


def step_of(model: AttentionBranchNetwork, split: Split, config: Train) -> Step:
    """The same of `model`, which is on the device."""
    ema = optim.EMA(model, config.ema) if config.ema else None
    made = build(model, optim.optimizer(model, config), ema, config, len(split))
    optim.set_rate(made.optimizer, RATE)
    return made


def placed(split: Split) -> Split:
    """`split` where the train stage would put it."""
    return loader.to_device_if_fits(split, device.choose())
