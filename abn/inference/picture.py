"""An image of any kind: read, turned upright, and squashed to the canvas that networks know."""

import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abn.datasets import images as decoder
from abn.runtime.errors import DataError

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
KEPT = 1_000_000  # pixels: a file's image up to this size is kept, if it was decoded whole
KINDS = "give a path, a PIL image, an RGB array uint8 [H, W, 3] or a file's bytes"  # remedy
NOT_KEPT = np.zeros((0, 0, 3), np.uint8)  # the pixels of a larger one


class Picture(NamedTuple):
    """An image, and what the network sees of it before the crop."""

    pixels: NDArray[np.uint8]  # [H, W, 3] RGB, upright; NOT_KEPT
    canvas: NDArray[np.uint8]  # [S, S, 3], squashed as in the packed data; or as `pixels`
    aspect: float  # width over height
    size: tuple[int, int]  # height and width of the whole image, pixels


def read_image(image: object, canvas: int | None) -> Picture:
    """`image`, an ImageLike, at full size and on a canvas of `canvas` pixels; None: as it is.

    DataError where it is none.
    """
    if isinstance(image, str | os.PathLike | bytes):
        data = image if isinstance(image, bytes) else read_bytes(Path(image))
        return _decoded(data, _name(image), canvas, whole=True)
    whole = _opened(image)
    if min(whole.size) < decoder.SMALLEST_SIDE:
        what = f"{whole.width} x {whole.height} pixels, a side under {decoder.SMALLEST_SIDE}"
        raise DataError(what, _name(image), "use a larger image")
    pixels, size = np.array(whole), (whole.height, whole.width)
    return Picture(pixels, *_on_canvas(whole, canvas), size)


def read_file(path: Path, canvas: int | None) -> tuple[str | None, Picture | DataError]:
    """The digest of the file at `path`, and the picture in it or what is wrong with it.

    The digest is None where the file cannot be read. Pixels at full size only up to KEPT.
    """
    digest = None
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        return digest, _decoded(data, str(path), canvas, whole=False)
    except DataError as error:
        return digest, error


def read_bytes(path: Path) -> bytes:
    """The content of the image file at `path`; DataError where it cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise DataError("no such image", path, "check the path")
        return path.read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error), path, "make it readable") from error


def _decoded(data: bytes, name: str, canvas: int | None, whole: bool) -> Picture:
    """The image file `data`; its pixels at full size if `whole`, or if that costs little."""
    # A large JPEG is decoded at a part of its size, as it was when packed.
    small = decoder.decode(data, name, canvas)
    size, pixels = decoder.full_size(data, small), NOT_KEPT
    if (small.height, small.width) == size and (whole or math.prod(size) <= KEPT):
        pixels = np.array(small)
    elif whole:
        pixels = np.array(decoder.decode(data, name))
    return Picture(pixels, *_on_canvas(small, canvas), size)


def _on_canvas(image: Image.Image, canvas: int | None) -> tuple[NDArray[np.uint8], float]:
    if canvas is None:
        return np.array(image), image.width / image.height
    return decoder.square(image, canvas)


def _opened(image: object) -> Image.Image:
    """`image` in RGB, upright; DataError where it is none."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DataError("not an image", f"an array {image.dtype} {list(image.shape)}", KINDS)
        return Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        raise DataError("not an image", type(image).__name__, KINDS)
    if image.mode == "F" or not all(image.size):
        what = f"an image of mode {image.mode}, {image.width} x {image.height} pixels"
        raise DataError("not an image", what, KINDS)
    try:
        return decoder.upright_rgb(image)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reads the file only now
        raise DataError(str(error), type(image).__name__, "replace the image") from error


def _name(image: object) -> str:
    """What an error calls `image`."""
    return str(image) if isinstance(image, str | os.PathLike) else type(image).__name__
