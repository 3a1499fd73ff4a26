"""A folder of one's own images: ROOT/{train,val}/CLASS/* or ROOT/CLASS/*, split by chance."""

from pathlib import Path

import torch

from abn.errors import DataError
from abn.rng import generator

Labelled = list[tuple[Path, int]]


def find(root: Path, val_fraction: float, seed: int) -> tuple[tuple[str, ...], Labelled, Labelled]:
    """Class names in alphabetical order, and the labelled files for training and validation.

    Without train/ and val/, a share `val_fraction` of every class, at least one image, is drawn
    for validation. Raises DataError for a missing, empty or one-sided folder.
    """
    if not root.is_dir():
        raise DataError("no such folder", root, "correct data.root")
    if (root / "train").is_dir() and (root / "val").is_dir():
        classes = _classes(root / "train")
        if (others := _classes(root / "val")) != classes:
            odd = sorted(set(classes) ^ set(others))[0]
            raise DataError(f"class {odd!r} is not in both train/ and val/", root, "add it there")
        return classes, _files(root / "train", classes), _files(root / "val", classes)
    classes = _classes(root)
    return classes, *_split(_files(root, classes), val_fraction, seed)


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the folders in `folder`, sorted; at least two."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not _hidden(p, folder))
    if len(names) < 2:
        raise DataError(f"{len(names)} class folder(s), at least 2 needed", folder, "see data.root")
    return tuple(names)


def _files(folder: Path, classes: tuple[str, ...]) -> Labelled:
    """Every file of every class, sorted; a file that is no image is refused when it is decoded."""
    labelled: Labelled = []
    for label, name in enumerate(classes):
        found = (path for path in (folder / name).rglob("*") if path.is_file())
        files = sorted(path for path in found if not _hidden(path, folder))
        if not files:
            raise DataError("no images", folder / name, "add some or remove the folder")
        labelled += [(path, label) for path in files]
    return labelled


def _split(labelled: Labelled, val_fraction: float, seed: int) -> tuple[Labelled, Labelled]:
    """Training and validation files, class by class."""
    train: Labelled = []
    val: Labelled = []
    for label in range(labelled[-1][1] + 1):
        members = [item for item in labelled if item[1] == label]
        held = max(round(val_fraction * len(members)), 1)
        if held == len(members):
            raise DataError(f"{held} image(s), too few to split", members[0][0].parent, "add more")
        draws = generator(seed, "folder", label)
        chosen = set(torch.randperm(len(members), generator=draws)[:held].tolist())
        val += [item for i, item in enumerate(members) if i in chosen]
        train += [item for i, item in enumerate(members) if i not in chosen]
    return train, val


def _hidden(path: Path, folder: Path) -> bool:
    """Whether `path` is what systems leave in folders unasked, or lies in it, below `folder`."""
    names = path.relative_to(folder).parts
    return path.name == "Thumbs.db" or any(name.startswith(".") for name in names)
