"""The attention map laid over its image, as pixels. Needs neither matplotlib nor a model."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from abn.explain.scores import FLAT


class Tile(NamedTuple):
    """An image, the attention map of the network, and its prediction."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    attention: NDArray[np.float32]  # [h, w] in (0, 1), as the network gave it
    truth: str
    prediction: str
    confidence: float  # of the prediction, 0 to 1

    @property
    def correct(self) -> bool:
        return self.truth == self.prediction

    @property
    def gain_ratio(self) -> float:
        """The largest gain (1 + map) over the smallest: 1 to 2; at 1 the map changes nothing."""
        return float((1 + self.attention.max()) / (1 + self.attention.min()))

    @property
    def flat(self) -> bool:
        """Whether the map weighs all places about the same."""
        return self.gain_ratio < FLAT

    def overlay(self, alpha: float) -> NDArray[np.uint8]:
        return overlay(self.image, self.attention, alpha)


def overlay(
    image: NDArray[np.uint8], attention: NDArray[np.float32], alpha: float
) -> NDArray[np.uint8]:
    """`image` plus `alpha` times the map in JET colours, saturating: uint8 [H, W, 3] RGB.

    The map [h, w] is stretched to its own range; a constant map is the lowest colour everywhere.
    `alpha` is 0 to 1: 0 returns the image, 1 is the plain sum of the original ABN.
    """
    height, width = image.shape[:2]
    levels = cv2.resize(_stretch(attention), (width, height))
    heat = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.add(image, (alpha * heat).astype(np.uint8)), dtype=np.uint8)


def _stretch(attention: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The map's own range stretched over 0 to 255; a constant map is 0 everywhere."""
    above = attention - attention.min()
    levels: NDArray[np.uint8] = (255 * (above / (above.max() or 1))).astype(np.uint8)
    return levels
