"""Residual blocks and the table of depths (He et al., CVPR 2016), named as torchvision's.

With `smooth`, features are blurred before every stride of 2, so that no pattern finer than the new
cells is taken for a coarser one (Zhang, ICML 2019). It adds no weights and renames none.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from abn.models.kernels.batch_norm import batch_norm
from abn.models.kernels.winograd import Conv3x3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; ResNet-18 and -34."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, smooth: bool = False) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride, smooth)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = Conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(inputs, planes, stride, smooth)

    def forward(self, x: Tensor) -> Tensor:
        y = batch_norm(self.bn1, self.conv1(x))
        identity = x if self.downsample is None else self.downsample(x)
        return batch_norm(self.bn2, self.conv2(y), identity)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the shortcut is added."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut, the stride on the 3x3 (v1.5); ResNet-50 and deeper."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, smooth: bool = False) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride, smooth)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride, smooth)

    def forward(self, x: Tensor) -> Tensor:
        y = batch_norm(self.bn1, self.conv1(x))
        y = batch_norm(self.bn2, self.conv2(y))
        identity = x if self.downsample is None else self.downsample(x)
        return batch_norm(self.bn3, self.conv3(y), identity)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm before the shortcut is added."""
        return self.bn3


class Arch(NamedTuple):
    """A kind of ResNet: its block, and the number of blocks in each of the four layers."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]


ARCHS = {
    "resnet18": Arch(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Arch(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Arch(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Arch(Bottleneck, (3, 4, 23, 3)),
    "resnet152": Arch(Bottleneck, (3, 8, 36, 3)),
}


class Projection(nn.Sequential):
    """A 1x1 convolution and its batch norm, with torchvision's names "0" and "1".

    With `smooth`, a stride of 2 is a mean of 2x2 before it (ResNet-D: He et al., CVPR 2019).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, smooth: bool = False) -> None:
        self.halves = smooth and stride == 2
        conv = nn.Conv2d(inputs, outputs, 1, 1 if self.halves else stride, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = halved(x) if self.halves else x
        return batch_norm(self[1], self[0](x), relu=False)


class BlurredConv3x3(Conv3x3):
    """A 3x3 convolution of stride 2 of the blurred features."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(blur(x))


class SmoothMaxPool(nn.Module):
    """Features [B, C, H, W] to [B, C, ceil(H/2), ceil(W/2)]: maxima of 3x3, blurred (MaxBlurPool).

    Of the same shape as the max pooling of stride 2 that it replaces.
    """

    def forward(self, x: Tensor) -> Tensor:
        return blur(F.max_pool2d(x, 3, stride=1, padding=1), stride=2)


def blur(x: Tensor, stride: int = 1) -> Tensor:
    """Features [B, C, H, W] under the filter [1, 2, 1] x [1, 2, 1] / 16, every `stride`-th cell.

    It is two means of 2x2, which are deterministic on CUDA, forwards and backwards; padding by
    reflection is not. At the edges it is a mean of the cells that are there.
    """
    pairs = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)
    return F.avg_pool2d(pairs, 2, stride)


def halved(x: Tensor) -> Tensor:
    """Means of 2x2 cells of [B, C, H, W]: [B, C, ceil(H/2), ceil(W/2)]; of fewer at an odd edge."""
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def conv3x3(inputs: int, outputs: int, stride: int, smooth: bool) -> Conv3x3:
    """A 3x3 convolution, of blurred features where it strides and the network is smooth."""
    kind = BlurredConv3x3 if smooth and stride == 2 else Conv3x3
    return kind(inputs, outputs, stride)


def shortcut(inputs: int, outputs: int, stride: int, smooth: bool = False) -> Projection | None:
    """A projection where a block changes the shape of its input; None: the identity."""
    if stride == 1 and inputs == outputs:
        return None
    return Projection(inputs, outputs, stride, smooth)


def layer(
    block: type[BasicBlock] | type[Bottleneck],
    inputs: int,
    planes: int,
    depth: int,
    stride: int,
    smooth: bool = False,
) -> nn.Sequential:
    """`depth` blocks; the first takes `inputs` channels and the stride."""
    outputs = planes * block.expansion
    rest = [block(outputs, planes, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(block(inputs, planes, stride, smooth), *rest)
