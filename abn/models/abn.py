"""The Attention Branch Network (Fukui et al., CVPR 2019), with the official code's names.

A ResNet cut after layer3: an attention branch says what it sees there and where it looked; the
perception branch decides on the features multiplied by one plus that map.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abn.models.kernels.batch_norm import batch_norm
from abn.models.resnet import ARCHS, BasicBlock, Bottleneck, layer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Output(NamedTuple):
    """What the network says of B images: K classes, and a map of h x w cells (image side / 16)."""

    logits: Tensor  # [B, K], the perception branch: the prediction
    attention_logits: Tensor  # [B, K], the attention branch
    attention: Tensor  # [B, 1, h, w] in (0, 1)


class Trace(NamedTuple):
    """What one forward pass of B images computes on its way, in order; C channels."""

    features: Tensor  # [B, C, h, w], layer3's, before the map acts on them
    class_maps: Tensor  # [B, K, h, w], the attention branch's: their means are its logits
    attention: Tensor  # [B, 1, h, w] in (0, 1)
    logits: Tensor  # [B, K], the perception branch's

    def output(self) -> Output:
        """The prediction and the map alone."""
        return Output(self.logits, self.class_maps.mean(dim=(2, 3)), self.attention)


class AttentionBranchNetwork(nn.Module):
    """An ABN on `arch` (a key of `resnet.ARCHS`) for `num_classes` classes.

    With `zero_init`, every residual block starts as the identity (Goyal et al., 2017, 5.1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: str, num_classes: int, zero_init: bool = False) -> None:
        super().__init__()
        block, depths = ARCHS[arch]
        wide, top = 256 * block.expansion, 512 * block.expansion
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = layer(block, 64, 64, depths[0], stride=1)
        self.layer2 = layer(block, 64 * block.expansion, 128, depths[1], stride=2)
        self.layer3 = layer(block, 128 * block.expansion, 256, depths[2], stride=2)

        self.att_layer4 = layer(block, wide, 512, depths[3], stride=1)
        self.bn_att = nn.BatchNorm2d(top)
        self.att_conv = nn.Conv2d(top, num_classes, 1, bias=False)
        self.bn_att2 = nn.BatchNorm2d(num_classes)
        self.att_conv2 = nn.Conv2d(num_classes, num_classes, 1, bias=False)
        self.att_conv3 = nn.Conv2d(num_classes, 1, 3, padding=1, bias=False)
        self.bn_att3 = nn.BatchNorm2d(1)

        self.layer4 = layer(block, wide, 512, depths[3], stride=2)
        self.fc = nn.Linear(top, num_classes)
        self.apply(_initialise)
        for module in self.modules() if zero_init else ():
            if isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, images: Tensor) -> Output:
        """Classify RGB `images` [B, 3, H, W] in [0, 1] and say where the network looked."""
        return self.trace(images).output()

    def trace(self, images: Tensor) -> Trace:
        """The forward pass of RGB `images` [B, 3, H, W] in [0, 1], with what lies in between."""
        features = self.features(images)
        class_maps, attention = self.attention_branch(features)
        logits = self.perception_branch(self.attend(features, attention))
        return Trace(features, class_maps, attention, logits)

    def attend(self, features: Tensor, attention: Tensor) -> Tensor:
        """Features [B, C, h, w] under a map [B, 1, h, w]: the one place where a map acts.

        The 1 keeps what the map would erase (the paper's residual attention).
        """
        return features * (1 + attention)

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] to layer3's features [B, C, H/16, W/16]."""
        x = (images - self.mean) / self.std
        x = self.maxpool(batch_norm(self.bn1, self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def attention_branch(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """A map a class [B, K, h, w], whose means are the logits, and the map [B, 1, h, w]."""
        # No ReLU after bn_att, as in the official code.
        x = batch_norm(self.bn_att, self.att_layer4(features), relu=False)
        x = batch_norm(self.bn_att2, self.att_conv(x))  # [B, K, h, w]
        attention = torch.sigmoid(self.bn_att3(self.att_conv3(x)))
        return self.att_conv2(x), attention

    def perception_branch(self, attended: Tensor) -> Tensor:
        """Logits [B, K] from features [B, C, h, w] under a map, as `attend` gives them."""
        return self.fc(self.layer4(attended).mean(dim=(2, 3)))


def losses(output: Output, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropies of the perception and the attention branch; training minimises their sum.

    `targets` are labels int64 [B] or shares of the classes float32 [B, K].
    """
    perception = F.cross_entropy(output.logits, targets, label_smoothing=label_smoothing)
    attention = F.cross_entropy(output.attention_logits, targets, label_smoothing=label_smoothing)
    return perception, attention


def _initialise(module: nn.Module) -> None:
    """He initialisation of every convolution, as the official code; torch's default elsewhere."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
