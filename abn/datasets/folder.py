"""A folder of your own images: ROOT/{train,val}/CLASS/*, or ROOT/CLASS/*, split at random.

Classes may be nested: those in animals/cat/ are called animals/cat. Masks are in ROOT/masks/.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch

from abn.datasets import masks as beside
from abn.datasets import tree as trees
from abn.datasets.problems import Problem, shown
from abn.datasets.tree import Tree, nfc
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
    masks: dict[str, str]  # image -> its mask, for those that have one; names below the root


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
    val = _val(root, tree)
    is_split = bool(val) and "train" in tree.folders[""]
    masks = _masks(root, tree, is_split)
    if is_split:
        classes, train, labelled_val = _presplit(root, tree, val)
    else:
        classes = _classes(root, tree, "")
        train, labelled_val = _split(tree, _files(tree, classes), val_fraction, seed)
    names = [name for name, _ in train + labelled_val]
    mask_of, unpaired = beside.pair(names, masks)
    problems = tree.problems + unpaired + beside.strays(names)
    return Found(tuple(classes), train, labelled_val, problems, tree.lines(), mask_of)


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


def _masks(root: Path, tree: Tree, is_split: bool) -> list[str]:
    """The files in the folder of masks, which is taken out of `tree`.

    Without train/ and val/, a folder of that name that holds images and no folders is a class.
    """
    named = [name for name in tree.folders[""] if name.casefold() == beside.FOLDER]
    if len(named) > 1:
        what = f"{' and '.join(f'{name}/' for name in named)}: which one holds the masks?"
        raise DataError(what, root, "keep one of them")
    if not named or not (is_split or tree.folders[named[0]]):
        return []
    tree.folders[""].remove(named[0])
    return tree.below(named[0])


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
    """Class name in form NFC -> its folder; for those below `folder`, sorted; at least two."""
    where = root / folder
    _check_not_mixed(where, tree, folder)
    names = {name.removeprefix(f"{folder}/"): name for name in _deepest(tree, folder)}
    found = {nfc(name): below for name, below in names.items()}
    for name in tree.files[folder]:
        tree.leave_out("outside the folders of classes", name, 1)
    if odd := next((name for name in sorted(found) if not name.isprintable()), None):
        raise DataError(f"class {odd!r} has a name that cannot be shown", where, "rename it")
    _check_not_parts(where, found)
    _check_not_alike(where, names)
    if len(found) < 2:
        what = f"{len(found)} class folder(s), at least 2 needed"
        raise DataError(what, where, "give each class a folder there, or correct data.root")
    return dict(sorted(found.items()))


def _deepest(tree: Tree, folder: str) -> Iterator[str]:
    """The folders below `folder` that hold images; and those that are empty, to be named."""
    for name in tree.folders[folder]:
        if _filled(tree, name) and not tree.files[name]:
            yield from _deepest(tree, name)
        else:
            yield name


def _filled(tree: Tree, folder: str) -> list[str]:
    """The folders right in `folder` with images in or below them."""
    return [name for name in tree.folders[folder] if tree.below(name)]


def _check_not_mixed(where: Path, tree: Tree, folder: str) -> None:
    """DataError where images lie beside folders of images: is that one class, or several?"""
    waiting, mixed = list(tree.folders[folder]), []
    while waiting:
        name = waiting.pop()
        if (inner := _filled(tree, name)) and tree.files[name]:
            mixed.append(f"{shown(tree.files[name][0])} and the folder {shown(inner[0])}")
        waiting += tree.folders[name]
    if mixed:
        more = f" (and {len(mixed) - 1} more such places)" * (len(mixed) > 1)
        what = f"images beside a folder of images, {min(mixed)}{more}"
        raise DataError(what, where, "a class is a folder without folders: move one or the other")


def _check_not_parts(where: Path, found: Iterable[str]) -> None:
    """DataError where folders are parts of a data set, which would be taken for classes."""
    holders: dict[str, list[str]] = defaultdict(list)  # name of a folder of images -> where it is
    for name in found:
        above, _, own = name.rpartition("/")
        holders[own].append(above or ".")
    shared = sorted(own for own, above in holders.items() if len(above) > 1)
    outer = {part: "" for name in found for part in name.split("/")[:-1]}
    parts = {name: PARTS[name.casefold()] for name in outer if name.casefold() in PARTS}
    both = _train_and_val(found)
    if not shared and not parts and not both:
        return
    if both and not shared:
        what, parts = f"{' and '.join(f'{name}/' for name in both)} hold images", parts | both
    elif shared:
        first, second, *_ = holders[shared[0]]
        what = f"{shown(first)}/ and {shown(second)}/ both hold a folder {shown(shared[0])}"
    else:
        what = f"{next(iter(parts))}/ holds folders, not images"
    remedy = f"{_as_parts(parts)}; if these are classes, give each its own name"
    raise DataError(f"{what}: parts of a data set, or classes?", where, remedy)


def _train_and_val(found: Iterable[str]) -> dict[str, str]:
    """Folders of images right in the same folder that are named like both parts, if there are."""
    parts: dict[str, dict[str, str]] = defaultdict(dict)  # folder -> name in it -> part
    for name in found:
        above, _, own = name.rpartition("/")
        if own.casefold() in PARTS:
            parts[above][own] = PARTS[own.casefold()]
    return next((each for each in parts.values() if len({*each.values()}) == 2), {})


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


def _check_not_alike(where: Path, names: Iterable[str]) -> None:
    """DataError for two classes that differ in what cannot be seen."""
    seen: dict[str, str] = {}
    for name in names:
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
            tree.problems.append(Problem(what, members[0][0].rpartition("/")[0]))
        order = torch.randperm(len(members), generator=generator(seed, "folder", label))
        chosen = set(order[:count].tolist())
        val += [item for i, item in enumerate(members) if i in chosen]
        train += [item for i, item in enumerate(members) if i not in chosen]
    return train, val
