"""The blocks and the table of depths: torchvision's, to the last bit of the arithmetic."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from abn.models import resnet

# Inputs, planes, stride: the same shape, fewer pixels, more channels.
SHAPES = [(16, 16, 1), (16, 16, 2), (8, 16, 1)]


def twin(theirs: type[nn.Module], inputs: int, planes: int, stride: int) -> nn.Module:
    """torchvision's block, which leaves the shortcut's projection to its caller."""
    outputs = planes * theirs.expansion
    if stride == 1 and inputs == outputs:
        return theirs(inputs, planes, stride)
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return theirs(inputs, planes, stride, nn.Sequential(conv, nn.BatchNorm2d(outputs)))


@pytest.mark.parametrize("inputs, planes, stride", SHAPES)
@pytest.mark.parametrize(
    "ours, theirs",
    [(resnet.BasicBlock, BasicBlock), (resnet.Bottleneck, Bottleneck)],
    ids=["basic", "bottleneck"],
)
def test_a_block_computes_what_torchvisions_does(ours, theirs, inputs, planes, stride):
    torch.manual_seed(0)
    block, reference = ours(inputs, planes, stride), twin(theirs, inputs, planes, stride)
    block.load_state_dict(reference.state_dict())
    x = torch.randn(2, inputs, 9, 7)
    assert torch.equal(block(x), reference(x))  # in train mode: batch statistics
    assert torch.equal(block.eval()(x), reference.eval()(x))
