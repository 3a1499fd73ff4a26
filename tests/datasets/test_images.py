"""Every kind of image to the same pixels, every broken one to a message with its name."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from abn.datasets import archive, imagenette, images
from abn.runtime.errors import UserError

MINI = Path(__file__).parents[3] / "shared/data/imagenette2-160-mini.tgz"
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
    "16-bit gray PNG, white": (save(gray16(65535)), (255, 255, 255)),
    "16-bit gray TIFF, big-endian": (save(gray16(257 * 9, ">u2"), "TIFF"), (9, 9, 9)),
    "32-bit gray TIFF": (save(gray16(257 * 50, "<i4"), "TIFF"), (50, 50, 50)),
    "16-bit gray PGM": (b"P5 8 8 65535\n" + 64 * (257 * 3).to_bytes(2, "big"), (3, 3, 3)),
    "animated GIF": (
        save(solid("RGB", RED), "GIF", save_all=True, append_images=[solid("RGB", GREEN)]),
        RED,
    ),
    "BMP": (save(solid("RGB", GREEN), "BMP"), GREEN),
    "WEBP": (save(solid("RGB", (1, 2, 3)), "WEBP", lossless=True), (1, 2, 3)),
    "PPM": (save(solid("RGB", (1, 2, 3)), "PPM"), (1, 2, 3)),
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


def test_an_image_is_read_from_a_path(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(save(solid("RGB", RED)))
    assert images.decode(path, "red").getpixel((0, 0)) == RED


GOOD = save(Image.effect_noise((64, 64), 50), "JPEG")
TIFF = save(solid("RGB", RED), "TIFF")
BROKEN = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "cut JPEG": GOOD[: len(GOOD) // 2],
    "cut PNG": save(Image.effect_noise((64, 64), 50))[:-200],
    "header only": GOOD[:20],
    "another format": save(solid("RGB", RED), "TGA"),
    "floating point": save(Image.new("F", (8, 8), 0.5), "TIFF"),
    "32-bit": save(gray16(70_000, "<i4"), "TIFF"),
    "TIFF tag of a wrong type": TIFF.replace(b"\x11\x01\x04\x00", b"\x11\x01\x02\x00"),
    "large": b"P6 10000 5001 255\n",
    "bomb": b"P6 100000 100000 255\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_refused_by_name_in_one_line(kind):
    with pytest.raises(UserError, match=r"^.+; train/a\.JPEG; replace the file or remove it$") as e:
        images.decode(BROKEN[kind], "train/a.JPEG")
    assert "0x" not in str(e.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"No such file.*; b\.png;"):
        images.decode(tmp_path / "b.png", "b.png")


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


@pytest.mark.skipif(not MINI.exists(), reason="the Imagenette sample is not beside the repository")
def test_real_images_fill_their_canvas_unchanged():
    splits = imagenette.find(archive.names(MINI))
    assert {split: len(found) for split, found in splits.items()} == {"train": 400, "val": 200}
    for name, content in archive.read(MINI, dict(splits["val"])):
        image = images.decode(content, name, 160)
        canvas, aspect = images.square(image, 160)
        with Image.open(io.BytesIO(content)) as plain:
            assert np.array_equal(canvas, plain.convert("RGB"))
        assert aspect == 1
