"""An image file of any common kind as 8-bit RGB, and as a square of pixels."""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from abn.runtime.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SMALLEST_SIDE = 8  # pixels
LARGEST_AREA = 50_000_000  # pixels
UPRIGHT = {  # EXIF orientation -> the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow warns of large images, which `_check` refuses: one message is enough.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode(source: bytes | Path, name: str, size_hint: int | None = None) -> Image.Image:
    """The first frame of `source` in RGB, upright, on white where it is transparent.

    With `size_hint`, the side in pixels of its future canvas, a much larger JPEG is decoded at
    1/2, 1/4 or 1/8 of its size. Raises DataError with `name` for what is not a sound image.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check(image)
            if size_hint:
                image.draft(None, (2 * size_hint, 2 * size_hint))
            return upright_rgb(image)
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        raise DataError(_reason(error), name, "replace the file or remove it") from error


def square(image: Image.Image, size: int) -> tuple[NDArray[np.uint8], float]:
    """`image` squashed to uint8 [size, size, 3], and its former aspect (width / height).

    A JPEG decoded at 1/8 has sides rounded up, so its aspect is off by up to that rounding.
    """
    # Bicubic: training crops resample once more, and bilinear twice would blur.
    side = (size, size)
    canvas = image if image.size == side else image.resize(side, Image.Resampling.BICUBIC)
    return np.array(canvas), image.width / image.height


def _check(image: Image.Image) -> None:
    """ValueError by the header, before a pixel is decoded."""
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE:
        raise ValueError(f"{width} x {height} pixels, a side under {SMALLEST_SIDE}")
    if width * height > LARGEST_AREA:
        raise ValueError(f"{width} x {height} pixels, over {LARGEST_AREA:,}")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of an unknown range")


def upright_rgb(image: Image.Image) -> Image.Image:
    """`image` as it is to be seen: turned as its EXIF says, 8-bit RGB, on white.

    Not by ImageOps.exif_transpose: it fails on sound images whose EXIF it cannot write back.
    """
    image.load()  # Pillow turns a TIFF while loading, and then forgets its orientation
    undo = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if undo is not None:
        image = image.transpose(undo)
    if image.mode.startswith("I"):
        return _gray8(image).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _gray8(image: Image.Image) -> Image.Image:
    """16-bit gray (I;16, I) as 8-bit; convert("L") would clip it to white."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integers outside 0 to 65535")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _reason(error: BaseException) -> str:
    """`error` in one line, without the object's address that Pillow puts in."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of the kinds {', '.join(FORMATS)}"
    return " ".join(str(error).split()) or type(error).__name__
