"""What a network says of one image, and its map drawn over that image."""

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from abn.visualize.overlay import overlay

FRAME = 200  # the short side of an image over the width of the line around what was seen


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one image."""

    classes: dict[str, float]
    """Class to confidence (0 to 1) of the perception branch, most confident first: the answer."""
    attention_confidences: dict[str, float]
    """The same of the attention branch, in its own order."""
    map: NDArray[np.float32]
    """float32 [h, w] in [0, 1], as the network gave it: it looked at `region`, 16 pixels a cell."""
    image: NDArray[np.uint8]
    """uint8 [H, W, 3] RGB, upright; [0, 0, 3] of a large image from `stream`."""
    region: tuple[int, int, int, int]
    """Top, left, height and width of what the network saw of `image`, in pixels."""
    class_map: NDArray[np.float32] | None = None
    """float32 [h, w], logits: where the attention branch sees `label`."""
    energy: float = math.nan
    """The energy score, `abn.predict.energy`: low for an image unlike the training data."""
    unlike: bool | None = None
    """Whether `energy` is below what the checkpoint says, as that of 5 % of the validation images
    is: the image is unlike the training data. None: an older checkpoint, or an edited map."""

    @property
    def label(self) -> str:
        """The most confident class of the perception branch."""
        return next(iter(self.classes))

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """uint8 [H, W, 3] RGB: `image` with the map in colours over `region`.

        Blue is the map's lowest value, red its highest, however near they are: look at `map`.
        """
        return drawn(self.image, self.map, self.region)

    def __repr__(self) -> str:
        answers = (
            ", ".join(f"{name} {share:.3f}" for name, share in branch.items())
            for branch in (self.classes, self.attention_confidences)
        )
        h, w = self.map.shape
        span = f"map {h}x{w} from {self.map.min():.3f} to {self.map.max():.3f}"
        return "Prediction({}; attention branch: {}; {})".format(*answers, span)


def drawn(
    image: NDArray[np.uint8],
    values: NDArray[np.float32],
    region: tuple[int, int, int, int],
    frame: bool = False,
) -> NDArray[np.uint8]:
    """`image` uint8 [H, W, 3] RGB with the map `values` [h, w] in colours over `region`.

    With `frame`, a white line in a black one goes around a region that is not the whole image.
    """
    top, left, height, width = region
    inside = slice(top, top + height), slice(left, left + width)
    copy = image.copy()
    copy[inside] = overlay(np.ascontiguousarray(copy[inside]), values, alpha=1.0)
    if frame and (height, width) != image.shape[:2]:
        line = max(1, min(image.shape[:2]) // FRAME)
        corners = (left, top), (left + width - 1, top + height - 1)
        cv2.rectangle(copy, *corners, (0, 0, 0), 3 * line)
        cv2.rectangle(copy, *corners, (255, 255, 255), line)
    return copy
