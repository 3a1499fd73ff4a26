"""A map laid over its image in colours. Needs neither matplotlib nor anything of the pipeline."""

import cv2
import numpy as np
from numpy.typing import NDArray


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
    heat = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.add(image, (alpha * heat).astype(np.uint8)), dtype=np.uint8)
