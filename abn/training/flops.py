"""What a network costs in arithmetic, counted by running it on no data."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

BACKWARD = 2  # gradients of the inputs and of the weights, each as dear as the forward pass


def forward(model: nn.Module, size: int) -> int:
    """Floating-point operations for one image of `size` pixels; a multiply-add counts as two."""
    ghost, image = (
        copy.deepcopy(model).to("meta").eval(),
        torch.empty(1, 3, size, size, device="meta"),
    )
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost(image)
    return counter.get_total_flops()


def training(model: nn.Module, size: int) -> int:
    """Floating-point operations to learn from one image of `size` pixels once."""
    return (1 + BACKWARD) * forward(model, size)
