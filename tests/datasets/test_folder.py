"""Finding a folder's images: both layouts, a fair split, and every gap named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from abn.datasets.folder import find
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
    train = ("train/dog/b.png", "train/dog/a.jpg", "train/cat/deep/er/1.png", "train/cat/2.png")
    return touch(tmp_path / "images", *train, "val/dog/c.png", "val/cat/3.png")


def test_train_and_val_are_taken_as_they_are_in_alphabetical_order(presplit: Path) -> None:
    classes, train, val = find(presplit, 0.2, seed=0)
    assert classes == ("cat", "dog")
    names = [(path.relative_to(presplit / "train").as_posix(), label) for path, label in train]
    assert names == [("cat/2.png", 0), ("cat/deep/er/1.png", 0), ("dog/a.jpg", 1), ("dog/b.png", 1)]
    assert val == [(presplit / "val/cat/3.png", 0), (presplit / "val/dog/c.png", 1)]


def test_without_train_and_val_a_share_of_every_class_is_drawn(tmp_path: Path) -> None:
    classes, train, val = find(unsplit(tmp_path), 0.2, seed=0)
    assert classes == ("cat", "dog")
    assert [label for _, label in val] == [0] * 2 + [1] * 4
    assert [label for _, label in train] == [0] * 8 + [1] * 16
    assert train == sorted(train) and val == sorted(val)
    assert sorted(train + val) == sorted((p, p.parent.name == "dog") for p in tmp_path.rglob("*.*"))


def test_the_draw_depends_on_the_seed_but_not_on_the_place(tmp_path: Path) -> None:
    def drawn(name: str, seed: int) -> list[tuple[str, str]]:
        _, _, val = find(unsplit(tmp_path / name), 0.2, seed)
        return [(path.parent.name, path.name) for path, _ in val]

    assert drawn(".cache/here", 0) == drawn("there", 0) != drawn("there", 1)


@pytest.mark.parametrize("split", [True, False], ids=["train and val", "classes alone"])
def test_the_order_of_directory_entries_changes_nothing(
    presplit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    root, entries = presplit if split else unsplit(tmp_path / "unsplit"), Path.iterdir

    def found(backwards: bool) -> object:
        order = lambda path: iter(sorted(entries(path), reverse=backwards))  # noqa: E731
        monkeypatch.setattr(Path, "iterdir", order)
        return find(root, 0.2, seed=0)

    assert found(backwards=True) == found(backwards=False)


def test_what_systems_leave_behind_is_ignored(presplit: Path) -> None:
    before = find(presplit, 0.2, 0)
    touch(presplit, ".DS_Store", "train/.hidden/x.png", "train/cat/.DS_Store", "val/dog/Thumbs.db")
    touch(presplit, "train/cat/.ipynb_checkpoints/2.png", "train/readme.txt")
    assert find(presplit, 0.2, 0) == before


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    images = [f"{name}/{i}.png" for name in ("car", "train") for i in range(3)]
    assert find(touch(tmp_path, *images), 0.2, seed=0)[0] == ("car", "train")


def rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / old).rename(root / new)


def link(name: str, target: str) -> Callable[[Path], object]:
    return lambda root: (root / name).symlink_to(target)


def in_both(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: [change(root / split) for split in ("train", "val")]


NOT_A_FILE = "not a file: a pipe, a device, a link to a folder or a broken link; ROOT/train/cat/"
GAPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (rename("", "../gone"), "no such folder; ROOT; correct data.root"),
    "a link to itself": (
        lambda root: (root.rename(root.with_name("gone")), root.symlink_to(root)),
        "no such folder",
    ),
    "no val/": (rename("val", "../gone"), "train/ holds folders, but there is no val/; ROOT; add"),
    "Train/": (rename("train", "Train"), "val/ holds folders, but there is no train/"),
    "a class missing in val/": (rename("val/cat", "../gone"), "1 class folder(s), at least 2"),
    "a class renamed in val/": (rename("val/cat", "val/kat"), "class 'cat' is not in both train/"),
    "a class more in val/": (lambda root: (root / "val/bird").mkdir(), "class 'bird' is not in"),
    "an empty class": (
        lambda root: (root / "val/cat/3.png").rename(root / "val/cat/.hidden"),
        "no images; ROOT/val/cat; add some or remove the folder",
    ),
    "a folder called like an image": (
        lambda root: ((root / "val/cat/3.png").unlink(), (root / "val/cat/3.png").mkdir()),
        "no images; ROOT/val/cat",
    ),
    "no classes": (in_both(rename("dog", "cat/dog")), "1 class folder(s), at least 2 needed"),
    "a class whose name has a line break": (
        in_both(rename("cat", "c\nt")),
        r"class 'c\nt' has a name that cannot be shown; ROOT/train; rename it",
    ),
    "a link in circles": (link("train/cat/3.png", ".."), NOT_A_FILE),
    "a broken link": (link("train/cat/3.png", "/nowhere/3.png"), NOT_A_FILE),
    "a pipe": (lambda root: os.mkfifo(root / "train/cat/3.png"), NOT_A_FILE),
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
    assert [label for _, label in find(unsplit(tmp_path, 2), 0.01, seed=0)[2]] == [0, 1]
    with pytest.raises(DataError, match=r"^1 image\(s\), too few to split; .*bird; add more"):
        find(touch(unsplit(tmp_path), "bird/1.png"), 0.2, seed=0)


def test_a_folder_that_cannot_be_read_is_named(
    presplit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = Path.iterdir

    def refuse(path: Path) -> object:
        if path.name == "deep":  # root, who runs the tests, may read all
            raise PermissionError(13, "Permission denied", str(path))
        return entries(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"^cannot be read: Permission denied; .*/deep; check its"):
        find(presplit, 0.2, seed=0)
