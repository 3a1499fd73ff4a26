"""A folder of one's own images: ROOT/{train,val}/CLASS/* or ROOT/CLASS/*, split by chance."""

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
    for validation. Raises DataError for a missing, empty or one-sided folder, and for whatever in
    it cannot be read: nothing is left out in silence.
    """
    if not root.is_dir():
        raise DataError("no such folder", root, "correct data.root")
    with _readable(root):
        if (root / "train").is_dir() and (root / "val").is_dir():
            return _ready(root)
        _check_whole(root)
        classes = _classes(root)
        return classes, *_split(_files(root, classes), val_fraction, seed)


@contextmanager
def _readable(root: Path) -> Iterator[None]:
    """A DataError that names what cannot be read; left out, it would be another data set."""
    try:
        yield
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise DataError(what, error.filename or root, "give access to it") from error


def _check_whole(root: Path) -> None:
    """Refuse half of a split, whose folders would pass for classes; a class holds images."""
    for name, other in (("train", "val"), ("val", "train")):
        folder = root / name
        if folder.is_dir() and any(p.is_dir() and not _hidden(p, root) for p in folder.iterdir()):
            raise DataError(f"{name}/ holds folders, but there is no {other}/", root, "add it")


def _ready(root: Path) -> tuple[tuple[str, ...], Labelled, Labelled]:
    """ROOT/{train,val}/CLASS/* as they are."""
    classes, others = _classes(root / "train"), _classes(root / "val")
    if others != classes:
        odd = sorted(set(classes) ^ set(others))[0]
        raise DataError(f"class {odd!r} is not in both train/ and val/", root, "add it there")
    return classes, _files(root / "train", classes), _files(root / "val", classes)


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the folders in `folder`, sorted; at least two."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not _hidden(p, folder))
    if odd := next((name for name in names if not name.isprintable()), None):
        raise DataError(f"class {odd!r} has a name that cannot be shown", folder, "rename it")
    if len(names) < 2:
        raise DataError(f"{len(names)} class folder(s), at least 2 needed", folder, "see data.root")
    return tuple(names)


def _files(folder: Path, classes: tuple[str, ...]) -> Labelled:
    """Every file of every class, sorted; a file that is no image is refused when it is decoded."""
    labelled: Labelled = []
    for label, name in enumerate(classes):
        files = sorted(_below(folder / name))
        if not files:
            raise DataError("no images", folder / name, "add some or remove the folder")
        labelled += [(path, label) for path in files]
    return labelled


def _below(folder: Path) -> Iterator[Path]:
    """Every file in `folder` and the folders in it, but for what is hidden."""
    for path in folder.iterdir():
        if _hidden(path, folder):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():  # a link may lead in circles
            yield from _below(path)
        else:
            what = "not a file or folder itself, but a pipe, a device or a link to no file"
            raise DataError(what, path, "replace or remove it")


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
