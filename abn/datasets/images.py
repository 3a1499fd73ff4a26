"""An image file of any common kind as 8-bit RGB, and as a square of pixels."""

import io
import struct
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from abn.runtime.errors import DataError

try:  # HEIC, where that package is installed
    import pillow_heif  # type: ignore[import-not-found]

    pillow_heif.register_heif_opener()
    HEIF: tuple[str, ...] = ("HEIF",)
except ImportError:
    HEIF = ()

T = TypeVar("T")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", *HEIF)
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
SMALLEST_SIDE = 8  # pixels
LARGEST_AREA = 89_478_485  # pixels to decode: Pillow's limit
LARGEST_JPEG = 250_000_000  # pixels of a JPEG that is decoded at a part of its size
LARGE = 25_000_000  # pixels; of images beyond it, one at a time is in memory
PREVIEW = 1  # NewSubfileType of a TIFF's picture that is a smaller copy of another
PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"}  # of a PNG
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"  # how such files start

_one_large = threading.Lock()
UPRIGHT: dict[object, Image.Transpose] = {  # EXIF orientation -> the transposition that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height

# Pillow warns of large images, which `check` refuses: one message is enough.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode(source: bytes | Path, name: str, size_hint: int | None = None) -> Image.Image:
    """The first frame of `source` in RGB, upright, on white where it is transparent.

    With `size_hint`, the side in pixels of its future canvas, a much larger JPEG is decoded at
    1/2, 1/4 or 1/8 of its size. Raises DataError with `name` for what is not a sound image.
    """
    return tried(lambda data: _decoded(data, size_hint), source, name)


def read(source: bytes | Path, name: str) -> bytes:
    """The content of `source`; DataError with `name` where it cannot be read."""
    return tried(bytes, source, name)


def area(source: bytes | Path, name: str) -> int:
    """The pixels of the image in `source` by its header; DataError as of `decode`."""
    return tried(_area, source, name)


def tried(read: Callable[[bytes], T], source: bytes | Path, name: str) -> T:
    """`read` of the content of `source`, of a PNG also without its texts; DataError for errors."""
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        try:
            return read(data)
        except Exception:
            if not data.startswith(PNG):
                raise
            return read(_bare_png(data))
    except Exception as error:  # Pillow raises errors of many kinds for damaged files
        raise DataError(_reason(error), name, "replace the file or remove it") from error


def full_size(data: bytes, decoded: Image.Image) -> tuple[int, int]:
    """Height and width of the image file `data` as it is to be seen; `decoded` is from `decode`.

    They differ from those of `decoded` where a JPEG was decoded at a part of its size.
    """
    if not data.startswith(JPEG):
        return decoded.height, decoded.width
    with opened(data) as image:
        turned = orientation(image) in SIDEWAYS
        return (image.width, image.height) if turned else (image.height, image.width)


def _area(data: bytes) -> int:
    with opened(data) as image:
        return image.width * image.height


def _decoded(data: bytes, size_hint: int | None) -> Image.Image:
    with opened(data) as image:
        full = image.width * image.height
        if size_hint and min(image.size) >= SMALLEST_SIDE:
            image.draft(None, (2 * size_hint, 2 * size_hint))
        check(image, full)
        with _one_large if full > LARGE else nullcontext():
            return upright_rgb(image)


def opened(data: bytes) -> Image.Image:
    """The image in `data`, not yet decoded."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS and not HEIF:
            raise ValueError("HEIC: convert it to JPEG, or `pip install pillow-heif`") from None
        raise
    except Exception:
        if not data.startswith(JPEG):
            raise
        # A JPEG too large to decode whole, or with an odd index of further pictures (MPO).
        return JpegImageFile(io.BytesIO(data))


def _bare_png(data: bytes) -> bytes:
    """The PNG `data` without its texts, profiles and dates: they never decide over the pixels."""
    kept, place = [PNG], len(PNG)
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : (place := place + size + 12)]
        if kind in PIXEL_CHUNKS:
            kept.append(chunk)
    return b"".join(kept)


def square(image: Image.Image, size: int) -> tuple[NDArray[np.uint8], float]:
    """`image` squashed to uint8 [size, size, 3], and its former aspect (width / height).

    A JPEG decoded at 1/8 has sides rounded up, so its aspect is off by up to that rounding.
    """
    # Bicubic: training crops resample once more, and bilinear twice would blur.
    side = (size, size)
    canvas = image if image.size == side else image.resize(side, Image.Resampling.BICUBIC)
    return np.array(canvas), image.width / image.height


def check(image: Image.Image, full: int) -> None:
    """ValueError by the header, before a pixel is decoded; `full` is its area in the file."""
    width, height = image.size
    if min(width, height) < SMALLEST_SIDE:
        raise ValueError(f"{width} x {height} pixels, a side under {SMALLEST_SIDE}")
    if width * height > LARGEST_AREA:
        raise ValueError(f"{width} x {height} pixels to decode, over {LARGEST_AREA:,}")
    if full > LARGEST_JPEG:
        raise ValueError(f"{full:,} pixels, over {LARGEST_JPEG:,}")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of an unknown range")
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF" and tags.get(ExifTags.Base.NewSubfileType) == PREVIEW:
        raise ValueError("its first picture is a preview, as in a camera's raw file: convert it")


def upright_rgb(image: Image.Image) -> Image.Image:
    """`image` as it is to be seen: turned as its EXIF says, 8-bit RGB, on white.

    Not by ImageOps.exif_transpose: it fails on sound images whose EXIF it cannot write back.
    """
    image.load()  # Pillow turns a TIFF while loading, and then forgets its orientation
    undo = UPRIGHT.get(orientation(image))
    if undo is not None:
        image = image.transpose(undo)
    if image.mode.startswith("I"):
        return _gray8(image).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def orientation(image: Image.Image) -> object:
    """The orientation in the EXIF of `image`; 1, upright, where that cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as for a damaged file, but the pixels are sound
        return 1


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
