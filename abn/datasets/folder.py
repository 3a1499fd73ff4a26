"""A folder of your own images: ROOT/{train,val}/CLASS/*, or ROOT/CLASS/*, split at random."""

import unicodedata
from collections import Counter
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch

from abn.datasets import tree as trees
from abn.datasets.problems import Problem, shown
from abn.datasets.tree import Tree, last, nfc
from abn.runtime.errors import DataError
from abn.runtime.rng import generator

Labelled = list[tuple[str, int]]  # name below the root, label
VAL = ("val", "valid", "validation")  # each is taken for the validation split
PARTS = {  # what people call a part of a data set -> what to call it here
    **dict.fromkeys(("train", "training", "trainset", "train_set"), "train"),
    **dict.fromkeys((*VAL, "dev", "eval", "test", "testing", "testset", "test_set"), "val"),
}


class Found(NamedTuple):
    """A folder's data set; nothing is decoded yet."""

    classes: tuple[str, ...]  # in alphabetical order
    train: Labelled
    val: Labelled
    problems: list[Problem]  # the folder is not to be used while there are any
    left_out: list[str]  # a line for each reason


def find(root: Path, val_fraction: float, seed: int) -> Found:
    """The classes and the labelled files in `root`.

    Without train/ and val/, a share `val_fraction` of every class, at least one image, is drawn
    for validation. Class names are in Unicode's form NFC. Raises DataError for a folder that is
    missing or whose layout is not clear.
    """
    if not root.is_dir():
        raise DataError("no such folder", root, "correct data.root")
    tree = trees.look(root)
    _check_top(root, tree)
    if (val := _val(root, tree)) and "train" in tree.folders[""]:
        classes, train, labelled_val = _presplit(root, tree, val)
    else:
        classes = _classes(root, tree, "")
        train, labelled_val = _split(tree, _files(tree, classes), val_fraction, seed)
    return Found(tuple(classes), train, labelled_val, tree.problems, tree.lines())


def _check_top(root: Path, tree: Tree) -> None:
    """DataError for a problem that hides what the classes are."""
    for reason, name in tree.problems:
        if name in ("", "train", *VAL):
            raise DataError(reason, root / name, "then run again")


def _val(root: Path, tree: Tree) -> str:
    """The name of the folder of the validation split; "" where there is none."""
    there = [name for name in VAL if name in tree.folders[""]]
    if len(there) > 1 and "train" in tree.folders[""]:
        what = f"{' and '.join(f'{name}/' for name in there)}: which one is the validation split?"
        raise DataError(what, root, "keep one of them")
    return there[0] if there else ""


def _presplit(root: Path, tree: Tree, val: str) -> tuple[dict[str, str], Labelled, Labelled]:
    """ROOT/{train,val}/CLASS/* as they are."""
    classes, val_classes = _classes(root, tree, "train"), _classes(root, tree, val)
    if odd := sorted(classes.keys() ^ val_classes.keys()):
        others = f" (also there: {', '.join(map(_spelt, odd[1:4]))})" if odd[1:] else ""
        what = f"class {_spelt(odd[0])} is not in both train/ and {val}/{others}"
        raise DataError(what, root, "add it there, or spell it alike in both")
    beside = f"neither in train/ nor in {val}/"
    for name in tree.files[""]:
        tree.leave_out(beside, name, 1)
    for folder in tree.folders[""]:
        if folder not in ("train", val):
            tree.leave_out(beside, f"{folder}/", len(tree.below(folder)))
    return classes, _files(tree, classes), _files(tree, val_classes)


def _classes(root: Path, tree: Tree, folder: str) -> dict[str, str]:
    """Class name in form NFC -> its folder; for those right in `folder`, sorted; at least two."""
    where, found = root / folder, {nfc(last(name)): name for name in tree.folders[folder]}
    for name in tree.files[folder]:
        tree.leave_out("outside the folders of classes", name, 1)
    if odd := next((name for name in sorted(found) if not name.isprintable()), None):
        raise DataError(f"class {odd!r} has a name that cannot be shown", where, "rename it")
    _check_not_parts(where, tree, found)
    _check_not_alike(where, tree, folder)
    if len(found) < 2:
        what = f"{len(found)} class folder(s), at least 2 needed"
        raise DataError(what, where, "give each class a folder there, or correct data.root")
    return dict(sorted(found.items()))


def _check_not_parts(where: Path, tree: Tree, found: dict[str, str]) -> None:
    """DataError where folders are parts of a data set, which would be taken for classes."""
    inner = {
        name: {nfc(last(below)) for below in tree.folders[folder]}
        for name, folder in found.items()
        if tree.folders[folder] and not tree.files[folder]
    }
    times = Counter(name for names in inner.values() for name in names)
    shared = sorted(name for name, count in times.items() if count > 1)
    parts = {name: PARTS[name.casefold()] for name in inner if name.casefold() in PARTS}
    if not shared and not parts:
        return
    if shared:
        who = [name for name in inner if shared[0] in inner[name]]
        what = f"{shown(who[0])}/ and {shown(who[1])}/ both hold a folder {shown(shared[0])}"
    else:
        what = f"{next(iter(parts))}/ holds folders, not images"
    remedy = f"{_as_parts(parts)}; if these are classes, put their images right into their folders"
    raise DataError(f"{what}: parts of a data set, or classes?", where, remedy)


def _as_parts(parts: dict[str, str]) -> str:
    """How to lay out folders with the names `parts` as train/ and val/."""
    ways, known = [], list(PARTS)
    for part in ("train", "val"):
        names = sorted(
            (n for n in parts if parts[n] == part), key=lambda n: known.index(n.casefold())
        )
        if not names:
            ways.append(f"name the {part} part {part}/" if not parts else f"add {part}/")
        elif names[0] not in ("train", *VAL):
            ways.append(f"rename {shown(names[0])}/ to {part}/")
    return ", ".join(ways)


def _check_not_alike(where: Path, tree: Tree, folder: str) -> None:
    """DataError for two classes that differ in what cannot be seen."""
    seen: dict[str, str] = {}
    for name in map(last, tree.folders[folder]):
        look = " ".join(unicodedata.normalize("NFKC", name).split())
        if (twin := seen.setdefault(look, name)) != name:
            both = (ascii(each).replace(" ", r"\x20") for each in (twin, name))
            what = f"classes {' and '.join(both)} look alike"
            raise DataError(what, where, "rename one, or put their images into one folder")


def _spelt(name: str) -> str:
    """`name` in quotes, and as it is encoded where that may differ between two that look alike."""
    return repr(name) if name.isascii() else f"{name!r} ({name!a})"


def _files(tree: Tree, classes: dict[str, str]) -> Labelled:
    """Every file of every class, sorted; what is not an image is refused when it is decoded."""
    labelled: Labelled = []
    for label, folder in enumerate(classes.values()):
        names = tree.below(folder)
        if not names and not tree.is_at_fault(folder):
            tree.problems.append(Problem("no images", folder))
        labelled += [(name, label) for name in names]
    return labelled


def _split(
    tree: Tree, labelled: Labelled, val_fraction: float, seed: int
) -> tuple[Labelled, Labelled]:
    """Training and validation files, class by class."""
    train: Labelled = []
    val: Labelled = []
    for label, group in groupby(labelled, key=itemgetter(1)):
        members = list(group)
        count = max(round(val_fraction * len(members)), 1)
        if count == len(members):
            what = f"{count} image(s), too few to split: add more"
            tree.problems.append(Problem(what, members[0][0].partition("/")[0]))
        order = torch.randperm(len(members), generator=generator(seed, "folder", label))
        chosen = set(order[:count].tolist())
        val += [item for i, item in enumerate(members) if i in chosen]
        train += [item for i, item in enumerate(members) if i not in chosen]
    return train, val
