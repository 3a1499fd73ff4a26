"""TrivialAugment (Müller and Hutter, ICCV 2021): one operation an image, at a uniform strength.

As batched tensor arithmetic: every image of a batch goes through all operations and keeps the
result of its own, so nothing waits for the GPU. It differs from the paper's wide space in three
ways. Strengths are not of 31 steps but any. Shear, turn and tones end where RandAugment's do
(Cubuk et al., 2020), the shift at a fifth of the side: the wide ones (0.99, 135 degrees) are for
images of 32 pixels. Equalize is missing: it would need a histogram of each image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "nothing",
    *("shear x", "shear y", "turn", "shift x", "shift y"),
    *("brightness", "contrast", "saturation", "sharpness"),
    *("posterize", "solarize", "autocontrast"),
)
SHEAR = 0.3  # pixels along an axis for each across it, at most
TURN = math.radians(30)
SHIFT = 0.2  # of the side
TONE = 0.9  # of brightness, contrast, saturation and sharpness: factors from 0.1 to 1.9
GREY = (0.299, 0.587, 0.114)  # luma (ITU-R BT.601)
OUTSIDE = 0.5  # what an image shows where it has been moved away: mid-grey, as an erased part


def draw(count: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An index in OPERATIONS, int64 [count], and a strength in [-1, 1), float32 [count].

    A `share` of the images have any of the operations, also "nothing"; the others have "nothing".
    """
    draws = torch.rand(3, count, generator=generator)
    operations = (len(OPERATIONS) * draws[0]).long() * (draws[2] < share)
    return operations, 2 * draws[1] - 1


def move(images: Tensor, operations: Tensor, strengths: Tensor, outside: float = OUTSIDE) -> Tensor:
    """`images` [B, C, S, S], each sheared, turned or shifted where that is its operation [B].

    `strengths` [B] are from -1 to 1. What comes from beyond the edges is `outside`.
    """
    first, last = OPERATIONS.index("shear x"), OPERATIONS.index("shift y")
    places = F.affine_grid(_matrices(operations, strengths), list(images.shape), False)
    found = F.grid_sample(images - outside, places.to(images.dtype), "bilinear", "zeros", False)
    moves = (operations >= first) & (operations <= last)
    return torch.where(_each(moves), (found + outside).clamp_(0, 1), images)


def recolour(images: Tensor, operations: Tensor, strengths: Tensor) -> Tensor:
    """`images` [B, 3, H, W] in [0, 1], each in other tones where that is its operation [B]."""
    strength = _each(strengths).to(images.dtype)
    for name, change in TONES.items():
        own = _each(operations == OPERATIONS.index(name))
        images = torch.where(own, change(images, strength).clamp_(0, 1), images)
    return images


def grey(images: Tensor) -> Tensor:
    """The luma [B, 1, H, W] of RGB `images` [B, 3, H, W]."""
    red, green, blue = images.unbind(dim=1)  # a tensor of weights would be a wait for the GPU
    return (GREY[0] * red).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])[:, None]


def _matrices(operations: Tensor, strengths: Tensor) -> Tensor:
    """Where each pixel comes from, as [B, 2, 3] on coordinates from -1 to 1."""

    def of(name: str, most: float) -> Tensor:
        return most * strengths * (operations == OPERATIONS.index(name))

    angle, shift_x, shift_y = of("turn", TURN), of("shift x", 2 * SHIFT), of("shift y", 2 * SHIFT)
    cos, sin = angle.cos(), angle.sin()
    top = torch.stack([cos, of("shear x", SHEAR) - sin, shift_x], dim=1)
    return torch.stack([top, torch.stack([of("shear y", SHEAR) + sin, cos, shift_y], dim=1)], dim=1)


def _each(values: Tensor) -> Tensor:
    """`values` [B] as [B, 1, 1, 1]."""
    return values[:, None, None, None]


def _brightness(x: Tensor, strength: Tensor) -> Tensor:
    return x * (1 + TONE * strength)


def _contrast(x: Tensor, strength: Tensor) -> Tensor:
    return grey(x).mean((2, 3), keepdim=True).lerp(x, 1 + TONE * strength)


def _saturation(x: Tensor, strength: Tensor) -> Tensor:
    return grey(x).lerp(x, 1 + TONE * strength)


def _sharpness(x: Tensor, strength: Tensor) -> Tensor:
    mean = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return mean.lerp(x, 1 + TONE * strength)


def _posterize(x: Tensor, strength: Tensor) -> Tensor:
    """Of 8 bits at a strength of 0, of 2 at 1."""
    levels = torch.exp2(2 + (6 * (1 - strength.abs())).round()) - 1
    return (x * levels).round() / levels


def _solarize(x: Tensor, strength: Tensor) -> Tensor:
    return torch.where(x >= 1 - strength.abs(), 1 - x, x)


def _autocontrast(x: Tensor, strength: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return (x - low) / (high - low).clamp(min=1 / 255)


TONES = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
}
