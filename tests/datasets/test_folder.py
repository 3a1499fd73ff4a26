"""Finding a folder's images: both layouts, a fair split, every gap named, nothing unwatched."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from abn.datasets.folder import Found, find
from abn.datasets.masks import STRAY
from abn.datasets.problems import Problem
from abn.runtime.errors import DataError


def touch(root: Path, *names: str) -> Path:
    """`root` with empty files; what they contain matters when they are decoded."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def unsplit(root: Path, count: int = 10) -> Path:
    """ROOT/CLASS/* with `count` images of cats and twice as many of dogs."""
    cats = [f"cat/{i:02}.png" for i in range(count)]
    dogs = [f"dog/{i:02}.png" for i in range(2 * count)]
    return touch(root, *cats, *dogs)


@pytest.fixture
def presplit(tmp_path: Path) -> Path:
    """ROOT/{train,val}/CLASS/*, made in no order."""
    train = ("train/dog/b.png", "train/dog/a.jpg", "train/cat/1.png", "train/cat/2.png")
    return touch(tmp_path / "images", *train, "val/dog/c.png", "val/cat/3.png")


def test_train_and_val_are_taken_as_they_are_in_alphabetical_order(presplit: Path) -> None:
    found = find(presplit, 0.2, seed=0)
    assert found.classes == ("cat", "dog")
    train = [("cat/1.png", 0), ("cat/2.png", 0), ("dog/a.jpg", 1), ("dog/b.png", 1)]
    assert found.train == [(f"train/{name}", label) for name, label in train]
    assert found.val == [("val/cat/3.png", 0), ("val/dog/c.png", 1)]
    assert found.problems == [] and found.left_out == []


def test_without_train_and_val_a_share_of_every_class_is_drawn(tmp_path: Path) -> None:
    classes, train, val, *_ = find(unsplit(tmp_path), 0.2, seed=0)
    assert classes == ("cat", "dog")
    assert [label for _, label in val] == [0] * 2 + [1] * 4
    assert [label for _, label in train] == [0] * 8 + [1] * 16
    assert train == sorted(train) and val == sorted(val)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")]
    assert sorted(train + val) == sorted((str(p), p.parent.name == "dog") for p in files)


def test_the_draw_depends_on_the_seed_but_not_on_the_place(tmp_path: Path) -> None:
    first, again, other = (
        find(unsplit(tmp_path / name), 0.2, seed).val
        for name, seed in ((".cache/here", 0), ("there", 0), ("there", 1))
    )
    assert first == again != other


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_validation_split_has_three_names(presplit: Path, name: str) -> None:
    (presplit / "val").rename(presplit / name)
    assert find(presplit, 0.2, 0).val == [(f"{name}/cat/3.png", 0), (f"{name}/dog/c.png", 1)]


def test_what_lies_beside_the_splits_is_counted_and_named(presplit: Path) -> None:
    before = find(presplit, 0.2, 0)
    touch(presplit, "test/cat/4.png", "test/dog/5.png", "notes.txt", "train/labels.csv")
    found = find(presplit, 0.2, 0)
    assert found[:4] == before[:4]
    assert found.left_out == [
        "1 file(s) not read, outside the folders of classes: train/labels.csv",
        "3 file(s) not read, neither in train/ nor in val/: notes.txt, test/",
    ]


class Entries(NamedTuple):
    """What os.scandir gives, of entries in another order."""

    entries: Iterator["os.DirEntry[str]"]

    def __iter__(self) -> Iterator["os.DirEntry[str]"]:  # type: ignore[override]
        return self.entries

    def __next__(self) -> "os.DirEntry[str]":
        return next(self.entries)

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("split", [True, False], ids=["train and val", "classes alone"])
def test_the_order_of_directory_entries_changes_nothing(
    presplit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    root, entries = presplit if split else unsplit(tmp_path / "unsplit"), os.scandir

    def found(backwards: bool) -> object:
        def order(path: Path) -> Iterator["os.DirEntry[str]"]:
            return iter(sorted(entries(path), key=lambda entry: entry.name, reverse=backwards))

        monkeypatch.setattr("abn.datasets.tree.os.scandir", lambda path: Entries(order(path)))
        return find(root, 0.2, seed=0)

    assert found(backwards=True) == found(backwards=False)


LITTER = (
    *("cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.png", "cat/#recycle/0.png", "cat/.hidden/x.png"),
    *("@eaDir/cat/0.png", "__MACOSX/cat/._0.png", "$RECYCLE.BIN/x.png", "lost+found/x.png"),
    *("System Volume Information/x.png", "cat/@Recycle/x.png", "cat/~snapshot/x.png"),
    *(".DS_Store", "cat/.DS_Store", "cat/._0.png", "dog/Thumbs.db", "dog/thumbs.DB", "dog/Icon\r"),
    *("dog/desktop.ini", "dog/Thumbs.db:encryptable", "dog/0.png~", "dog/9.png.part"),
    *("cat/.ipynb_checkpoints/2.png",),
)


@pytest.mark.parametrize("split", [True, False], ids=["train and val", "classes alone"])
def test_what_systems_leave_is_counted_and_not_read(
    presplit: Path, tmp_path: Path, split: bool
) -> None:
    root = presplit if split else unsplit(tmp_path / "unsplit")
    before = find(root, 0.2, 0)
    touch(root / "train" if split else root, *LITTER, ".gitkeep")
    found = find(root, 0.2, 0)
    assert found[:4] == before[:4]
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith(f"{len(LITTER)} file(s) not read, left by a system or")
    assert found.left_out[0].endswith(" more")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    images = [f"{name}/{i}.png" for name in ("car", "train") for i in range(3)]
    assert find(touch(tmp_path, *images), 0.2, seed=0)[0] == ("car", "train")


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


def link(name: str, target: str) -> Callable[[Path], object]:
    return lambda root: (root / name).symlink_to(target)


def in_both(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: [change(root / split) for split in ("train", "val")]


GAPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (rename("", "../gone"), "no such folder; ROOT; correct data.root"),
    "a link to itself": (
        lambda root: (root.rename(root.with_name("gone")), root.symlink_to(root)),
        "no such folder",
    ),
    "no val/": (
        rename("val", "../gone"),
        "train/ holds folders, not images: parts of a data set, or classes?; ROOT; add val/; if",
    ),
    "Train/": (
        rename("train", "Train"),
        "Train/ and val/ both hold a folder cat: parts of a data set, or classes?; ROOT; "
        "rename Train/ to train/; if these are classes, give each its own name",
    ),
    "training/ and validation/": (
        lambda root: (rename("train", "training")(root), rename("val", "validation")(root)),
        "training/ and validation/ both hold a folder cat: parts of a data set, or classes?; "
        "ROOT; rename training/ to train/; if these",
    ),
    "Train/ and Test/": (
        lambda root: (rename("train", "Train")(root), rename("val", "Test")(root)),
        "Test/ and Train/ both hold a folder cat: parts of a data set, or classes?; "
        "ROOT; rename Train/ to train/, rename Test/ to val/; if these",
    ),
    "folds": (
        lambda root: (rename("train", "fold1")(root), rename("val", "fold2")(root)),
        "fold1/ and fold2/ both hold a folder cat: parts of a data set, or classes?; "
        "ROOT; name the train part train/, name the val part val/; if these",
    ),
    "test/ of loose images": (
        lambda root: (
            rename("train", "Training")(root),
            rename("val", "../gone")(root),
            touch(root, "test/1.png"),
        ),
        "Training/ holds folders, not images: parts of a data set, or classes?; ROOT; "
        "rename Training/ to train/, add val/; if these",
    ),
    "folds in train/": (
        lambda root: touch(root, "train/f/x/1.png", "train/g/x/1.png"),
        "f/ and g/ both hold a folder x: parts of a data set",
    ),
    "val/ and valid/": (
        lambda root: (root / "valid").mkdir(),
        "val/ and valid/: which one is the validation split?; ROOT; keep one of them",
    ),
    "train/ behind a link": (
        lambda root: (rename("train", "../real")(root), link("train", "../real")(root)),
        "a link to a folder, behind which DVC does not look: copy the folder, or link all of",
    ),
    "a class missing in val/": (rename("val/cat", "../gone"), "1 class folder(s), at least 2"),
    "a class renamed in val/": (rename("val/cat", "val/kat"), "class 'cat' is not in both train/"),
    "a class more in val/": (lambda root: (root / "val/bird").mkdir(), "class 'bird' is not in"),
    "no classes": (
        in_both(lambda root: shutil.rmtree(root / "dog")),
        "1 class folder(s), at least 2 needed; ROOT/train; give each class a folder there",
    ),
    "images beside a folder of images": (
        in_both(rename("dog", "cat/dog")),
        "images beside a folder of images, train/cat/1.png and the folder train/cat/dog; ROOT/train"
        "; a class is a folder without folders: move one or the other",
    ),
    "images beside folders of images in two places": (
        lambda root: touch(root, "train/cat/deep/er/3.png", "train/dog/x/1.png"),
        "images beside a folder of images, train/cat/1.png and the folder train/cat/deep (and 1 "
        "more such places); ROOT/train",
    ),
    "a folder of masks under another name": (
        lambda root: [
            (root / split / "annotations/cat").mkdir(parents=True)
            or touch(root, f"{split}/annotations/cat/1.png")
            for split in ("train", "val")
        ],
        "annotations/ and ./ both hold a folder cat: parts of a data set, or classes?; ROOT/train",
    ),
    "splits within the classes": (
        in_both(lambda root: touch(root, "bird/train/1.png", "bird/test/1.png")),
        "test/ and train/ hold images: parts of a data set, or classes?; ROOT/train; "
        "rename test/ to val/; if these are classes, give each its own name",
    ),
    "parts without classes": (
        lambda root: (
            shutil.rmtree(root),
            touch(root, "Train/1.png", "Train/2.png", "Test/1.png", "Test/2.png"),
        ),
        "Test/ and Train/ hold images: parts of a data set, or classes?; ROOT; rename Train/ to "
        "train/, rename Test/ to val/; if these",
    ),
    "masks/ and Masks/": (
        lambda root: touch(root, "masks/train/cat/1.png", "Masks/train/cat/1.png"),
        "Masks/ and masks/: which one holds the masks?; ROOT; keep one of them",
    ),
    "a class whose name has a line break": (
        in_both(rename("cat", "c\nt")),
        r"class 'c\nt' has a name that cannot be shown; ROOT/train; rename it",
    ),
    "two classes that look alike": (
        in_both(lambda root: touch(root, "caf\u00e9/1.png", "cafe\u0301/2.png")),
        "two names that look alike, 'cafe\\u0301' and 'caf\\xe9': rename one; ROOT/train; then",
    ),
    "two classes that differ in a space": (
        in_both(lambda root: touch(root, "sea lion/1.png", "sea  lion/2.png")),
        r"classes 'sea\x20\x20lion' and 'sea\x20lion' look alike; ROOT/train; rename one, or put",
    ),
    "a class that is not UTF-8": (
        lambda root: Path(os.fsdecode(os.fsencode(root) + b"/train/caf\xe9")).mkdir(),
        r"class 'caf\udce9' has a name that cannot be shown; ROOT/train; rename it",
    ),
    "a Cyrillic letter": (
        rename("val/cat", "val/\u0441at"),
        "class 'cat' is not in both train/ and val/ (also there: '\u0441at' ('\\u0441at'))",
    ),
}


@pytest.mark.parametrize("gap", GAPS)
def test_a_gap_is_refused_by_name(presplit: Path, gap: str) -> None:
    damage, words = GAPS[gap]
    damage(presplit)
    with pytest.raises(DataError) as caught:
        find(presplit, 0.2, seed=0)
    assert str(caught.value).startswith(words.replace("ROOT", str(presplit)))
    assert caught.value.line().isprintable()


def test_one_image_of_each_class_is_drawn_at_least_and_one_must_be_left(tmp_path: Path) -> None:
    assert [label for _, label in find(unsplit(tmp_path, 2), 0.01, seed=0).val] == [0, 1]
    found = find(touch(unsplit(tmp_path), "bird/1.png"), 0.2, seed=0)
    assert found.problems == [Problem("1 image(s), too few to split: add more", "bird")]


def test_nested_classes_are_called_as_the_path_to_their_images(tmp_path: Path) -> None:
    leaves = ("animals/cat", "animals/big/lion", "plants/fern")
    touch(tmp_path, *(f"{leaf}/{i}.png" for leaf in leaves for i in range(5)))
    found = find(tmp_path, 0.2, seed=0)
    assert found.classes == ("animals/big/lion", "animals/cat", "plants/fern")
    assert [label for _, label in found.train] == [0] * 4 + [1] * 4 + [2] * 4
    assert [name.rpartition("/")[0] for name, _ in found.val] == list(found.classes)
    assert found.problems == [] and found.left_out == []
    for split in ("train", "val"):
        touch(tmp_path / "parts", *(f"{split}/{leaf}/1.png" for leaf in leaves))
    again = find(tmp_path / "parts", 0.2, seed=0)
    assert again.classes == found.classes
    assert again.val[0] == ("val/animals/big/lion/1.png", 0)


def test_an_empty_nested_class_is_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"animals/{name}/{i}.png" for name in ("cat", "dog") for i in range(2)))
    (tmp_path / "animals/emu").mkdir()
    found = find(tmp_path, 0.2, seed=0)
    assert found.classes == ("animals/cat", "animals/dog", "animals/emu")
    assert found.problems == [Problem("no images", "animals/emu")]


def test_an_empty_folder_beside_images_is_no_class(tmp_path: Path) -> None:
    (unsplit(tmp_path) / "cat/new").mkdir()
    assert find(tmp_path, 0.2, 0).classes == ("cat", "dog")


@pytest.mark.parametrize("count", [2, 1000])
def test_there_may_be_two_to_a_thousand_classes(tmp_path: Path, count: int) -> None:
    names = [f"group{i % 7}/{i:04}" for i in range(count)]
    touch(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(2)))
    found = find(tmp_path, 0.5, seed=0)
    assert found.classes == tuple(sorted(names))
    assert [label for _, label in found.val] == list(range(count))


def test_masks_are_paired_by_the_names_of_their_images(presplit: Path) -> None:
    before = find(presplit, 0.2, 0)
    touch(presplit, "masks/train/cat/2.PNG", "masks/val/dog/c.bmp", "masks/Thumbs.db")
    found = find(presplit, 0.2, 0)
    assert found[:4] == before[:4] and before.masks == {}
    expected = {
        "train/cat/2.png": "masks/train/cat/2.PNG",
        "val/dog/c.png": "masks/val/dog/c.bmp",
    }
    assert found.masks == expected
    assert found.left_out == ["1 file(s) not read, left by a system or an editor: masks/Thumbs.db"]


def test_masks_of_images_that_are_split_here_follow_them(tmp_path: Path) -> None:
    before = find(touch(unsplit(tmp_path), "pets/tom/1.png", "pets/tom/2.png"), 0.2, 0)
    touch(tmp_path, "MASKS/cat/03.png", "MASKS/pets/tom/1.png")
    found = find(tmp_path, 0.2, 0)
    assert found[:3] == before[:3] and found.classes == ("cat", "dog", "pets/tom")
    pairs = {"cat/03.png": "MASKS/cat/03.png", "pets/tom/1.png": "MASKS/pets/tom/1.png"}
    assert found.masks == pairs


def test_a_class_may_be_called_masks(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i}.png" for name in ("hats", "masks") for i in range(3)))
    found = find(tmp_path, 0.2, seed=0)
    assert found.classes == ("hats", "masks") and found.masks == {}


def test_a_mask_that_is_not_of_one_image_is_named(presplit: Path) -> None:
    lost = (
        "masks/train/cat/22.png",
        "masks/cat/2.png",
        "masks/train/dog/loose/a.png",
        "masks/2.png",
    )
    touch(presplit, *lost, "masks/train/cat/1.png", "masks/train/cat/1.bmp")
    touch(presplit, "train/dog/a.png", "masks/train/dog/a.png")
    reasons = {problem.name: problem.reason for problem in find(presplit, 0.2, 0).problems}
    assert {name for name, reason in reasons.items() if reason.startswith("a mask without")} == {
        *lost
    }
    assert reasons["masks/train/cat/1.png"] == "two masks of the image train/cat/1.png: keep one"
    assert reasons["masks/train/cat/1.bmp"] == reasons["masks/train/cat/1.png"]
    two = "a mask of two images, train/dog/a.jpg and train/dog/a.png: rename one"
    assert reasons["masks/train/dog/a.png"] == two
    assert len(reasons) == len(lost) + 3


def test_masks_beside_the_images_are_not_taken_for_images(tmp_path: Path) -> None:
    root = touch(unsplit(tmp_path), "cat/03_mask.png")
    assert find(root, 0.2, 0).problems == [Problem(STRAY, "cat/03_mask.png")]


def test_both_unicode_forms_of_a_name_are_one_class(tmp_path: Path) -> None:
    touch(tmp_path, "train/caf\u00e9/1.png", "val/cafe\u0301/1.png", "train/a/1", "val/a/1")
    found = find(tmp_path, 0.2, 0)
    assert found.classes == ("a", "caf\u00e9") and found.problems == []
    assert found.val == [("val/a/1", 0), ("val/cafe\u0301/1.png", 1)]  # as the folder spells it


AT_FAULT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no images": (
        lambda root: (root / "val/cat/3.png").rename(root / "val/cat/.hidden"),
        "val/cat",
    ),
    "no images ": (  # a folder called like an image
        lambda root: ((root / "val/cat/3.png").unlink(), (root / "val/cat/3.png").mkdir()),
        "val/cat",
    ),
    "a link to a folder, behind which DVC does not look": (
        lambda root: (
            rename("train/cat", "../cat")(root),
            link("train/cat", "../../cat")(root),
        ),
        "train/cat",
    ),
    "a link to a folder, behind which DVC does not look ": (
        link("train/cat/3.png", ".."),
        "train/cat/3.png",
    ),
    "not a file": (link("train/cat/3.png", "/nowhere/3.png"), "train/cat/3.png"),
    "not a file ": (lambda root: os.mkfifo(root / "train/cat/3.png"), "train/cat/3.png"),
    "its name has a control character": (
        lambda root: touch(root, "val/cat/a\n.png"),
        "val/cat/a\n.png",
    ),
    "its name is not UTF-8": (
        lambda root: Path(os.fsdecode(os.fsencode(root) + b"/val/cat/\xff.png")).touch(),
        "val/cat/\udcff.png",
    ),
    "two names that look alike, 'cafe\\u0301.png' and 'caf\\xe9.png': rename one": (
        lambda root: touch(root, "val/cat/caf\u00e9.png", "val/cat/cafe\u0301.png"),
        "val/cat",
    ),
}


@pytest.mark.parametrize("reason", AT_FAULT)
def test_what_is_at_fault_in_a_class_is_named_and_the_rest_still_found(
    presplit: Path, reason: str
) -> None:
    damage, name = AT_FAULT[reason]
    damage(presplit)
    found = find(presplit, 0.2, seed=0)
    assert [problem.name for problem in found.problems] == [name]
    assert found.problems[0].reason.startswith(reason.strip())
    assert found.classes == ("cat", "dog") and ("train/dog/a.jpg", 1) in found.train


def test_a_folder_that_cannot_be_read_is_named(
    presplit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(presplit, "train/cat/deep/3.png")
    entries = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "deep":  # root, who runs the tests, may read all
            raise PermissionError(13, "Permission denied", str(path))
        return entries(path)

    monkeypatch.setattr(os, "scandir", refuse)
    expected = Problem("cannot be read: Permission denied", "train/cat/deep")
    assert find(presplit, 0.2, seed=0).problems == [expected]


def names(found: Found) -> set[str]:
    return {name for name, _ in found.train + found.val}


@pytest.mark.parametrize("where", [".dvcignore", "images/.dvcignore", "images/cat/.dvcignore"])
def test_what_dvc_does_not_watch_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    root = unsplit(Path("images"))
    touch(root, "cat/x.raw", "cat/raw/1.png", "cat/kept.raw", "dog/x.raw")
    touch(tmp_path, ".dvc/config")
    Path(where).write_text("*.raw\nraw\n!kept.raw\n")
    dropped = {"cat/x.raw", "cat/raw/1.png"} | ({"dog/x.raw"} if "cat" not in where else set())
    found = find(root, 0.2, 0)
    assert {"cat/x.raw", "cat/raw/1.png", "cat/kept.raw", "dog/x.raw"} - names(found) == dropped
    line = f"{len(dropped)} file(s) not read, which DVC does not watch (.dvcignore): cat/raw, cat/x"
    assert line in found.left_out[-1]


def test_dvc_watches_every_class_folder_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rules = Path(__file__).parents[2] / ".dvcignore"
    touch(tmp_path, ".dvc/config")
    Path(".dvcignore").write_bytes(rules.read_bytes())
    names = ("gear.part", "mlartifacts", "mlflow.db", "metrics")
    touch(Path("images"), *(f"{name}/{i}.png" for name in names for i in range(2)))
    found = find(Path("images"), 0.2, 0)
    assert found.classes == ("gear.part", "metrics", "mlartifacts", "mlflow.db")
    assert found.left_out == []
