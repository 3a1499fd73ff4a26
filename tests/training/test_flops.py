"""Arithmetic counted: by hand where it is small, as published where it is a network."""

import pytest
import torch
from torch import nn

from abn.models.abn import AttentionBranchNetwork
from abn.training import flops


def test_a_convolution_by_hand() -> None:
    # at 4 x 4 places 3 x 3 x 3 products for each of 5 outputs; a multiply-add is two; thrice
    assert flops.training(nn.Conv2d(3, 5, 3, stride=2, padding=1), 8) == 3 * 2 * 4 * 4 * 27 * 5


@pytest.mark.parametrize("arch, gmacs", [("resnet18", 3.4588), ("resnet50", 7.0199)])
def test_a_network_of_ten_classes_at_224_pixels(arch: str, gmacs: float) -> None:
    with torch.device("meta"):
        model = AttentionBranchNetwork(arch, 10)
    assert flops.training(model, 224) == pytest.approx(6e9 * gmacs, rel=1e-3)
