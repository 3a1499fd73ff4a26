"""Muon: steps by hand, torch's own Muon on the same matrix, and what is left to SGD."""

from typing import Any

import pytest
import torch
from torch import nn

from abn.runtime.rng import generator
from abn.training import muon
from abn.training.muon import Muon, orthogonal

# What becomes of a singular value of 1: five times the quintic, in plain numbers.
VALUE = 1.0
for _ in range(5):
    VALUE = 3.4445 * VALUE - 4.7750 * VALUE**3 + 2.0315 * VALUE**5


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator("muon"))


def of(*kernels: torch.Tensor, decay: float = 0.0) -> tuple[list[nn.Parameter], Muon]:
    """Parameters with these values, and Muon over them at a rate of 0.1."""
    parameters = [nn.Parameter(kernel.clone()) for kernel in kernels]
    group = {"params": parameters, "weight_decay": decay, "muon": True}
    return parameters, Muon([group], half=True, lr=0.1, momentum=0.9, nesterov=True, fused=True)


def test_a_matrix_of_rank_one_keeps_its_direction_and_its_value_goes_through_the_quintic() -> None:
    found = orthogonal(torch.full((1, 2, 2), 7.0))  # at a length of 1, four times 1/2
    torch.testing.assert_close(found, torch.full((1, 2, 2), VALUE / 2))
    assert 0.65 < VALUE < 0.7
    assert orthogonal(torch.zeros(1, 2, 2)).eq(0).all()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int, int]) -> None:
    given = noise(*shape)
    found = orthogonal(given)
    values = torch.linalg.svdvals(found)
    assert found.shape == given.shape and values.max() < 1.3
    assert values[:, : shape[2] // 2 if shape[1] == 16 else None].min() > 0.6
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    rotated = left.mT @ found @ right.mT  # diagonal in the directions of `given`
    assert (rotated - torch.diag_embed(rotated.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def test_two_steps_by_hand() -> None:
    """All values of a 2 x 1 x 1 x 2 kernel are alike, so each step is of one size: 0.1 of it."""
    (kernel,), optimizer = of(torch.ones(2, 1, 1, 2), decay=0.5)
    size = 0.2 * 2**0.5 * VALUE / 2
    value = 1.0
    for gradient in (3.0, -1.0):
        kernel.grad = torch.full_like(kernel, gradient)
        optimizer.step()
        # momentum: 0.15, then 0.95 * 0.15 - 0.05 = 0.0925; with Nesterov's share of the gradient
        # 0.95 * 0.15 + 0.05 * 3 > 0, then 0.95 * 0.0925 - 0.05 * 1 > 0: both steps are downwards
        value = value * (1 - 0.1 * 0.5) - 0.1 * size
        torch.testing.assert_close(kernel.detach(), torch.full((2, 1, 1, 2), value))
    assert optimizer.state[kernel]["momentum_buffer"].unique().item() == pytest.approx(0.0925)
    assert kernel.grad is None


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (24, 2, 1, 1)])
def test_a_step_is_that_of_torchs_muon_on_the_kernel_as_a_matrix(shape: tuple[int, ...]) -> None:
    """Theirs is for matrices and computes in bf16."""
    (kernel,), ours = of(noise(*shape), decay=0.3)
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    theirs = torch.optim.Muon([matrix], 0.1, 0.3, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for number in range(3):
        before = kernel.detach().clone()
        kernel.grad = noise(*shape) * (number + 1)
        matrix.grad = kernel.grad.flatten(1).clone()
        ours.step(), theirs.step()
        moved = (kernel - before).abs().mean().item()
        assert (kernel.flatten(1) - matrix).abs().max().item() < 0.1 * (number + 1) * moved


def test_kernels_of_one_shape_step_together_as_each_alone() -> None:
    kernels = [noise(4, 3, 3, 3), noise(4, 3, 3, 3) + 1, noise(4, 27, 1, 1)]
    together, optimizer = of(*kernels)
    for kernel in together:
        kernel.grad = kernel.detach().sin()
    optimizer.step()
    for given, found in zip(kernels, together, strict=True):
        (alone,), own = of(given)
        alone.grad = alone.detach().sin()
        own.step()
        torch.testing.assert_close(found, alone)


def test_a_kernel_without_a_gradient_stays_and_has_no_momentum() -> None:
    (one, other), optimizer = of(noise(2, 2), noise(2, 2))
    before, one.grad = other.detach().clone(), noise(2, 2)
    optimizer.step()
    assert other.equal(before) and not optimizer.state[other]


def test_the_rate_may_be_a_tensor_as_a_cuda_graph_needs_it() -> None:
    (one,), plain = of(noise(3, 4), decay=0.2)
    (other,), recorded = of(noise(3, 4), decay=0.2)
    recorded.param_groups[0]["lr"] = torch.tensor(0.1)
    for kernel, optimizer in ((one, plain), (other, recorded)):
        kernel.grad = torch.ones(3, 4)
        optimizer.step()
    torch.testing.assert_close(one, other)


def test_groups_that_are_not_its_own_move_as_in_sgd() -> None:
    bias, twin = (nn.Parameter(torch.ones(3)) for _ in range(2))
    how: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "fused": True}
    ours = Muon([{"params": [bias], "weight_decay": 0.2, "muon": False}], half=True, **how)
    theirs = torch.optim.SGD([twin], weight_decay=0.2, **how)
    for _ in range(2):
        bias.grad, twin.grad = torch.arange(3.0), torch.arange(3.0)
        ours.step(), theirs.step()
        assert bias.equal(twin)


@pytest.mark.parametrize(
    "name, kernel",
    [
        *[("layer1.0.conv1.weight", True), ("att_layer4.1.conv2.weight", True)],
        *[("layer4.0.downsample.0.weight", True), ("layer4.0.downsample.1.weight", False)],
        *[("conv1.weight", False), ("att_conv.weight", False), ("fc.weight", False)],
    ],
)
def test_it_moves_kernels_of_blocks_alone(name: str, kernel: bool) -> None:
    parameter = nn.Parameter(torch.ones(2) if ".1.weight" in name else torch.ones(2, 2, 1, 1))
    assert muon.is_moved(name, parameter) == kernel
