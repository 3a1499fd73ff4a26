"""Floating-point operations of a network, counted by running it on the meta device."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def training(model: nn.Module, size: int) -> int:
    """Floating-point operations of one training step per image of `size` pixels.

    A multiply-add counts as two. The gradients of inputs and of weights are each as expensive as
    the forward pass.
    """
    network = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, size, size, device="meta"))
    return 3 * counter.get_total_flops()
