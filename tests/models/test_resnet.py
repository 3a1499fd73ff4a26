"""The blocks and the table of depths: torchvision's, to the last bit of the arithmetic."""

import pytest
import torch
import torchvision
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


def depths(arch: str) -> list[int]:
    with torch.device("meta"):
        model = getattr(torchvision.models, arch)()
    return [len(getattr(model, f"layer{n}")) for n in range(1, 5)]


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


@pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.Bottleneck])
def test_without_its_last_norm_a_block_passes_its_input_on(block):
    network = block(4 * block.expansion, 4, stride=1)
    nn.init.zeros_(network.last_norm.weight)
    x = torch.rand(2, 4 * block.expansion, 3, 3)
    assert torch.equal(network(x), x)


@pytest.mark.parametrize("arch", resnet.ARCHS)
def test_the_depths_are_torchvisions(arch):
    assert list(resnet.ARCHS[arch].depths) == depths(arch)


def test_the_shortcut_is_the_identity_where_the_shape_stays():
    assert resnet.shortcut(8, 8, stride=1) is None
    assert resnet.shortcut(8, 16, stride=1) is not None
    assert resnet.shortcut(8, 8, stride=2) is not None


def test_only_the_first_block_of_a_layer_changes_the_shape():
    layer = resnet.layer(resnet.Bottleneck, inputs=8, planes=4, depth=3, stride=2)
    x = torch.rand(1, 8, 10, 10)
    assert [tuple((x := block(x)).shape) for block in layer] == [(1, 16, 5, 5)] * 3
    assert [block.downsample is None for block in layer] == [False, True, True]
