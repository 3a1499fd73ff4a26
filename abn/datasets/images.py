"""An image file of any common kind as 8-bit RGB, and as a square of pixels."""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from abn.runtime.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LEAST_SIDE = 8  # pixels
MOST_PIXELS = 50_000_000
TURNS = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FAULTS = (  # what Pillow documents, and TypeError for a TIFF whose tags have the wrong type
    OSError,
    SyntaxError,
    MemoryError,
    ValueError,
    NotImplementedError,
    OverflowError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    TypeError,
)


# What Pillow warns of is refused here by its header; one line is enough.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode(source: bytes | Path, name: str, size_hint: int | None = None) -> Image.Image:
    """The first frame of `source` in RGB, upright, on white where it is transparent.

    With `size_hint`, the side in pixels of the canvas it is meant for, a much larger JPEG is
    decoded at 1/2, 1/4 or 1/8 of its size. Raises DataError naming `name`.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check(image)
            if size_hint:
                image.draft(None, (2 * size_hint, 2 * size_hint))
            return _rgb(_upright(image))
    except FAULTS as fault:
        raise DataError(_reason(fault), name, "replace the file or remove it") from fault


def square(image: Image.Image, size: int) -> tuple[NDArray[np.uint8], float]:
    """`image` squashed to uint8 [size, size, 3], and its aspect (width / height) before that.

    The aspect is as exact as the sides of `image`, which a decoder scaling by 1/8 rounds up.
    """
    # Cubic, not linear: the crop of the training resamples once more, and two linear ones blur.
    whole = (size, size)
    canvas = image if image.size == whole else image.resize(whole, Image.Resampling.BICUBIC)
    return np.array(canvas), image.width / image.height


def _check(image: Image.Image) -> None:
    """Refuse by the header, before a pixel is decoded."""
    width, height = image.size
    if min(width, height) < LEAST_SIDE:
        raise ValueError(f"{width} x {height} pixels, a side under {LEAST_SIDE}")
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels, over {MOST_PIXELS:,}")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of an unknown range")


def upright_rgb(image: Image.Image) -> Image.Image:
    """`image` as it is to be seen: turned as its EXIF says, 8-bit RGB, on white."""
    return _rgb(_upright(image))


def _upright(image: Image.Image) -> Image.Image:
    """`image` as it is to be seen.

    Not ImageOps.exif_transpose, which fails on a sound image when it cannot write the EXIF back.
    """
    image.load()  # turns a TIFF by itself and forgets its orientation
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
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


def _reason(fault: BaseException) -> str:
    """`fault` in one line, without the address of the object that Pillow could not read."""
    if isinstance(fault, UnidentifiedImageError):
        return f"not an image of the kinds {', '.join(FORMATS)}"
    return " ".join(str(fault).split()) or type(fault).__name__
