"""The blocks and the table of depths: torchvision's, to the last bit of the arithmetic.

And what is blurred before a stride where a network is smooth, by hand.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
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


def impulse(row: int, column: int, size: int = 5) -> Tensor:
    x = torch.zeros(1, 1, size, size)
    x[0, 0, row, column] = 16
    return x


def test_blur_is_the_filter_1_2_1_in_both_directions() -> None:
    assert resnet.blur(impulse(2, 2))[0, 0].tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 2, 1, 0],
        [0, 2, 4, 2, 0],
        [0, 1, 2, 1, 0],
        [0, 0, 0, 0, 0],
    ]


def test_at_an_edge_blur_is_a_mean_of_the_cells_that_are_there() -> None:
    """The corner counts 3/4 in each direction, its neighbour has 1/4 of it."""
    assert resnet.blur(impulse(0, 0))[0, 0, :3, :3].tolist() == [[9, 3, 0], [3, 1, 0], [0, 0, 0]]
    assert resnet.blur(torch.full((1, 2, 5, 4), 0.7)).unique().item() == pytest.approx(0.7)


def test_with_a_stride_of_two_blur_keeps_every_other_cell() -> None:
    x = torch.rand(2, 3, 7, 8)
    torch.testing.assert_close(resnet.blur(x, 2), resnet.blur(x)[..., ::2, ::2])


def test_the_finest_pattern_is_grey_before_a_stride_and_not_black_or_white() -> None:
    board = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).float()[None, None]
    assert resnet.blur(board)[..., 1:-1, 1:-1].unique().tolist() == [0.5]
    assert board[..., ::2, ::2].unique().tolist() == [0]  # what a stride alone would see


def test_halved_is_the_mean_of_two_by_two_and_of_what_is_there_at_an_odd_edge() -> None:
    x = torch.tensor([[1.0, 3, 5], [5, 7, 1], [2, 4, 9]])[None, None]
    assert resnet.halved(x)[0, 0].tolist() == [[4, 3], [3, 9]]


@pytest.mark.parametrize("height, width", [(16, 16), (9, 7), (1, 2)])
def test_smooth_or_not_the_cells_are_as_many(height: int, width: int) -> None:
    x = torch.rand(2, 4, height, width)
    assert resnet.SmoothMaxPool()(x).shape == nn.MaxPool2d(3, 2, 1)(x).shape
    for block in (resnet.BasicBlock, resnet.Bottleneck):
        plain, smooth = (block(4, 8, 2, smooth=s).eval() for s in (False, True))
        assert plain(x).shape == smooth(x).shape


def test_the_smooth_pool_blurs_the_maxima_of_every_three_by_three() -> None:
    """An impulse is the maximum of nine cells; every other cell of the blur of this square."""
    found = resnet.SmoothMaxPool()(impulse(2, 2))
    assert found[0, 0].tolist() == [[1, 4, 1], [4, 16, 4], [1, 4, 1]]


@pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.Bottleneck])
def test_a_smooth_block_blurs_before_its_stride_and_halves_the_shortcut(block) -> None:
    torch.manual_seed(0)
    ours, x = block(4, 8, 2, smooth=True).eval(), torch.randn(2, 4, 9, 8)
    kernel = torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])) / 16
    beside, ones = ours.downsample, torch.ones(1, 1, 9, 8)

    def blurred(y: Tensor) -> Tensor:
        weights = kernel.expand(y.shape[1], 1, 3, 3)
        edges = F.pad(y, (1, 1, 1, 1), mode="replicate")  # at an edge: 3/4 and 1/4
        return F.conv2d(edges, weights, groups=y.shape[1])

    def mean(y: Tensor) -> Tensor:
        inside = F.pad(y, (0, 0, 0, 1))  # nine rows: the last is alone
        count = F.avg_pool2d(F.pad(ones, (0, 0, 0, 1)), 2)
        return F.avg_pool2d(inside, 2) / count

    if block is resnet.BasicBlock:
        y = F.conv2d(blurred(x), ours.conv1.weight, stride=2, padding=1)
        y = ours.bn2(F.conv2d(ours.bn1(y).relu(), ours.conv2.weight, padding=1))
    else:
        y = ours.bn1(F.conv2d(x, ours.conv1.weight)).relu()
        y = ours.bn2(F.conv2d(blurred(y), ours.conv2.weight, stride=2, padding=1)).relu()
        y = ours.bn3(F.conv2d(y, ours.conv3.weight))
    expected = (y + beside[1](F.conv2d(mean(x), beside[0].weight))).relu()
    torch.testing.assert_close(ours(x), expected)


@pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.Bottleneck])
def test_a_block_without_a_stride_is_the_same_smooth_or_not(block) -> None:
    one, other = (block(4, 8, 1, smooth=s).eval() for s in (False, True))
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(one(x), other(x))
