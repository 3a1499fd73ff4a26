"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon): momentum made orthogonal.

A kernel is a matrix [out, in * height * width]. Each step moves it along the matrix nearest to its
momentum that has all singular values alike, so that rare directions learn as fast as common ones.
Norms, biases, the stem and the layers that make classes are left to SGD, as the author advises.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("layer1.", "layer2.", "layer3.", "layer4.", "att_layer4.")  # whose kernels it moves
MOMENTUM = 0.95  # Nesterov's; the author's
STEPS = 5  # of Newton-Schulz
QUINTIC = (3.4445, -4.7750, 2.0315)  # the author's: 0.01 to 1 end between 0.68 and 1.13
RMS = 0.2  # of an update at a rate of 1, about Adam's (Liu et al., 2025, arXiv:2502.16982)


def is_moved(name: str, parameter: nn.Parameter) -> bool:
    """Whether the parameter `name` is a kernel that Muon moves."""
    return parameter.ndim > 1 and name.startswith(PARTS)


class Muon(torch.optim.SGD):
    """SGD, but the groups with `muon` set move by Muon; their weight decay is decoupled.

    With `half`, a GPU computes the products of Newton-Schulz in bf16, as the author does.
    """

    def __init__(self, groups: list[dict[str, Any]], half: bool, **options: Any) -> None:
        super().__init__(groups, **options)
        self.half = half

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move all parameters that have a gradient; those of Muon have none afterwards."""
        for group in self.param_groups:
            if group["muon"]:
                self._move(group)
        return super().step(closure)

    def _move(self, group: dict[str, Any]) -> None:
        rate, alike = group["lr"], defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.flatten(1).shape].append(parameter)
        for (height, width), parameters in alike.items():  # one product for all of a shape
            updates = torch.stack([self._velocity(each).flatten(1) for each in parameters])
            dtype = torch.bfloat16 if self.half and updates.is_cuda else torch.float32
            size = RMS * max(height, width) ** 0.5
            for parameter, update in zip(parameters, orthogonal(updates, dtype), strict=True):
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.sub_(update.view(parameter.shape) * (rate * size))
                parameter.grad = None  # done: SGD passes it by

    def _velocity(self, parameter: nn.Parameter) -> Tensor:
        """The Nesterov momentum of `parameter` with its present gradient."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(buffer, MOMENTUM)


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`matrices` [B, m, n] with their singular values brought near 1, float32; computed in `dtype`.

    Newton-Schulz: STEPS times the polynomial QUINTIC of the singular values. Zeros stay zeros.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = (x.mT if tall else x).to(dtype)
    a, b, c = QUINTIC
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()
