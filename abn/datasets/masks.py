"""Masks beside images: ROOT/masks/train/cat/1.png says where the object is in ROOT/train/cat/1.jpg.

The folder masks/ repeats the names of the images, whatever their endings. A pixel of a mask that is
not 0 is the object. What could be read in two ways is refused: it would be a wrong truth.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abn.datasets import images
from abn.datasets.problems import Problem, shown
from abn.datasets.tree import nfc

FOLDER = "masks"
FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")  # that keep a 0 as a 0
ONE_CHANNEL = ("1", "L", "P", "I")  # modes in Pillow, and those as I;16
WITH_ALPHA = ("LA", "RGBA", "PA")
GREY = (*WITH_ALPHA, "RGB")  # modes that may hold a grey picture
LIKELY = re.compile(r"(.+?)[ ._-]+masks?([ ._-]*\d+)?", re.IGNORECASE)  # (1)_mask, cat_masks
STRAY = "looks like a mask among the images: move it to masks/ (docs/usage.md), or rename it"
TWO_WAYS = "its image is turned by EXIF, so that it fits in two ways: save the image upright"


class Seen(NamedTuple):
    """An image as it is to be seen, upright."""

    height: int
    width: int
    orientation: object  # in its EXIF: what was done to it


def pair(names: Iterable[str], masks: Iterable[str]) -> tuple[dict[str, str], list[Problem]]:
    """The mask of each image that has one; and the masks that are not of one image.

    `names` of images and `masks` are below the root.
    """
    owners, found = defaultdict(list), defaultdict(list)
    for name in names:
        owners[_stem(name)].append(name)
    for mask in masks:
        found[_stem(mask.partition("/")[2])].append(mask)
    mask_of, problems = {}, []
    for stem, twins in found.items():
        own = owners.get(stem, [])
        if len(own) == len(twins) == 1:
            mask_of[own[0]] = twins[0]
            continue
        reason = "a mask without an image: it has to be called as its image is, below masks/"
        if len(own) > 1:
            reason = f"a mask of two images, {' and '.join(map(shown, own[:2]))}: rename one"
        elif own:
            reason = f"two masks of the image {shown(own[0])}: keep one"
        problems += [Problem(reason, mask) for mask in twins]
    return mask_of, problems


def strays(names: Iterable[str]) -> list[Problem]:
    """The images, `names` below the root, that are called like masks of others: x.png, x_mask.png.

    So are cat/x.png and cat_masks/x.png. They would be trained on as pictures.
    """
    stems = {_stem(name): name for name in names}
    return [
        Problem(STRAY, name)
        for stem, name in stems.items()
        if any(of in stems for of in _may_be_masks_of(stem))
    ]


def _may_be_masks_of(stem: str) -> Iterator[str]:
    """The stems of the images that the file `stem` may mask, by its own name or its folder's."""
    parts = stem.split("/")
    for place in (-1, -2):
        if len(parts) >= -place and (match := LIKELY.fullmatch(parts[place])):
            yield "/".join([*parts[:place], match[1], *parts[len(parts) + place + 1 :]])


def read(source: bytes | Path, name: str, image: Seen, size: int) -> NDArray[np.uint8]:
    """The mask in `source`, squashed as its `image` is: uint8 [size, size], 1 on the object.

    Raises DataError with `name` for what is no mask of that image.
    """

    def decoded(data: bytes) -> NDArray[np.uint8]:
        with images.opened(data) as mask:
            objects = _objects(_upright(mask, image))
        whole = Image.fromarray(objects.astype(np.uint8))
        canvas = np.array(whole.resize((size, size), Image.Resampling.NEAREST))
        if not canvas.any():
            raise ValueError(f"nothing of its object is left on {size} x {size} pixels")
        return canvas

    return images.tried(decoded, source, name)


def seen(data: bytes, sides: tuple[int, int]) -> Seen:
    """How the image file `data` is to be seen; `sides` are from `images.full_size`."""
    with images.opened(data) as image:
        return Seen(*sides, images.orientation(image))


def _upright(mask: Image.Image, image: Seen) -> Image.Image:
    """`mask` turned as its image is; ValueError where it does not fit, or in two ways."""
    if mask.format not in FORMATS:
        raise ValueError(f"{mask.format}, which may change pixels: save the mask as PNG")
    images.check(mask, mask.width * mask.height)
    is_told = images.orientation(mask) != 1
    mask.load()  # Pillow turns a TIFF while loading, and then forgets its orientation
    if (undo := images.UPRIGHT.get(images.orientation(mask))) is not None:
        mask = mask.transpose(undo)
    undo = None if is_told else images.UPRIGHT.get(image.orientation)
    upright = image.width, image.height
    stored = upright[::-1] if image.orientation in images.SIDEWAYS else upright
    if undo is not None and mask.size == stored:
        if stored == upright:
            raise ValueError(TWO_WAYS)
        return mask.transpose(undo)  # it was drawn on the pixels as the image's file has them
    if mask.size != upright:
        own = f"{mask.width} x {mask.height} pixels"
        raise ValueError(f"{own}, its image {image.width} x {image.height}")
    return mask


def _objects(mask: Image.Image) -> NDArray[np.bool_]:
    """Where `mask` is not 0, bool [H, W]; ValueError for a picture that is no mask."""
    is_plain = mask.mode.partition(";")[0] in ONE_CHANNEL
    objects = (np.asarray(mask) if is_plain else _grey(mask)) != 0
    if not objects.any():
        raise ValueError("all pixels are 0: no object")
    if objects.all():
        raise ValueError("no pixel is 0: save it with 0 where the object is not, or remove it")
    return objects


def _grey(mask: Image.Image) -> NDArray[np.uint8]:
    """The values [H, W] of a `mask` of several channels; ValueError if it has colour or alpha."""
    if mask.mode not in GREY:
        raise ValueError(f"a colour picture ({mask.mode}): save the mask with one channel")
    if mask.mode in WITH_ALPHA and np.asarray(mask.getchannel("A")).min() < 255:
        raise ValueError("it is transparent in part: save the mask with one channel")
    if mask.mode == "PA":
        return np.asarray(mask.getchannel("P"))
    channels = np.asarray(mask.convert("RGB"))
    if (channels != channels[:, :, :1]).any():
        raise ValueError("a colour picture: save the mask with one channel")
    return channels[:, :, 0]


def _stem(name: str) -> str:
    return str(PurePosixPath(nfc(name)).with_suffix(""))
