"""Finding a folder's images: both layouts, a fair split, and every gap named."""

from pathlib import Path

import pytest

from abn.datasets.folder import find
from abn.runtime.errors import UserError


def touch(root: Path, *names: str) -> Path:
    """`root` with empty files; what they hold is seen when they are decoded."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def flat(root: Path, count: int = 10) -> Path:
    """ROOT/CLASS/* with `count` images of cats and twice as many of dogs."""
    cats = [f"cat/{i:02}.png" for i in range(count)]
    dogs = [f"dog/{i:02}.png" for i in range(2 * count)]
    return touch(root, *cats, *dogs)


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """ROOT/{train,val}/CLASS/*, made in no order."""
    train = ("train/dog/b.png", "train/dog/a.jpg", "train/cat/deep/er/1.png", "train/cat/2.png")
    return touch(tmp_path, *train, "val/dog/c.png", "val/cat/3.png")


def test_train_and_val_are_taken_as_they_are_in_alphabetical_order(ready: Path) -> None:
    classes, train, val = find(ready, 0.2, seed=0)
    assert classes == ("cat", "dog")
    names = [(path.relative_to(ready / "train").as_posix(), label) for path, label in train]
    assert names == [("cat/2.png", 0), ("cat/deep/er/1.png", 0), ("dog/a.jpg", 1), ("dog/b.png", 1)]
    assert val == [(ready / "val/cat/3.png", 0), (ready / "val/dog/c.png", 1)]


def test_without_train_and_val_a_share_of_every_class_is_drawn(tmp_path: Path) -> None:
    classes, train, val = find(flat(tmp_path), 0.2, seed=0)
    assert classes == ("cat", "dog")
    assert [label for _, label in val] == [0] * 2 + [1] * 4
    assert [label for _, label in train] == [0] * 8 + [1] * 16
    assert train == sorted(train) and val == sorted(val)
    assert sorted(train + val) == sorted((p, p.parent.name == "dog") for p in tmp_path.rglob("*.*"))


def test_the_draw_depends_on_the_seed_alone(tmp_path: Path) -> None:
    flat(tmp_path)
    first, again, other = (find(tmp_path, 0.2, seed) for seed in (0, 0, 1))
    assert first == again
    assert first[2] != other[2]


@pytest.mark.parametrize("split", [True, False], ids=["train and val", "classes alone"])
def test_the_order_of_directory_entries_changes_nothing(
    ready: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    split: bool,
) -> None:
    root, entries = ready if split else flat(tmp_path_factory.mktemp("flat")), Path.iterdir

    def found(backwards: bool) -> object:
        order = lambda path: iter(sorted(entries(path), reverse=backwards))  # noqa: E731
        monkeypatch.setattr(Path, "iterdir", order)
        return find(root, 0.2, seed=0)

    assert found(backwards=True) == found(backwards=False)


def test_a_copy_elsewhere_is_split_alike(tmp_path: Path) -> None:
    vals = (find(flat(tmp_path / name), 0.2, 0)[2] for name in ("here", "there"))
    first, second = ([(p.parent.name, p.name) for p, _ in val] for val in vals)
    assert first == second


def test_at_least_one_image_of_each_class_is_drawn(tmp_path: Path) -> None:
    _, train, val = find(flat(tmp_path, 2), 0.01, seed=0)
    assert [label for _, label in val] == [0, 1]
    assert len(train) == 4


def test_what_systems_leave_behind_is_ignored(ready: Path) -> None:
    before = find(ready, 0.2, 0)
    touch(ready, ".DS_Store", "train/.hidden/x.png", "train/cat/.DS_Store", "val/dog/Thumbs.db")
    touch(ready, "train/cat/.ipynb_checkpoints/2.png", "train/readme.txt")
    assert find(ready, 0.2, 0) == before


def test_a_root_below_a_hidden_folder_is_as_good_as_any(tmp_path: Path) -> None:
    _, train, val = find(flat(tmp_path / ".cache/images"), 0.2, seed=0)
    assert len(train + val) == 30


def refused(root: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        find(root, 0.2, seed=0)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone", r"no such folder; .*gone; correct data\.root")


def test_a_folder_without_two_classes_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, r"0 class folder\(s\), at least 2 needed; .*; see data\.root")
    refused(touch(tmp_path, "cat/1.png"), r"1 class folder\(s\), at least 2 needed")


def test_a_class_without_images_is_refused_by_name(ready: Path) -> None:
    (ready / "val/dog/c.png").unlink()
    touch(ready, "val/dog/.DS_Store")
    refused(ready, r"no images; .*val/dog; add some or remove the folder")


def test_a_class_on_one_side_alone_is_refused_by_name(ready: Path) -> None:
    touch(ready, "val/bird/1.png")
    refused(ready, r"class 'bird' is not in both train/ and val/; .*; add it there")


@pytest.mark.parametrize(("name", "other"), [("train", "val"), ("val", "train")])
def test_half_of_a_split_is_not_taken_for_classes(ready: Path, name: str, other: str) -> None:
    (ready / other).rename(ready / "elsewhere")
    refused(ready, rf"{name}/ holds folders, but there is no {other}/; .*; add it")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    images = [f"{name}/{i}.png" for name in ("car", "train") for i in range(3)]
    assert find(touch(tmp_path, *images), 0.2, seed=0)[0] == ("car", "train")


def test_a_class_too_small_to_split_is_refused_by_name(tmp_path: Path) -> None:
    refused(
        touch(flat(tmp_path), "bird/1.png"), r"1 image\(s\), too few to split; .*bird; add more"
    )
