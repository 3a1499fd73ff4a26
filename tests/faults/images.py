"""Bad images: one error that names them all, and no data set."""

import random
import re
import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tests.faults import Outcome, _stage, kind
from tests.faults._folder import JPEG, NOISE, PNG, TIFF, refused, saved, tree


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A gray PNG whose header claims a size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose frame claims a size."""
    place = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:place] + struct.pack(">HH", height, width) + JPEG[place + 4 :]


def webp(width: int, height: int) -> bytes:
    """A WebP whose canvas claims a size."""
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides
    return b"RIFF" + struct.pack("<I", len(body)) + body


DATA = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
TEXT = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 27), 9))
BAD: dict[str, tuple[Callable[[random.Random], bytes], str]] = {
    "no bytes": (lambda d: b"", "not an image"),
    "noise": (lambda d: d.randbytes(5000), "not an image"),
    "text": (lambda d: b"a picture of a cat\n", "not an image"),
    "web page": (lambda d: b"<html>not found</html>", "not an image"),
    "zeros, as a crash leaves": (lambda d: bytes(len(JPEG)), "not an image"),
    "JPEG, cut": (lambda d: JPEG[: d.randrange(len(JPEG) // 2, len(JPEG) - 20)], "."),
    "JPEG, header alone": (lambda d: JPEG[: d.randrange(4, 20)], "."),
    "JPEG, second half zeros": (lambda d: JPEG[:200] + bytes(len(JPEG) - 200), "."),
    "JPEG of 65,500 x 65,500": (lambda d: jpeg(65500, 65500), "65500 x 65500 pixels|exceeds lim"),
    "JPEG of no height": (lambda d: jpeg(32, 0), "."),
    "PNG, cut": (lambda d: PNG[: d.randrange(100, len(PNG) - 100)], "."),
    "PNG, a bit another": (lambda d: PNG[:60] + bytes([PNG[60] ^ 4]) + PNG[61:], "."),
    "PNG of 14,000 x 14,000": (lambda d: png(14000, 14000, DATA), "exceeds limit|pixels"),
    "PNG of 9,000 x 9,000": (lambda d: png(9000, 9000, DATA), "exceeds limit|pixels"),
    "PNG of no width": (lambda d: png(0, 10, DATA), "."),
    "PNG without data": (lambda d: png(32, 32), "."),
    "PNG with a bomb of text": (lambda d: png(32, 32, TEXT, DATA), "."),
    "PNG of 1 x 30,000": (lambda d: png(1, 30000, DATA), "1 x 30000 pixels, a side under 8"),
    "PNG of 7 x 7": (lambda d: png(7, 7, DATA), "7 x 7 pixels, a side under 8"),
    "PPM of 10,000 x 10,000": (lambda d: b"P6 10000 10000 255\n", "exceeds limit|pixels"),
    "PPM of 100,000 x 100,000": (lambda d: b"P6 100000 100000 255\n", "exceeds limit"),
    "GIF of 65,535 x 65,535": (lambda d: b"GIF89a" + b"\xff" * 4 + bytes(3) + b";", "."),
    "BMP of 2,000,000,000 x 1": (
        lambda d: (
            b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 2 * 10**9, 1, 1, 24, 0) + bytes(20)
        ),
        "exceeds limit|pixels",
    ),
    "WebP of 16,384 x 16,384": (lambda d: webp(16384, 16384), "."),
    "TIFF with a tag of another type": (
        lambda d: TIFF.replace(b"\x11\x01\x04\x00", b"\x11\x01\x02\x00"),
        ".",
    ),
    "TIFF of floating-point numbers": (
        lambda d: saved(Image.new("F", (32, 32), 0.5), "TIFF"),
        "floating-point",
    ),
    "TIFF of numbers over 16 bits": (
        lambda d: saved(Image.fromarray(np.full((32, 32), 70_000, "<i4")), "TIFF"),
        "integers outside 0 to 65535",
    ),
    "EPS, a program": (lambda d: saved(NOISE, "EPS"), "not an image of the kinds"),
    "PDF": (lambda d: saved(NOISE, "PDF"), "not an image of the kinds"),
    "SVG": (lambda d: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image of the kinds"),
    "TGA": (lambda d: saved(NOISE, "TGA"), "not an image of the kinds"),
}


def bad(make: Callable[[random.Random], bytes], words: str, folder: Path, draws: random.Random):
    root = tree(folder)
    (root / "train" / "dog" / "1.png").write_bytes(make(draws))
    return refused(folder, root, rf"1 image cannot be used; .*train/dog/1\.png \(.*({words})")


for name, (make, words) in BAD.items():
    kind("images", name)(partial(bad, make, words))


@kind("images", "seven bad ones, all told")
def seven(folder: Path, draws: random.Random) -> Outcome:
    """By the stage itself: one line, exit 3, no output."""
    root = tree(folder)
    for path in draws.sample(sorted(root.rglob("*.png")), 7):
        path.write_bytes(b"")
    project = _stage.project(folder / "project", name="folder", root="photos")
    (project / "photos").symlink_to(root)
    start = time.monotonic()
    code, line = _stage.run(project)
    assert code == 3 and re.fullmatch(
        r"error\[DATA\] 7 images cannot be used; .* and 2 more; .*", line
    )
    assert not _stage.outputs(project) and not _stage.leftovers(project)
    return Outcome("error[DATA], exit 3", seconds=time.monotonic() - start)
