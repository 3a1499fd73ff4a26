"""Masks beside images: which pixels are the object, how they are turned, and what is refused."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from abn.datasets import images, masks
from abn.datasets.masks import Seen
from abn.datasets.problems import Problem
from abn.runtime.errors import DataError

WIDE = Seen(height=8, width=16, orientation=1)
LEFT = np.zeros((8, 16), np.uint8)  # the object is the left quarter
LEFT[:, :4] = 7


def file(picture: Image.Image, kind: str = "PNG", orientation: int = 1, **options: Any) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    picture.save(stream, kind, **options, **({"exif": exif} if orientation != 1 else {}))
    return stream.getvalue()


def read(data: bytes, image: Seen = WIDE, size: int = 8) -> list[list[int]]:
    return masks.read(data, "m.png", image, size).tolist()


def refused(data: bytes, image: Seen = WIDE, size: int = 8) -> str:
    with pytest.raises(DataError) as caught:
        masks.read(data, "m.png", image, size)
    return caught.value.what


# What is called like a mask.


@pytest.mark.parametrize(
    ("image", "stray"),
    [
        ("benign/benign (1).png", "benign/benign (1)_mask.png"),
        ("benign/benign (1).png", "benign/benign (1)_mask_1.png"),
        ("train/cat/tom.jpg", "train/cat/tom-Mask.png"),
        ("train/cat/tom.jpg", "train/cat_masks/tom.png"),
        ("cat/tom.jpg", "cat mask/tom.png"),
    ],
)
def test_a_mask_among_the_images_is_named(image: str, stray: str) -> None:
    assert masks.strays([image, stray]) == [Problem(masks.STRAY, stray)]
    assert masks.strays([stray]) == []  # alone it is an image


OTHERS = ("mask/1.png", "with_mask/2.png", "facemask/1.png", "face/3_masked.png", "face/mask")


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_with_masks_in_them_are_images(name: str) -> None:
    assert masks.strays(["face/1.png", "face/3.png", "with/1.png", "1.png", name]) == []


# Which pixels are the object.

EXPECTED = [[1, 1, 0, 0, 0, 0, 0, 0]] * 8  # squashed to a square as its image is
INDEXED = Image.fromarray((LEFT > 0).astype(np.uint8), "P")
INDEXED.putpalette([255, 255, 255, 0, 0, 0])  # white is index 0, as no colour says
KINDS = {
    "8 bits": file(Image.fromarray(LEFT)),
    "1 bit": file(Image.fromarray(LEFT > 0)),
    "16 bits": file(Image.fromarray(LEFT.astype(np.uint16) * 256)),
    "a palette, by index": file(INDEXED),
    "grey in three channels": file(Image.fromarray(LEFT).convert("RGB")),
    "grey, opaque": file(Image.fromarray(LEFT).convert("RGBA")),
    "grey and alpha, opaque": file(Image.fromarray(LEFT).convert("LA")),
    "BMP": file(Image.fromarray(LEFT), "BMP"),
    "GIF": file(Image.fromarray(LEFT), "GIF"),
    "TIFF": file(Image.fromarray(LEFT), "TIFF"),
    "PGM": file(Image.fromarray(LEFT), "PPM"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_that_is_not_zero_is_the_object(kind: str) -> None:
    assert read(KINDS[kind]) == EXPECTED


def test_a_mask_is_resized_to_the_nearest_pixel() -> None:
    mask = np.zeros((8, 16), np.uint8)
    mask[0:2, 14:] = 1  # a corner, one cell of four by eight
    assert read(file(Image.fromarray(mask)), size=4) == [[0, 0, 0, 1], *[[0] * 4] * 3]
    assert read(file(Image.fromarray(mask)), size=32)[7] == [0] * 28 + [1] * 4


# How it is turned: an image of 8 x 16 pixels in its file, each orientation undone on both.


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["as the file", "as it is seen", "by its own EXIF", "as a TIFF"])
def test_a_mask_fits_its_image_as_stored_and_as_seen(orientation: int, kind: str) -> None:
    stored = np.zeros((16, 8), np.uint8)
    stored[:4, :2] = 255  # the top left, of which every orientation makes another place
    upright = Image.fromarray(stored).transpose(images.UPRIGHT[orientation])
    picture = upright if kind == "as it is seen" else Image.fromarray(stored)
    own = orientation if kind in ("by its own EXIF", "as a TIFF") else 1
    data = file(picture, "TIFF" if kind == "as a TIFF" else "PNG", own)
    found = read(data, WIDE._replace(orientation=orientation), 8)
    assert found == (np.asarray(upright.resize((8, 8), 0)) > 0).tolist()
    assert sum(map(sum, found)) == 4


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_mask_that_fits_in_two_ways_is_refused_unless_it_says_how(orientation: int) -> None:
    turned = WIDE._replace(orientation=orientation)
    assert refused(file(Image.fromarray(LEFT)), turned) == masks.TWO_WAYS
    square = Seen(8, 8, 6)
    assert refused(file(Image.fromarray(LEFT[:, :8])), square) == masks.TWO_WAYS
    upright = Image.fromarray(LEFT).transpose(images.UPRIGHT[orientation])
    expected = (np.asarray(upright.resize((8, 8), 0)) > 0).tolist()
    assert read(file(Image.fromarray(LEFT), "PNG", orientation), turned) == expected


# What is refused.

COLOURED = np.stack([LEFT, LEFT, LEFT * 0], 2)
SEEN_THROUGH = np.dstack([LEFT, LEFT, LEFT, LEFT])
REFUSED = {
    "16 x 9 pixels, its image 16 x 8": file(Image.new("L", (16, 9), 1)),
    "8 x 16 pixels, its image 16 x 8": file(Image.new("L", (8, 16), 1)),
    "all pixels are 0: no object": file(Image.new("L", (16, 8))),
    "no pixel is 0: save it with 0 where the object is not": file(Image.new("L", (16, 8), 3)),
    "a colour picture: save the mask with one channel": file(Image.fromarray(COLOURED)),
    "it is transparent in part": file(Image.fromarray(SEEN_THROUGH)),
    "a colour picture (CMYK)": file(Image.new("CMYK", (16, 8), 1), "TIFF"),
    "JPEG, which may change pixels: save the mask as PNG": file(Image.fromarray(LEFT), "JPEG"),
    "WEBP, which may change pixels": file(Image.fromarray(LEFT), "WEBP"),
    "not an image of the kinds": b"nothing",
    "pixels are floating-point numbers": file(Image.new("F", (16, 8), 1.0), "TIFF"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_may_be_no_mask_is_refused(words: str) -> None:
    assert refused(REFUSED[words]).startswith(words)


def test_an_object_too_small_for_the_canvas_is_refused() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[0, 0] = 1
    whole = Seen(64, 64, 1)
    assert refused(file(Image.fromarray(mask)), whole) == (
        "nothing of its object is left on 8 x 8 pixels"
    )
    assert sum(map(sum, read(file(Image.fromarray(mask)), whole, 64))) == 1
