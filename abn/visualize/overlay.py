"""A map laid over its image in colours, and an image under its map.

Needs neither matplotlib nor anything of the pipeline.
"""

import functools
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from abn.models.abn import IMAGENET_MEAN

HEAT = 0.6  # of a blend: the most weight that the colours get against the image
Colours = Literal["jet", "viridis"]


class Style(NamedTuple):
    """How a map is laid over its image."""

    colours: Colours = "jet"
    alpha: float = 1.0  # strength of the heat, 0 to 1: 0 leaves the image (of viridis: its grey)


def overlay(
    image: NDArray[np.uint8], attention: NDArray[np.float32], alpha: float
) -> NDArray[np.uint8]:
    """`image` plus `alpha` times the map in JET colours, saturating: uint8 [H, W, 3] RGB.

    The map [h, w] is stretched to its own range; a constant one is the lowest colour throughout.
    `alpha` is 0 to 1: 0 gives the image back, 1 is the plain sum of the original ABN.
    """
    height, width = image.shape[:2]
    above = attention - attention.min()
    stretched = (255 * (above / (above.max() or 1))).astype(np.uint8)
    levels = cv2.resize(stretched, (width, height))
    heat = _heat(levels, cv2.COLORMAP_JET)
    heat = heat if alpha == 1 else (alpha * heat).astype(np.uint8)
    return np.asarray(cv2.add(image, heat), dtype=np.uint8)


def blend(
    image: NDArray[np.uint8],
    values: NDArray[np.float32],
    alpha: float,
    scale: tuple[float, float],
) -> NDArray[np.uint8]:
    """The grey `image` under a map [h, w] in viridis, which runs over `scale`: uint8 [H, W, 3] RGB.

    Equal steps of the map look equally large, and the same colour is the same value in every
    picture of that scale. The heat has HEAT * `alpha` of the weight, so the object stays visible;
    the image is grey, so that all colour is the map's.
    """
    height, width = image.shape[:2]
    low, high = scale
    levels = np.clip((values - low) / ((high - low) or 1), 0, 1).astype(np.float32)
    smooth = np.rint(255 * cv2.resize(levels, (width, height))).astype(np.uint8)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    weight = HEAT * alpha
    mixed = grey * (1 - weight) + _heat(smooth, cv2.COLORMAP_VIRIDIS) * weight
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def seen(images: Tensor, attention: Tensor) -> Tensor:
    """`images` [B, 3, H, W] in [0, 1] under `attention` [B, 1, h, w]: what `look` decides on.

    The network multiplies the normalised picture by the map. So what the map hides becomes the
    colour that is normalised to zero, ImageNet's mean.
    """
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    size = (images.shape[2], images.shape[3])
    mask = F.interpolate(attention, size, mode="bilinear", align_corners=False)
    return mean + (images - mean) * mask


def _heat(levels: NDArray[np.uint8], palette: int) -> NDArray[np.uint8]:
    """Levels [H, W] in the colours of `palette`: uint8 [H, W, 3] RGB."""
    # cv2.applyColorMap gives the same, at several times the cost.
    return np.asarray(cv2.LUT(cv2.merge((levels, levels, levels)), _table(palette)))


@functools.cache
def _table(palette: int) -> NDArray[np.uint8]:
    """The colours of the 256 levels: uint8 [1, 256, 3] RGB."""
    levels = np.arange(256, dtype=np.uint8)[None]
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(levels, palette), cv2.COLOR_BGR2RGB))
