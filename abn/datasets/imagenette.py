"""Imagenette (github.com/fastai/imagenette): its archives, its classes, its layout."""

import re
from collections.abc import Sequence

from abn.runtime.errors import DataError

_BUCKET = "https://s3.amazonaws.com/fast-ai-imageclas"
VARIANTS = {  # name -> (url, md5), as torchvision.datasets.Imagenette has them
    "full": (f"{_BUCKET}/imagenette2.tgz", "fe2fc210e6bb7c5664d602c3cd71e612"),
    "320px": (f"{_BUCKET}/imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3"),
    "160px": (f"{_BUCKET}/imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412"),
}
SIZES = {  # md5 -> bytes, as fastai and TensorFlow Datasets have them
    "fe2fc210e6bb7c5664d602c3cd71e612": 1_557_161_267,
    "3df6f0d01a2c9592104656642f5e78a3": 341_663_724,
    "e793b78cc4c9e9a4ccc0c1155377a412": 99_003_388,
}
CLASSES = {  # WordNet id -> name; the order is the labels'
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
LABELS = {wnid: label for label, wnid in enumerate(CLASSES)}
_IMAGE = re.compile(r"(?:\./)?[^/]+/(train|val)/([^/]+)/[^/]+\.(?i:JPEG)")


def find(names: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """The images among an archive's `names`, as {"train": [(name, label), ...], "val": [...]}.

    Sorted by name. Raises DataError for a class that is unknown and for one without images.
    """
    found: dict[str, list[tuple[str, int]]] = {"train": [], "val": []}
    for name in sorted(names):
        if match := _IMAGE.fullmatch(name):
            split, wnid = match.groups()
            if wnid not in LABELS:
                raise DataError(
                    f"{wnid} is no class of Imagenette", f"member {name!r}", "correct data.url"
                )
            found[split].append((name, LABELS[wnid]))
    _check(found)
    return found


def _check(found: dict[str, list[tuple[str, int]]]) -> None:
    """Every class has an image in both splits."""
    if not any(found.values()):
        raise DataError(
            "no image", "*/{train,val}/<class>/*.JPEG in the archive", "correct data.url"
        )
    for split, images in found.items():
        present = {label for _, label in images}
        for wnid, label in LABELS.items():
            if label not in present:
                raise DataError("no image", f"{split}/{wnid} in the archive", "correct data.url")
