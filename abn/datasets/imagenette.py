"""Imagenette (github.com/fastai/imagenette): torchvision's facts about it, and its layout."""

import re
from collections.abc import Sequence

from torchvision.datasets import Imagenette  # type: ignore[import-untyped]  # it has no stubs

from abn.datasets.problems import fault_of
from abn.runtime.errors import DataError

# torchvision's private tables: tests/datasets/test_imagenette.py says so if they move.
ARCHIVES: dict[str, tuple[str, str]] = Imagenette._ARCHIVES  # variant -> (url, md5)
CLASSES: dict[str, str] = {  # WordNet id -> name; the order is the labels'
    wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()
}
LABELS = {wnid: label for label, wnid in enumerate(CLASSES)}
# A name that starts with a dot is no image: macOS packs ._x.JPEG beside x.JPEG.
_IMAGE = re.compile(r"(?:\./)?[^/]+/(train|val)/([^/.][^/]*)/[^/.][^/]*\.(?i:JPEG)")


def find(names: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """The images among an archive's `names`, as {"train": [(name, label), ...], "val": [...]}.

    Sorted by name. Raises DataError for an unknown class and for a class without images.
    """
    splits: dict[str, list[tuple[str, int]]] = {"train": [], "val": []}
    for name in sorted(names):
        if match := _IMAGE.fullmatch(name):
            split, wnid = match.groups()
            if fault := fault_of(name):
                raise DataError(fault, f"member {name!a}", "correct data.url")
            if wnid not in LABELS:
                what = f"{wnid!r} is not a class of Imagenette"
                raise DataError(what, f"member {name!r}", "correct data.url")
            splits[split].append((name, LABELS[wnid]))
    for split, images in splits.items():
        present = {label for _, label in images}
        for wnid, label in LABELS.items():
            if label not in present:
                raise DataError("no image", f"{split}/{wnid} in the archive", "correct data.url")
    return splits
