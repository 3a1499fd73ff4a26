"""Networks that look, then decide, simple enough to say by hand what they see."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abn.models.abn import AttentionBranchNetwork

CELL = 8  # pixels


class Looker(AttentionBranchNetwork):
    """Names the colour of `toys.TINTS` that is there; the map hides what speaks against it.

    A class's map is its evidence in each cell, from 0 at the lowest to 1 at the highest.
    """

    looks = True

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.layer4 = nn.Identity()
        self.still = nn.Parameter(torch.zeros(1))

    def features(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(evidence(images), CELL)

    def attention_branch(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features, self.class_attention(features, features.mean((2, 3)).argmax(1))

    def class_attention(self, class_maps: Tensor, classes: Tensor) -> Tensor:
        ours = class_maps[torch.arange(len(classes)), classes].unsqueeze(1)
        raised = ours - ours.amin((2, 3), keepdim=True)
        return raised / raised.amax((2, 3), keepdim=True)

    def attend(self, images: Tensor, features: Tensor, attention: Tensor) -> Tensor:
        size = (images.shape[2], images.shape[3])
        return images * F.interpolate(attention, size, mode="bilinear", align_corners=False)

    def perception_branch(self, attended: Tensor) -> Tensor:
        return self.layer4(evidence(attended)).mean((2, 3)) + 0 * self.still


class Fixed(Looker):
    """Decides for class 3 whatever it sees."""

    def perception_branch(self, attended: Tensor) -> Tensor:
        return torch.tensor([[0.0, 1, 2, 3]]).repeat(len(attended), 1)


class Outline(Looker):
    """Decides by which quarter is brightest, as toys.split places its objects."""

    def perception_branch(self, attended: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(attended.mean(1, keepdim=True), 2).flatten(1)


def evidence(images: Tensor) -> Tensor:
    """For red, blue, green and yellow in each pixel: [B, 4, H, W]; none in black."""
    red, green, blue = images.unbind(1)
    yellow = torch.minimum(red, green) - blue - (red - green).abs()
    values = (red - green - blue, blue - red - green, green - red - blue, yellow)
    return torch.stack(values, 1)
