"""Another map in the attention's place, for one image (Mitsuhara et al., 2019, 1905.03540)."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abn.datasets import images as decoder
from abn.inference.picture import read_bytes
from abn.inference.prediction import Prediction
from abn.runtime.errors import DataError

NONE, MEAN, SHUFFLE, INVERT = "none", "mean", "shuffle", "invert"
WORDS = NONE, MEAN, SHUFFLE, INVERT
Map = NDArray[np.float32]


def edited(how: str, before: Prediction, looks: bool, seed: int = 0) -> Map:
    """The map [h, w] that `how`, one of WORDS or the path of a picture, makes of that of `before`.

    `none`: as if there were no map, which is 0 of a residual network and 1 of one that looks.
    `mean`: its mean everywhere. `shuffle`: its cells in an order drawn from `seed`. `invert`: the
    lowest cell is the highest, in the same range. A picture: white is 1, black is 0.
    """
    values = before.map
    if how == NONE:
        return np.full_like(values, float(looks))
    if how == MEAN:
        return np.full_like(values, values.mean())
    if how == SHUFFLE:
        cells = np.random.default_rng(seed).permutation(values.ravel())
        return np.asarray(cells.reshape(values.shape), dtype=np.float32)
    if how == INVERT:
        return np.asarray(values.min() + values.max() - values, dtype=np.float32)
    return painted(Path(how), before)


def painted(path: Path, before: Prediction) -> Map:
    """The map that the grey of the picture at `path` paints, averaged over each cell.

    It has the size of the image, and counts where the network saw that. DataError otherwise.
    """
    grey = np.array(decoder.decode(read_bytes(path), str(path)).convert("L"))
    height, width = before.image.shape[:2]
    if grey.shape != (height, width):
        what = f"{grey.shape[1]} x {grey.shape[0]} pixels; the image has {width} x {height}"
        raise DataError(what, path, "paint over the image, at its size")
    top, left, tall, wide = before.region
    seen = grey[top : top + tall, left : left + wide].astype(np.float32) / 255
    cells = cv2.resize(seen, before.map.shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cells, dtype=np.float32)


def side_by_side(before: Prediction, after: Prediction, gap: int = 8) -> Image.Image:
    """The image under the map of `before`, and under that of `after`, at full size."""
    left, right = Image.fromarray(before.overlay), Image.fromarray(after.overlay)
    sheet = Image.new("RGB", (left.width + gap + right.width, left.height), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + gap, 0))
    return sheet
