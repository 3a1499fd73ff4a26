"""Arithmetic counted: by hand where it is small, as published where it is a network."""

import copy

import pytest
import torch
from torch import nn

from abn.models.abn import AttentionBranchNetwork
from abn.training import flops
from tests import toys


def test_a_convolution_by_hand() -> None:
    # 8 x 8 places, at each 3 products for each of 5 outputs; a multiply-add is two
    assert flops.forward(nn.Conv2d(3, 5, 1), 8) == 2 * 8 * 8 * 3 * 5
    # halved by its stride, with 3 x 3 x 3 products
    assert flops.forward(nn.Conv2d(3, 5, 3, stride=2, padding=1), 8) == 2 * 4 * 4 * 27 * 5


@pytest.mark.parametrize("arch, gmacs", [("resnet18", 3.4588), ("resnet50", 7.0199)])
def test_a_network_of_ten_classes_at_224_pixels(arch: str, gmacs: float) -> None:
    with torch.device("meta"):
        model = AttentionBranchNetwork(arch, 10)
    assert flops.forward(model, 224) == pytest.approx(2e9 * gmacs, rel=1e-3)


def test_training_is_three_times_the_forward_pass() -> None:
    model = toys.network()
    assert flops.training(model, 32) == 3 * flops.forward(model, 32) > 0


def test_the_model_is_neither_moved_nor_changed() -> None:
    model = toys.network().train()
    before = copy.deepcopy(model.state_dict())
    flops.forward(model, 32)
    assert model.training
    assert all(p.device.type == "cpu" and p.grad is None for p in model.parameters())
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())
