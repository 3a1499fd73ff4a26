"""Packed data sets: what is written is read, what is broken refused, what is held out fair."""

import dataclasses
import json
import random
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from abn.data import packed
from abn.data.packed import Split, Writer
from abn.runtime.errors import UserError
from tests import toys
from tests.damage import damaged


def tensors(split: Split) -> dict[str, Tensor]:
    found = {"images": split.images, "labels": split.labels, "aspect": split.aspect}
    return found if split.masks is None else found | {"masks": split.masks}


def same(one: Split, other: Split) -> bool:
    ours, theirs = tensors(one), tensors(other)
    return ours.keys() == theirs.keys() and all(ours[n].equal(theirs[n]) for n in ours)


def copied(split: Split) -> Split:
    return split.take(torch.arange(len(split)))


@pytest.fixture
def split() -> Split:
    return dataclasses.replace(toys.split(), aspect=torch.linspace(0.5, 2, 40))


@pytest.fixture
def file(tmp_path: Path, split: Split) -> Path:
    return toys.pack(tmp_path / "train.safetensors", split)


def test_what_is_written_is_read(file: Path, split: Split) -> None:
    found = packed.read(file)
    assert same(found, split)
    assert (found.classes, found.source, len(found)) == (split.classes, "toys", 40)
    assert found.files == split.files == tuple(f"toy/{i}" for i in range(40))
    assert found.images.dtype == torch.uint8 and found.aspect.dtype == torch.float32
    assert list(file.parent.iterdir()) == [file]


def test_without_masks_there_are_none(tmp_path: Path, split: Split) -> None:
    bare = dataclasses.replace(split, masks=None)
    assert same(packed.read(toys.pack(tmp_path / "bare.safetensors", bare)), bare)


@pytest.mark.skipif(sys.platform != "linux", reason="writes a file with a hole")
def test_a_file_larger_than_the_machines_memory_is_read(tmp_path: Path) -> None:
    """ImageNet takes 193 GB at 224 px. What is only mapped needs no memory."""
    side, memory = 4096, psutil.virtual_memory().total + psutil.swap_memory().total
    count = 3 * memory // 2 // (side * side * 3)
    names = "\0".join(map(str, range(count))).encode()
    shapes = {"labels": (count,), "aspect": (count,), "images": (count, side, side, 3)}
    shapes["files"] = (len(names),)
    meta = {"classes": ["a"], "source": "a hole", "digest": "0" * 64}
    header, offsets, size = packed._header(shapes, meta)
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(size)  # zeros that take no room on the disk
        for name, content in (("aspect", np.ones(count, "<f4").tobytes()), ("files", names)):
            file.seek(offsets[name])
            file.write(content)
    found = packed.read(tmp_path / "large.safetensors")
    assert found.images.nbytes > memory and len(found) == count
    assert not found.images[count - 1, side - 1].any()


def test_masks_that_are_no_bytes_are_not_taken_for_none(tmp_path: Path, file: Path) -> None:
    tensors = load_file(file) | {"masks": torch.zeros(40, 32, 32)}
    with safe_open(file, "pt") as opened:
        save_file(tensors, tmp_path / "odd.safetensors", opened.metadata())
    with pytest.raises(UserError, match="masks that are no bytes"):
        packed.read(tmp_path / "odd.safetensors")


HAVE = torch.arange(40) % 3 == 0  # the images that have a mask


@pytest.fixture
def partly(split: Split) -> Split:
    """`split`, of whose images only some have a mask."""
    assert split.masks is not None
    masks = split.masks * HAVE[:, None, None]
    return dataclasses.replace(split, masks=masks, masked=HAVE)


def packed_partly(path: Path, split: Split) -> Split:
    """`split`, of whose images those in HAVE have a mask, as it is read back."""
    writer = Writer(path, split.files, 32, split.classes, "toys", HAVE.tolist())
    for sample, known in zip(toys.samples(split), HAVE.tolist(), strict=True):
        writer.add(sample if known else sample._replace(mask=None))
    writer.close()
    assert writer.size == path.stat().st_size
    return packed.read(path)


def test_where_only_some_images_have_a_mask_it_is_known_which(
    tmp_path: Path, split: Split, partly: Split
) -> None:
    found = packed_partly(tmp_path / "partly.safetensors", split)
    assert same(found, partly) and found.has_mask.equal(HAVE)
    assert split.has_mask.all() and not split.without_masks().has_mask.any()
    assert not found.without_masks().has_mask.any()


def test_it_is_known_in_every_part_of_a_split_too(partly: Split) -> None:
    rows = torch.tensor([0, 1, 3, 5, 6, 6])
    expected = [True, False, True, False, True, True]
    assert partly.subset(rows).has_mask.tolist() == expected
    assert partly.subset(torch.arange(40).flip(0)).take(39 - rows).has_mask.tolist() == expected
    assert partly.subset(rows).to(toys.CPU).has_mask.tolist() == expected
    rest, held = packed.hold_out(partly, partly, 0.25, seed=0)
    assert int(rest.has_mask.sum() + held.has_mask.sum()) == int(HAVE.sum())


def test_masks_of_all_or_none_need_no_more_in_the_file(
    tmp_path: Path, file: Path, split: Split
) -> None:
    for name, masks in (("all", [True] * 40), ("none", [False] * 40)):
        path = tmp_path / f"{name}.safetensors"
        writer = Writer(path, split.files, 32, split.classes, "toys", masks)
        for sample in toys.samples(split):
            writer.add(sample)
        writer.close()
        assert packed.read(path).masked is None
    assert (tmp_path / "all.safetensors").read_bytes() == file.read_bytes()
    assert packed.read(path).masks is None


def test_the_same_samples_give_the_same_bytes(tmp_path: Path, file: Path, split: Split) -> None:
    assert toys.pack(tmp_path / "new/again.safetensors", split).read_bytes() == file.read_bytes()


def test_any_name_of_a_file_is_kept_and_the_digest_is_that_of_the_pictures_alone(
    tmp_path: Path, file: Path, split: Split
) -> None:
    names = ("a b\n.png", "\u732b/\u00e9.png", "e\u0301", "x" * 3000, *split.files[4:])
    renamed = dataclasses.replace(split, files=names)
    found = packed.read(toys.pack(tmp_path / "renamed.safetensors", renamed))
    assert found.files == names
    assert found.digest == packed.read(file).digest


@pytest.mark.parametrize("name", ["images", "labels", "aspect", "masks"])
def test_one_changed_value_changes_the_digest(tmp_path: Path, split: Split, name: str) -> None:
    changed = split.take(torch.arange(40))
    tensors(changed)[name][8] += 1
    first, second = (
        packed.read(toys.pack(tmp_path / f"{i}.safetensors", s))
        for i, s in enumerate((split, changed))
    )
    assert first.digest != second.digest
    assert len(first.digest) == 64


def test_an_interrupted_write_leaves_the_former_file(file: Path, split: Split) -> None:
    before = file.read_bytes()
    for path in (file, file.with_name("new.safetensors")):
        writer = Writer(path, split.files, 32, split.classes, "toys", masks=True)
        writer.add(next(toys.samples(split)))
        writer.file.close()  # as the system does when the process is gone
    assert file.read_bytes() == before
    assert not path.exists()


@pytest.mark.parametrize("count", [39, 41])
def test_another_number_of_samples_than_announced_leaves_the_former_file(
    file: Path, split: Split, count: int
) -> None:
    before = file.read_bytes()
    writer = Writer(file, ["name"] * count, 32, split.classes, "toys", masks=True)
    for sample in toys.samples(split):
        writer.add(sample)
    with pytest.raises(ValueError, match=f"^40 samples were added, not {count}$"):
        writer.close()
    writer.file.close()
    assert file.read_bytes() == before


def test_the_size_of_a_file_is_known_at_once_and_one_given_up_leaves_nothing(
    file: Path, split: Split
) -> None:
    writer = Writer(file.with_name("x"), split.files, 32, split.classes, "toys", masks=True)
    assert writer.size == file.stat().st_size
    writer.add(next(toys.samples(split)))
    assert writer.part.exists()
    writer.discard()
    assert list(file.parent.iterdir()) == [file]


def test_a_missing_file_is_refused_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^not found; .*train\.safetensors; run `dvc repro download`"
    ):
        packed.read(tmp_path / "train.safetensors")


def foreign(path: Path) -> None:
    save_file({"images": torch.zeros(1)}, path)


def header(path: Path, **changes: object) -> None:
    """`path` again, with another header of its own."""
    about = {"classes": toys.NAMES, "source": "toys", "digest": ""} | changes
    save_file(load_file(path), path.with_name("new"), {"abn": json.dumps(about)})
    path.with_name("new").replace(path)


def tensor(path: Path, name: str, value: Tensor) -> None:
    save_file(load_file(path) | {name: value}, path.with_name("new"), {"abn": "{}"})
    path.with_name("new").replace(path)
    header(path)


def without_names(path: Path) -> None:
    """As packed before images had names."""
    kept = {name: value for name, value in load_file(path).items() if name != "files"}
    save_file(kept, path.with_name("new"), {"abn": "{}"})
    path.with_name("new").replace(path)
    header(path)


BROKEN = {
    "of a former version, without names": without_names,
    "fewer names": lambda path: tensor(path, "files", torch.zeros(38, dtype=torch.uint8)),
    "names that are not UTF-8": lambda path: tensor(
        path, "files", torch.full((79,), 255, dtype=torch.uint8)
    ),
    "deep in brackets": lambda path: save_file(load_file(path), path, {"abn": "[" * 100_000}),
    "labels of another type": lambda path: tensor(path, "labels", torch.zeros(40)),
    "no aspect": lambda path: tensor(path, "aspect", torch.full((40,), float("nan"))),
    "labels without a class": lambda path: header(path, classes=["red"]),
    "no classes": lambda path: header(path, classes=None),
    "a header that is not JSON": lambda path: save_file(load_file(path), path, {"abn": "{"}),
    "fewer labels": lambda path: tensor(path, "labels", torch.zeros(39, dtype=torch.int64)),
    "flat images": lambda path: tensor(path, "images", torch.zeros(40, dtype=torch.uint8)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "cut in the tensors": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "other tensors": foreign,
    "a checkpoint": lambda path: save_file({"fc": torch.zeros(1)}, path, {"abn": "{}"}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_another_file_is_refused_in_one_line(file: Path, how: str) -> None:
    BROKEN[how](file)
    with pytest.raises(
        UserError, match=r"^not a packed .*train\.safetensors; delete it and run `dvc"
    ) as error:
        packed.read(file)
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_a_split_that_fits_together_or_one_line(
    tmp_path: Path, file: Path
) -> None:
    sound, path = file.read_bytes(), tmp_path / "damaged.safetensors"
    end = 8 + int.from_bytes(sound[:8], "little")
    for seed in range(150):
        draws = random.Random(seed)
        header = damaged(sound[8:end], draws, 3)
        path.write_bytes(len(header).to_bytes(8, "little") + header + sound[end:])
        if draws.random() < 0.3:
            path.write_bytes(damaged(sound, draws, 4))
        try:
            read = packed.read(path)
        except UserError as error:
            assert error.line().isprintable() and len(error.line()) < 1000
        else:
            count, side = read.images.shape[:2]
            assert read.images.shape == (count, side, side, 3)
            assert len(read.labels) == len(read.aspect) == count
            assert all(0 <= label < len(read.classes) for label in read.labels.tolist())
            assert (read.aspect > 0).all() and read.aspect.isfinite().all()


def test_samples_are_taken_by_index_as_copies(split: Split) -> None:
    part = split.take(torch.tensor([3, 1]))
    assert part.images.equal(split.images[[3, 1]]) and part.masks.equal(split.masks[[3, 1]])
    assert part.files == ("toy/3", "toy/1")
    part.images.zero_()
    assert split.images[3].any()


def test_a_subset_also_of_a_subset_has_its_own_samples_and_copies_no_image(split: Split) -> None:
    part = split.subset(torch.tensor([5, 3, 8, 1]))
    assert part.images.data_ptr() == split.images.data_ptr() and part.masks is split.masks
    assert len(part) == 4 and part.labels.equal(split.labels[[5, 3, 8, 1]])
    assert same(part.take(torch.tensor([3, 0])), split.take(torch.tensor([1, 5])))
    again = part.subset(torch.tensor([2, 1]))
    assert again.rows is not None and again.rows.tolist() == [8, 3]
    assert again.files == copied(again).files == ("toy/8", "toy/3")
    assert same(copied(again), split.take(torch.tensor([8, 3])))


def test_a_subset_moves_to_a_device_with_its_own_samples_and_masks(split: Split) -> None:
    index = torch.tensor([5, 3])
    moved = split.subset(index).to(toys.CPU)
    assert same(moved, split.take(index)) and moved.rows is None
    assert same(split.to(toys.CPU), split)
    bare = dataclasses.replace(split, masks=None)
    assert same(bare.subset(index).to(toys.CPU), bare.take(index))


def test_without_a_share_nothing_is_held_out() -> None:
    train, val = toys.split(), toys.split(8, seed=1)
    kept, held = packed.hold_out(train, val, 0.0, seed=0)
    assert kept is train and held is val


def test_a_share_of_every_class_is_held_out_and_nothing_lost_or_copied() -> None:
    split = toys.split()
    train, held = packed.hold_out(split, toys.split(8), 0.2, seed=0)
    assert held.labels.bincount().tolist() == [2] * 4
    assert train.labels.bincount().tolist() == [8] * 4
    images = torch.cat([copied(train).images, copied(held).images]).flatten(1)
    assert len(images) == 40
    assert images.unique(dim=0).equal(split.images.flatten(1).unique(dim=0))
    assert all(part.images.data_ptr() == split.images.data_ptr() for part in (train, held))


def test_what_is_held_out_depends_on_the_seed_alone() -> None:
    first, again, other = (
        copied(packed.hold_out(toys.split(), toys.split(8), 0.2, s)[1]) for s in (0, 0, 1)
    )
    assert same(first, again)
    assert not same(first, other)


def test_a_share_too_small_to_hold_anything_out_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"no image to hold out; data\.holdout = 0\.01; give a larger share"
    ):
        packed.hold_out(toys.split(), toys.split(8), 0.01, seed=0)
