"""Images of every kind, damaged: pixels or DataError, nothing else."""

import io
import random
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from abn.datasets import images
from abn.runtime.errors import DataError
from tests.fuzz._bytes import damaged

SIDE = 16


def example(draws: random.Random, folder: Path) -> None:
    data = damaged(draws.choice(seeds()), draws)
    if draws.random() < 0.5:
        data = _with_sums(data)
    try:
        image = images.decode(data, "fuzzed", draws.choice([None, 8, 64]))
    except DataError:
        return
    canvas, aspect = images.square(image, SIDE)
    assert canvas.shape == (SIDE, SIDE, 3) and canvas.dtype == np.uint8
    assert 0 < aspect < images.MOST_PIXELS


@cache
def seeds() -> list[bytes]:
    """Small images, whole, in all the kinds and modes that are read."""
    draws = random.Random(0)
    noise = Image.frombytes("RGB", (24, 20), draws.randbytes(24 * 20 * 3))
    flat = Image.new("RGB", (24, 20), (10, 200, 30))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    gray16 = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24) * 100)
    frames = {"save_all": True, "append_images": [flat, noise]}
    found = [_saved(noise, "JPEG", **o) for o in ({}, {"progressive": True}, {"exif": exif})]
    found += [_saved(noise.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    found += [_saved(noise.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    found += [_saved(gray16, "PNG"), _saved(flat, "PNG", transparency=(10, 200, 30), exif=exif)]
    found += [_saved(flat.convert("P"), "PNG", transparency=bytes([0, 128]), bits=4)]
    found += [_saved(noise, "GIF", **frames), _saved(flat, "GIF", transparency=0, interlace=1)]
    found += [_saved(noise.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB")]
    packings = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    found += [_saved(noise, "TIFF", compression=packing, exif=exif) for packing in packings]
    found += [
        _saved(image, "TIFF") for image in (gray16, noise.convert("CMYK"), gray16.convert("I"))
    ]
    found += [_saved(noise.convert("1"), "TIFF", compression="group4")]
    found += [_saved(noise, "WEBP", **o) for o in ({}, {"lossless": True}, frames, {"exif": exif})]
    found += [_saved(noise.convert("RGBA"), "WEBP")]
    found += [_saved(noise.convert(mode), "PPM") for mode in ("1", "L", "RGB")]
    found += [b"P3\n# a comment\n8 8 255\n" + b"1 22 255 " * 64, b"P2 8 8 9\n" + b"7 " * 64]
    found += [b"P5 8 8 65535\n" + draws.randbytes(128), b"Pf 8 8 -1.0\n" + draws.randbytes(256)]
    return found


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _with_sums(data: bytes) -> bytes:
    """A PNG with checksums that are right again, else no fault gets past them; others as is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    result, place = bytearray(data), 8
    while place + 12 <= len(result):
        (size,) = struct.unpack_from(">I", result, place)
        if (end := place + 8 + size) + 4 > len(result):
            break
        struct.pack_into(">I", result, end, zlib.crc32(result[place + 4 : end]))
        place = end + 4
    return bytes(result)
