"""Crops, mirrored or not, as batched tensor arithmetic on the images' device.

A box is [top, left, height, width] in shares of the canvas. A canvas is an image squashed to a
square, so a square box of the original is not square here; `aspect` (width over height) corrects.
"""

import torch
from torch import Tensor

from abn.data.packed import OBJECT


def centre_boxes(aspect: Tensor, share: float) -> Tensor:
    """Boxes [N, 4] of the central square whose side is `share` of each original's short side."""
    height = share * aspect.clamp(max=1)
    width = share / aspect.clamp(min=1)
    return torch.stack([(1 - height) / 2, (1 - width) / 2, height, width], dim=1)


def crop(
    images: Tensor, boxes: Tensor, mirrored: Tensor, size: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Cut `boxes` [B, 4] out of `images` uint8 [B, H, W, C]: `dtype` [B, C, size, size] in [0, 1].

    `mirrored` bool [B] swaps left and right. Shrinking is anti-aliased: each axis is a product with
    a matrix of triangle weights, the bilinear filter of Pillow and torchvision.
    """
    b, h, w, c = images.shape
    rows = _weights(boxes[:, 0], boxes[:, 2], h, size).to(dtype)  # [B, size, H]
    columns = _weights(boxes[:, 1], boxes[:, 3], w, size).to(dtype)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    x = torch.bmm(rows, images.reshape(b, h, w * c).to(dtype))  # [B, size, W * C]
    x = x.view(b, size, w, c).permute(0, 3, 1, 2).reshape(b, c * size, w)
    x = torch.bmm(x, columns.transpose(1, 2)).view(b, c, size, size)
    return x.div_(255).clamp_(0, 1)


def crop_objects(masks: Tensor, boxes: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """The share of each pixel that the object covers: float32 [B, 1, size, size] in [0, 1].

    `masks` uint8 [B, H, W] as `Sample.mask`; cut and mirrored exactly as `crop` does the images.
    """
    objects = (masks == OBJECT).to(torch.uint8).mul_(255)
    return crop(objects[..., None], boxes, mirrored, size)


def _weights(start: Tensor, extent: Tensor, pixels: int, size: int) -> Tensor:
    """Weights [B, size, pixels] of the canvas pixels in each of `size` samples of an interval."""
    step = extent[:, None] * pixels / size  # canvas pixels per output pixel
    steps = torch.arange(size, device=start.device) + 0.5
    centres = start[:, None] * pixels + steps * step  # [B, size]
    distance = torch.arange(pixels, device=start.device) + 0.5 - centres[:, :, None]
    weights = (1 - distance.abs() / step.clamp(min=1)[:, :, None]).clamp_(min=0)
    return weights / weights.sum(dim=2, keepdim=True)
