"""Floating-point operations of a network, counted by running it on the meta device."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

BACKWARD = 2  # gradients of inputs and of weights, each as expensive as the forward pass


def forward(model: nn.Module, size: int) -> int:
    """Floating-point operations for one image of `size` pixels; a multiply-add counts as two."""
    network = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, 3, size, size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops()


def training(model: nn.Module, size: int) -> int:
    """Floating-point operations of one training step per image of `size` pixels."""
    return (1 + BACKWARD) * forward(model, size)
