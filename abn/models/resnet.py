"""Residual blocks and the table of depths (He et al., CVPR 2016), named as torchvision's."""

from typing import NamedTuple

from torch import Tensor, nn

from abn.models.kernels.batch_norm import batch_norm
from abn.models.kernels.winograd import Conv3x3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; ResNet-18 and -34."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = Conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = shortcut(inputs, planes, stride)

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

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = Conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

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
    """A 1x1 convolution and its batch norm, with torchvision's names "0" and "1"."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(self[1], self[0](x), relu=False)


def shortcut(inputs: int, outputs: int, stride: int) -> Projection | None:
    """A projection where a block changes the shape of its input; None: the identity."""
    return None if stride == 1 and inputs == outputs else Projection(inputs, outputs, stride)


def layer(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    """`depth` blocks; the first takes `inputs` channels and the stride."""
    outputs = planes * block.expansion
    rest = [block(outputs, planes, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(block(inputs, planes, stride), *rest)
