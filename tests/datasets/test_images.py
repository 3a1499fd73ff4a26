"""Every kind of image to the same pixels, every broken one to one line with its name."""

import io
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from abn.datasets import images
from abn.runtime.errors import DataError
from tests.damage import damaged

RED, GREEN = (255, 0, 0), (0, 255, 0)


def save(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def solid(mode: str, color) -> Image.Image:
    return Image.new(mode, (8, 8), color)


def palette(color, alpha: bytes | None = None) -> bytes:
    image = solid("P", 1)
    image.putpalette([*GREEN, *color])
    return save(image) if alpha is None else save(image, transparency=alpha)


def gray16(value: int, dtype: str = "<u2") -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, dtype))


KINDS = {
    "RGB": (save(solid("RGB", (10, 20, 30))), (10, 20, 30)),
    "gray": (save(solid("L", 77)), (77, 77, 77)),
    "1-bit": (save(solid("1", 1)), (255, 255, 255)),
    "palette": (palette((9, 8, 7)), (9, 8, 7)),
    "palette with alpha": (palette((100, 0, 200), bytes([255, 0])), (255, 255, 255)),
    "gray with alpha": (save(solid("LA", (0, 51))), (204, 204, 204)),
    "RGB with alpha": (save(solid("RGBA", (255, 0, 0, 51))), (255, 204, 204)),
    "RGB with a transparent colour": (save(solid("RGB", RED), transparency=RED), (255, 255, 255)),
    "CMYK": (save(solid("CMYK", (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
    "16-bit gray PNG": (save(gray16(257 * 100)), (100, 100, 100)),
    "16-bit gray PNG, rounded": (save(gray16(257 * 100 + 129)), (101, 101, 101)),
    "16-bit gray TIFF, big-endian": (save(gray16(257 * 9, ">u2"), "TIFF"), (9, 9, 9)),
    "32-bit gray TIFF": (save(gray16(257 * 50, "<i4"), "TIFF"), (50, 50, 50)),
    "16-bit gray PGM": (b"P5 8 8 65535\n" + 64 * (257 * 3).to_bytes(2, "big"), (3, 3, 3)),
    "animated GIF": (
        save(solid("RGB", RED), "GIF", save_all=True, append_images=[solid("RGB", GREEN)]),
        RED,
    ),
    "BMP": (save(solid("RGB", GREEN), "BMP"), GREEN),
    "WEBP": (save(solid("RGB", (1, 2, 3)), "WEBP", lossless=True), (1, 2, 3)),
    "JPEG 2000": (save(solid("RGB", (1, 2, 3)), "JPEG2000"), (1, 2, 3)),
    "AVIF": (save(solid("L", 77), "AVIF", quality=100), (77, 77, 77)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_out_as_the_same_8_bit_rgb(kind):
    source, color = KINDS[kind]
    pixels = np.asarray(images.decode(source, kind))
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)
    assert (pixels == color).all(), pixels[0, 0]


@pytest.mark.parametrize(("mode", "color"), [("RGB", RED), ("CMYK", (0, 255, 255, 0)), ("L", 50)])
def test_jpegs_of_every_colour_space_are_right_within_their_loss(mode, color):
    pixels = np.asarray(images.decode(save(solid(mode, color), "JPEG", quality=95), mode))
    expected = RED if mode != "L" else (50, 50, 50)
    assert np.abs(pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [*range(10)])
def test_an_image_is_turned_upright(kind, orientation):
    stored = Image.fromarray(np.arange(216, dtype=np.uint8).reshape(8, 9, 3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = images.decode(save(stored, kind, exif=exif, **options), "turned")
    tagged = stored.copy()
    tagged.info["exif"] = exif.tobytes()
    assert np.array_equal(found, ImageOps.exif_transpose(tagged))


def test_a_sound_image_with_odd_exif_is_turned_upright():
    exif = Image.Exif()
    exif[ExifTags.Base.XResolution] = 72.0
    exif[ExifTags.Base.Orientation] = 6
    stored = save(Image.new("RGB", (16, 8), RED), "JPEG", exif=exif)
    odd = stored.replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x07")  # rational -> undefined
    assert odd != stored
    assert images.decode(odd, "odd").size == (8, 16)


NOISE = Image.frombytes("RGB", (32, 32), random.Random(0).randbytes(32 * 32 * 3))
JPEG, PNG, TIFF = (save(NOISE, kind) for kind in ("JPEG", "PNG", "TIFF"))


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A gray PNG whose header claims a size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose frame claims a size."""
    place = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:place] + struct.pack(">HH", height, width) + JPEG[place + 4 :]


DATA = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
TEXT = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 27), 9))
BMP = b"BM" + bytes(8) + struct.pack("<IIiiHHI", 54, 40, 2 * 10**9, 1, 1, 24, 0) + bytes(20)
BROKEN = {
    "empty": (b"", "not an image of the kinds JPEG, PNG"),
    "noise": (random.Random(1).randbytes(5000), "not an image"),
    "web page": (b"<html>not found</html>", "not an image"),
    "zeros, as a crash leaves": (bytes(5000), "not an image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "EPS, a program": (save(NOISE, "EPS"), "not an image"),
    "JPEG, cut": (JPEG[: len(JPEG) // 2], ""),
    "JPEG, second half zeros": (JPEG[:200] + bytes(len(JPEG) - 200), ""),
    "JPEG of 65,500 x 65,500": (jpeg(65500, 65500), "65500 x 65500 pixels to decode, over 89,"),
    "JPEG of no height": (jpeg(32, 0), ""),
    "PNG, cut": (PNG[:-200], ""),
    "PNG, one other bit": (PNG[:60] + bytes([PNG[60] ^ 4]) + PNG[61:], ""),
    "PNG of 9,000 x 10,000": (png(9000, 10000, DATA), "exceeds limit"),
    "PNG of 14,000 x 14,000": (png(14000, 14000, DATA), "exceeds limit"),
    "PNG of no width": (png(0, 10, DATA), ""),
    "PNG without data": (png(32, 32), ""),
    "PNG of 1 x 30,000": (png(1, 30000, DATA), "1 x 30000 pixels, a side under 8"),
    "BMP of 2,000,000,000 x 1": (BMP, "exceeds limit"),
    "TIFF of floats": (save(Image.new("F", (8, 8), 0.5), "TIFF"), "pixels are floating-point"),
    "TIFF over 16 bits": (save(gray16(70_000, "<i4"), "TIFF"), "integers outside 0 to 65535"),
    "TIFF whose first picture is a preview": (
        save(NOISE, "TIFF", tiffinfo={ExifTags.Base.NewSubfileType: 1}),
        "its first picture is a preview, as in a camera's raw file: convert it",
    ),
    "HEIC": (
        b"\0\0\0\x18ftypheic" + bytes(100),
        "HEIC: convert it to JPEG, or `pip install pillow",
    ),
    "TIFF tag of a wrong type": (TIFF.replace(b"\x11\x01\x04\x00", b"\x11\x01\x02\x00"), ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_refused_by_name_in_one_line(kind):
    content, words = BROKEN[kind]
    with pytest.raises(DataError) as caught:
        images.decode(content, "train/a.JPEG")
    message = str(caught.value)
    assert words in message and caught.value.line().isprintable() and "0x" not in message
    assert message.endswith("; train/a.JPEG; replace the file or remove it")


NO_EXIF = b"Exif\0\0MM\0*\0\0"  # a header, and no entries


@pytest.mark.filterwarnings("ignore")  # Pillow warns of it
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", [NO_EXIF, NO_EXIF + b"\0\0\xff\xff", b"Exif\0\0XX\0\0\0\0\0\x08"])
def test_broken_exif_does_not_decide_over_the_pixels(kind, exif):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = save(NOISE, kind, **options)
    broken = save(NOISE, kind, exif=exif, **options)
    assert broken != data
    assert np.array_equal(images.decode(broken, "broken"), images.decode(data, "sound"))


GRAY = chunk(b"IDAT", zlib.compress(32 * (b"\0" + 32 * b"\x50")))
ODD = {
    "a bomb of text": TEXT,
    "a text with a wrong checksum": TEXT[:-1] + bytes([TEXT[-1] ^ 1]),
    "a profile that is none": chunk(b"iCCP", b"p\0\0" + b"not deflated"),
    "a time of two bytes": chunk(b"tIME", b"ab"),
    "a density of a byte": chunk(b"pHYs", b"a"),
    "a gamma of a byte": chunk(b"gAMA", b"a"),
    "an animation that is none": chunk(b"acTL", b"a"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_metadata_of_a_png_does_not_decide_over_the_pixels(kind):
    assert (np.asarray(images.decode(png(32, 32, ODD[kind], GRAY), kind)) == 0x50).all()


def test_a_png_is_turned_as_its_exif_says_although_another_of_its_chunks_is_odd():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = save(Image.new("RGB", (16, 8), RED), "PNG", exif=exif)
    odd = stored.replace(stored[33:], TEXT + stored[33:])  # after the header
    assert images.decode(odd, "odd").size == (8, 16)


def test_a_photo_of_61_megapixels_is_decoded_small():
    photo = save(Image.new("L", (9504, 6336), 90), "JPEG")
    canvas, aspect = images.square(images.decode(photo, "photo", size_hint=64), 64)
    assert (canvas == 90).all() and aspect == 1.5


def test_a_jpeg_beyond_the_limit_is_judged_by_what_is_decoded_of_it():
    photo = save(Image.new("L", (14_000, 10_000)), "JPEG")
    assert images.decode(photo, "photo", size_hint=64).size == (1750, 1250)
    with pytest.raises(DataError, match="14000 x 10000 pixels to decode, over 89,478,485"):
        images.decode(photo, "photo")
    with pytest.raises(DataError, match="400,000,000 pixels, over 250,000,000"):
        images.decode(jpeg(20_000, 20_000), "photo", size_hint=64)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"No such file.*; b\.png;"):
        images.decode(tmp_path / "b.png", "b.png")


def with_checksums(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks right again; another file as it is."""
    result, place = bytearray(data), 8
    while data.startswith(b"\x89PNG") and place + 12 <= len(result):
        (size,) = struct.unpack_from(">I", result, place)
        if (end := place + 8 + size) + 4 > len(result):
            break
        struct.pack_into(">I", result, end, zlib.crc32(result[place + 4 : end]))
        place = end + 4
    return bytes(result)


@pytest.mark.parametrize("kind", [*KINDS, "JPEG"])
def test_a_damaged_image_is_decoded_or_refused(kind):
    sound = JPEG if kind == "JPEG" else KINDS[kind][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is odd
        for seed in range(60):
            draws = random.Random(f"{kind} {seed}")
            data = with_checksums(damaged(sound, draws))
            try:
                image = images.decode(data, "damaged", draws.choice([None, 8, 64]))
            except DataError as error:
                assert error.line().isprintable()
            else:
                canvas, aspect = images.square(image, 16)
                assert canvas.shape == (16, 16, 3) and 0 < aspect < images.LARGEST_AREA


def test_a_square_keeps_pixels_that_fit_and_is_writable():
    image = Image.effect_noise((8, 8), 50).convert("RGB")
    canvas, aspect = images.square(image, 8)
    assert np.array_equal(canvas, np.asarray(image))
    assert aspect == 1
    assert canvas.flags.writeable


def test_a_square_is_squashed_not_cropped_and_antialiased():
    stripes = np.zeros((40, 80, 3), np.uint8)
    stripes[:, ::2] = 200  # finer than the canvas can show
    canvas, aspect = images.square(Image.fromarray(stripes), 10)
    assert aspect == 2
    assert canvas.shape == (10, 10, 3)
    assert np.abs(canvas.astype(int) - 100).max() <= 6


def test_a_large_jpeg_is_decoded_small_but_not_smaller_than_twice_its_canvas():
    large = save(Image.new("RGB", (1600, 800), RED), "JPEG")
    assert images.decode(large, "large").size == (1600, 800)
    assert images.decode(large, "large", size_hint=64).size == (400, 200)
    assert images.decode(large, "large", size_hint=800).size == (1600, 800)


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (200, 300)), (3, (200, 300)), (6, (300, 200))]
)
def test_the_size_of_a_jpeg_is_that_of_the_whole_upright_image(
    orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.new("RGB", (300, 200)).save(file, "JPEG", exif=exif)
    small = images.decode(file.getvalue(), "a.jpg", 16)
    assert max(small.size) < 300
    assert images.full_size(file.getvalue(), small) == size


def test_the_size_of_any_other_image_is_that_of_its_pixels() -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "PNG")
    assert images.full_size(file.getvalue(), images.decode(file.getvalue(), "a.png", 8)) == (20, 30)


def test_the_area_is_read_from_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 20)).save(path)
    cut = path.read_bytes()[:60]  # no pixels are left
    assert images.area(path, "a.png") == images.area(cut, "a.png") == 600
    with pytest.raises(DataError, match=r"not an image of the kinds .*; b\.png"):
        images.area(b"text", "b.png")
