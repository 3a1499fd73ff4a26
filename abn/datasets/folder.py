"""A folder of your own images: ROOT/{train,val}/CLASS/*, or ROOT/CLASS/*, split at random."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from abn.runtime.errors import DataError
from abn.runtime.rng import generator

Labelled = list[tuple[Path, int]]


def find(root: Path, val_fraction: float, seed: int) -> tuple[tuple[str, ...], Labelled, Labelled]:
    """Class names in alphabetical order, and the labelled files for training and validation.

    Without train/ and val/, a share `val_fraction` of every class, at least one image, is drawn
    for validation. Raises DataError for a missing, empty or incomplete folder, and for what in it
    cannot be read: nothing is left out silently.
    """
    if not root.is_dir():
        raise DataError("no such folder", root, "correct data.root")
    with _readable(root):
        if (root / "train").is_dir() and (root / "val").is_dir():
            return _presplit(root)
        _check_not_half_split(root)
        classes = _classes(root)
        return classes, *_split(_files(root, classes), val_fraction, seed)


@contextmanager
def _readable(root: Path) -> Iterator[None]:
    """DataError that names what cannot be read."""
    try:
        yield
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError(what, error.filename or root, "check its permissions") from error


def _check_not_half_split(root: Path) -> None:
    """Refuse train/ without val/ if it holds folders: its name would be taken for a class."""
    for name, other in (("train", "val"), ("val", "train")):
        folder = root / name
        if folder.is_dir() and any(p.is_dir() and not _hidden(p, root) for p in folder.iterdir()):
            raise DataError(f"{name}/ holds folders, but there is no {other}/", root, "add it")


def _presplit(root: Path) -> tuple[tuple[str, ...], Labelled, Labelled]:
    """ROOT/{train,val}/CLASS/* as they are."""
    classes, val_classes = _classes(root / "train"), _classes(root / "val")
    if val_classes != classes:
        odd = sorted(set(classes) ^ set(val_classes))[0]
        raise DataError(f"class {odd!r} is not in both train/ and val/", root, "add it there")
    return classes, _files(root / "train", classes), _files(root / "val", classes)


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the folders in `folder`, sorted; at least two."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not _hidden(p, folder))
    if odd := next((name for name in names if not name.isprintable()), None):
        raise DataError(f"class {odd!r} has a name that cannot be shown", folder, "rename it")
    if len(names) < 2:
        what = f"{len(names)} class folder(s), at least 2 needed"
        raise DataError(what, folder, "give each class a folder there, or correct data.root")
    return tuple(names)


def _files(folder: Path, classes: tuple[str, ...]) -> Labelled:
    """Every file of every class, sorted; what is not an image is refused when it is decoded."""
    labelled: Labelled = []
    for label, name in enumerate(classes):
        files = sorted(_below(folder / name))
        if not files:
            raise DataError("no images", folder / name, "add some or remove the folder")
        labelled += [(path, label) for path in files]
    return labelled


def _below(folder: Path) -> Iterator[Path]:
    """Every file in `folder` and the folders in it, except hidden ones."""
    for path in folder.iterdir():
        if _hidden(path, folder):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():  # a link may lead in circles
            yield from _below(path)
        else:
            what = "not a file: a pipe, a device, a link to a folder or a broken link"
            raise DataError(what, path, "replace or remove it")


def _split(labelled: Labelled, val_fraction: float, seed: int) -> tuple[Labelled, Labelled]:
    """Training and validation files, class by class."""
    train: Labelled = []
    val: Labelled = []
    for label in range(labelled[-1][1] + 1):
        members = [item for item in labelled if item[1] == label]
        count = max(round(val_fraction * len(members)), 1)
        if count == len(members):
            raise DataError(f"{count} image(s), too few to split", members[0][0].parent, "add more")
        order = torch.randperm(len(members), generator=generator(seed, "folder", label))
        chosen = set(order[:count].tolist())
        val += [item for i, item in enumerate(members) if i in chosen]
        train += [item for i, item in enumerate(members) if i not in chosen]
    return train, val


def _hidden(path: Path, folder: Path) -> bool:
    """Whether `path`, or a folder between it and `folder`, is what systems leave behind."""
    names = path.relative_to(folder).parts
    return path.name == "Thumbs.db" or any(name.startswith(".") for name in names)
