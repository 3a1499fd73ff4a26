"""The Attention Branch Network (Fukui et al., CVPR 2019), with the official code's names.

A ResNet cut after layer3: an attention branch says what it sees there and where it looked; the
perception branch decides under that map. There are two ways for a map to act. `residual`, the
official one: the features are multiplied by one plus the map. `look`: the picture is multiplied by
the map, and the same trunk looks again at what is left of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from abn.config.params import Attention
from abn.models.kernels.batch_norm import batch_norm
from abn.models.resnet import ARCHS, BasicBlock, Bottleneck, SmoothMaxPool, layer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


FLAT_RANGE = 1.0  # logits: a class map with less between its cells has a fainter attention map


class Output(NamedTuple):
    """What the network says of B images: K classes, and a map of h x w cells (image side / 16)."""

    logits: Tensor  # [B, K], the perception branch: the prediction
    attention_logits: Tensor  # [B, K], the attention branch
    attention: Tensor  # [B, 1, h, w] in [0, 1]


class Trace(NamedTuple):
    """What one forward pass of B images computes on its way, in order; C channels."""

    features: Tensor  # [B, C, h, w], layer3's of the whole picture
    class_maps: Tensor  # [B, K, h, w], the attention branch's: their means are its logits
    attention: Tensor  # [B, 1, h, w] in [0, 1]
    logits: Tensor  # [B, K], the perception branch's

    def output(self) -> Output:
        """The prediction and the map alone."""
        return Output(self.logits, self.class_maps.mean(dim=(2, 3)), self.attention)


class AttentionBranchNetwork(nn.Module):
    """An ABN on `arch` (a key of `resnet.ARCHS`) for `num_classes` classes.

    With `zero_init`, every residual block starts as the identity (Goyal et al., 2017, 5.1).
    `attention` is how the map acts. `look` has no weights that `residual` has not, but the trunk's
    batch norms keep statistics of their own (`look_norms`) for the second look, and `contrast`, in
    (0, 1], is how far its map dims the picture where it is lowest: 1 hides what is there.
    `branch_relu` puts a ReLU after bn_att, which the official code does not have and networks of
    the project before this one do. `smooth` blurs before each stride of the trunk (`resnet.py`): no
    other weights, another function. ValueError for any other value.
    """

    looks = False
    contrast = 1.0
    branch_relu = False
    smooth = False
    frozen: tuple[str, ...] = ()  # parts whose norms stay in eval mode: `pretrained.freeze`
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        arch: str,
        num_classes: int,
        zero_init: bool = False,
        attention: Attention = "residual",
        contrast: float = 1.0,
        branch_relu: bool = False,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        _check(arch, num_classes, attention, contrast)
        self.looks, self.contrast = attention == "look", contrast
        self.branch_relu, self.smooth = branch_relu, smooth
        block, depths = ARCHS[arch]
        wide, top = 256 * block.expansion, 512 * block.expansion
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = SmoothMaxPool() if smooth else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = layer(block, 64, 64, depths[0], stride=1)
        self.layer2 = layer(block, 64 * block.expansion, 128, depths[1], 2, smooth)
        self.layer3 = layer(block, 128 * block.expansion, 256, depths[2], 2, smooth)

        self.att_layer4 = layer(block, wide, 512, depths[3], stride=1)
        self.bn_att = nn.BatchNorm2d(top)
        self.att_conv = nn.Conv2d(top, num_classes, 1, bias=False)
        self.bn_att2 = nn.BatchNorm2d(num_classes)
        self.att_conv2 = nn.Conv2d(num_classes, num_classes, 1, bias=False)
        self.att_conv3 = nn.Conv2d(num_classes, 1, 3, padding=1, bias=False)
        self.bn_att3 = nn.BatchNorm2d(1)

        self.layer4 = layer(block, wide, 512, depths[3], 2, smooth)
        self.fc = nn.Linear(top, num_classes)
        norms = self.trunk_norms() if self.looks else []
        second = (nn.BatchNorm2d(norm.num_features, affine=False) for norm in norms)
        self.look_norms = nn.ModuleList(second)
        self.apply(_initialise)
        for module in self.modules() if zero_init else ():
            if isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)
        if self.looks:  # after the draws above, so that both modes start from the same weights
            del self.att_conv3, self.bn_att3

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but what is frozen keeps its statistics."""
        super().train(mode)
        for part in map(self.get_submodule, self.frozen):
            part.eval()
        return self

    def forward(self, images: Tensor) -> Output:
        """Classify RGB `images` [B, 3, H, W] in [0, 1] and say where the network looked."""
        return self.trace(images).output()

    def logits_only(self) -> "Logits":
        """This network as a module from images [B, 3, H, W] to logits [B, K], on the same weights.

        For libraries that take one output: torchcam, pytorch-grad-cam, Captum.
        """
        return Logits(self)

    def trace(self, images: Tensor) -> Trace:
        """The forward pass of RGB `images` [B, 3, H, W] in [0, 1], with what lies in between."""
        features = self.features(images)
        class_maps, attention = self.attention_branch(features)
        logits = self.perception_branch(self.attend(images, features, attention))
        return Trace(features, class_maps, attention, logits)

    def attend(self, images: Tensor, features: Tensor, attention: Tensor) -> Tensor:
        """What the perception branch decides on [B, C, h, w]: the one place where a map acts.

        `images` [B, 3, H, W] and their `features` [B, C, h, w] under `attention` [B, 1, h', w'].
        residual: the features times (1 + map); the 1 keeps what the map would erase. look: the
        features of the pictures under the map. What it hides becomes ImageNet's mean colour.
        """
        if not self.looks:
            return features * (1 + attention)
        size = (images.shape[2], images.shape[3])
        mask = F.interpolate(attention, size, mode="bilinear", align_corners=False)
        with self._second_statistics():
            return self._trunk(self._normalised(images) * mask)

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] to layer3's features [B, C, H/16, W/16]."""
        return self._trunk(self._normalised(images))

    def attention_branch(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """A map a class [B, K, h, w], whose means are the logits, and the map [B, 1, h, w]."""
        x = batch_norm(self.bn_att, self.att_layer4(features), relu=self.branch_relu)
        x = batch_norm(self.bn_att2, self.att_conv(x))  # [B, K, h, w]
        class_maps = self.att_conv2(x)
        if self.looks:
            return class_maps, self.class_attention(class_maps, class_maps.mean((2, 3)).argmax(1))
        return class_maps, torch.sigmoid(self.bn_att3(self.att_conv3(x)))

    def class_attention(self, class_maps: Tensor, classes: Tensor) -> Tensor:
        """The map that `look` has for `classes` int64 [B]: [B, 1, h, w] in [1 - contrast, 1].

        Linear in the class's own map [B, h, w]: 1 where that is highest, 1 - contrast where it is
        lowest. Where all its cells are within FLAT_RANGE, the map is fainter, down to 1 everywhere.
        """
        index = classes.view(-1, 1, 1, 1).expand(-1, 1, *class_maps.shape[2:])
        ours = class_maps.gather(1, index)
        low, high = ours.amin((2, 3), keepdim=True), ours.amax((2, 3), keepdim=True)
        return 1 - self.contrast * (high - ours) / (high - low).clamp_min(FLAT_RANGE)

    def perception_branch(self, attended: Tensor) -> Tensor:
        """Logits [B, K] from features [B, C, h, w] under a map, as `attend` gives them."""
        return self.fc(self.layer4(attended).mean(dim=(2, 3)))

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def _trunk(self, x: Tensor) -> Tensor:
        x = self.maxpool(batch_norm(self.bn1, self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def trunk_norms(self) -> list[_BatchNorm]:
        """The batch norms before and in layer1 to layer3; `look_norms` has the same order."""
        parts = (self.bn1, self.layer1, self.layer2, self.layer3)
        modules = (module for part in parts for module in part.modules())
        return [module for module in modules if isinstance(module, _BatchNorm)]

    @contextmanager
    def _second_statistics(self) -> Iterator[None]:
        """Inside, the trunk's norms use and update the statistics in `look_norms`.

        A picture under a map is darker and flatter than a whole one: with one set of running
        statistics for both, neither would be normalised right.
        """
        pairs = list(zip(self.trunk_norms(), self.look_norms, strict=True))
        _swap_buffers(pairs)
        try:
            yield
        finally:
            _swap_buffers(pairs)


class Logits(nn.Module):
    """The perception branch's logits [B, K] of images [B, 3, H, W] in [0, 1], and nothing else."""

    def __init__(self, network: AttentionBranchNetwork) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


def losses(
    output: Output, targets: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropies of the perception and the attention branch; training minimises their sum.

    `targets` are labels int64 [B] or shares of the classes float32 [B, K]. `weights` float32 [K] of
    the classes need shares: there the mean stays one over B images.
    """
    loss = partial(F.cross_entropy, weight=weights, label_smoothing=label_smoothing)
    return loss(output.logits, targets), loss(output.attention_logits, targets)


def _swap_buffers(pairs: Sequence[tuple[nn.Module, nn.Module]]) -> None:
    for first, second in pairs:
        first._buffers, second._buffers = second._buffers, first._buffers


def _check(arch: str, num_classes: int, attention: str, contrast: float) -> None:
    """ValueError that names what a network cannot be made of."""
    if arch not in ARCHS:
        raise ValueError(f"arch is {arch!r}, not one of {', '.join(ARCHS)}")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes is {num_classes!r}, not a whole number from 1")
    if attention not in get_args(Attention):
        raise ValueError(f"attention is {attention!r}, not one of {', '.join(get_args(Attention))}")
    if not 0 < contrast <= 1:
        raise ValueError(f"contrast is {contrast!r}, not above 0 and at most 1")


def _initialise(module: nn.Module) -> None:
    """He initialisation of every convolution, as the official code; torch's default elsewhere."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
