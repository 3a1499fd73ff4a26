"""Packed data sets: what is written is read, what is broken refused, what is held out fair."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from abn import data
from abn.data import Sample, Split
from abn.errors import UserError
from tests import toys


def samples(split: Split) -> Iterator[Sample]:
    for i in range(len(split)):
        mask = None if split.masks is None else split.masks[i].numpy()
        yield Sample(
            split.images[i].numpy(), int(split.labels[i]), float(split.aspect[i]), mask=mask
        )


def pack(path: Path, split: Split) -> Path:
    size, masks = split.images.shape[1], split.masks is not None
    data.write(path, samples(split), len(split), size, split.classes, split.source, masks)
    return path


def tensors(split: Split) -> dict[str, Tensor]:
    found = {"images": split.images, "labels": split.labels, "aspect": split.aspect}
    return found if split.masks is None else found | {"masks": split.masks}


def same(one: Split, other: Split) -> bool:
    ours, theirs = tensors(one), tensors(other)
    return ours.keys() == theirs.keys() and all(ours[n].equal(theirs[n]) for n in ours)


@pytest.fixture
def split() -> Split:
    return dataclasses.replace(toys.split(), aspect=torch.linspace(0.5, 2, 40))


@pytest.fixture
def packed(tmp_path: Path, split: Split) -> Path:
    return pack(tmp_path / "train.safetensors", split)


def test_what_is_written_is_read(packed: Path, split: Split) -> None:
    found = data.read(packed)
    assert same(found, split)
    assert (found.classes, found.source, len(found)) == (split.classes, "toys", 40)
    assert found.images.dtype == torch.uint8 and found.aspect.dtype == torch.float32
    assert list(packed.parent.iterdir()) == [packed]


def test_without_masks_there_are_none(tmp_path: Path, split: Split) -> None:
    bare = dataclasses.replace(split, masks=None)
    assert same(data.read(pack(tmp_path / "bare.safetensors", bare)), bare)


def test_the_file_is_a_safetensors_file_like_any_other(packed: Path, split: Split) -> None:
    found = load_file(packed)
    assert found.keys() == tensors(split).keys()
    assert all(found[name].equal(tensor) for name, tensor in tensors(split).items())


def test_the_same_samples_give_the_same_bytes(tmp_path: Path, packed: Path, split: Split) -> None:
    assert pack(tmp_path / "new/again.safetensors", split).read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("name", ["images", "labels", "aspect", "masks"])
def test_the_digest_tells_one_changed_value(tmp_path: Path, split: Split, name: str) -> None:
    changed = split.take(torch.arange(40))
    tensors(changed)[name][7] += 1
    first, second = (
        data.read(pack(tmp_path / f"{i}.safetensors", s)) for i, s in enumerate((split, changed))
    )
    assert first.digest != second.digest
    assert len(first.digest) == 64


def test_an_interrupted_write_leaves_the_former_file(packed: Path, split: Split) -> None:
    def interrupted() -> Iterator[Sample]:
        yield next(samples(split))
        raise KeyboardInterrupt

    before = packed.read_bytes()
    for path in (packed, packed.with_name("new.safetensors")):
        with pytest.raises(KeyboardInterrupt):
            data.write(path, interrupted(), 40, 32, split.classes, "toys", masks=True)
    assert packed.read_bytes() == before
    assert not path.exists()


def test_a_missing_file_is_refused_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.safetensors: not found; run `dvc repro download`"):
        data.read(tmp_path / "train.safetensors")


def foreign(path: Path) -> None:
    save_file({"images": torch.zeros(1)}, path)


BROKEN = {
    "cut in the tensors": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("<html>not found</html>"),
    "other tensors": foreign,
    "a checkpoint": lambda path: save_file({"fc": torch.zeros(1)}, path, {"abn": "{}"}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_another_file_is_refused_in_one_line(packed: Path, how: str) -> None:
    BROKEN[how](packed)
    with pytest.raises(UserError, match=r"train\.safetensors: not a packed .*; delete it") as error:
        data.read(packed)
    assert "\n" not in str(error.value)


def test_samples_are_taken_by_index_as_copies(split: Split) -> None:
    part = split.take(torch.tensor([3, 1]))
    assert part.images.equal(split.images[[3, 1]]) and part.masks.equal(split.masks[[3, 1]])
    part.images.zero_()
    assert split.images[3].any()


def test_a_network_for_other_classes_is_refused(split: Split) -> None:
    data.check_classes(split, split.classes)
    for others in (split.classes[::-1], split.classes[:3]):
        with pytest.raises(UserError, match="classes red, blue, green, yellow, but"):
            data.check_classes(split, others)


def test_without_a_share_nothing_is_held_out() -> None:
    train, val = toys.split(), toys.split(8, seed=1)
    kept, watched = data.hold_out(train, val, 0.0, seed=0)
    assert kept is train and watched is val


def test_a_share_of_every_class_is_held_out_and_nothing_lost() -> None:
    split = toys.split()
    train, held = data.hold_out(split, toys.split(8), 0.2, seed=0)
    assert held.labels.bincount().tolist() == [2] * 4
    assert train.labels.bincount().tolist() == [8] * 4
    images = torch.cat([train.images, held.images]).flatten(1)
    assert len(images) == 40
    assert images.unique(dim=0).equal(split.images.flatten(1).unique(dim=0))


def test_what_is_held_out_depends_on_the_seed_alone() -> None:
    first, again, other = (data.hold_out(toys.split(), toys.split(8), 0.2, s)[1] for s in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


def test_a_share_too_small_to_hold_anything_out_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"data\.holdout = 0\.01 holds out not one image; give a larger share"
    ):
        data.hold_out(toys.split(), toys.split(8), 0.01, seed=0)
