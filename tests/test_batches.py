"""Batches: what an epoch shows of a split, and how an image is looked at without chance."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from abn import batches
from abn.batches import View
from abn.data import Split
from abn.params import Params, Train
from tests import toys
from tests.toys import CPU, TINTS, WHOLE


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, batch_size=9, flip=False, crop_scale=(0.6, 1.0))


def numbered(count: int = 40) -> Split:
    """Images whose labels are their places."""
    return dataclasses.replace(toys.split(count), labels=torch.arange(count))


def shaded(count: int = 40) -> Split:
    """Images that are black on the left and white on the right."""
    images = torch.zeros(count, 32, 32, 3, dtype=torch.uint8)
    images[:, :, 16:] = 255
    return dataclasses.replace(toys.split(count), images=images)


def epoch(split: Split, config: Train, number: int = 0, seed: int = 0, size: int = 32) -> Any:
    """The images and labels of one epoch."""
    shown = list(batches.training(split, config, size, seed, number, CPU))
    return (torch.cat(column) for column in zip(*shown, strict=True))


def brighter_right(images: Tensor) -> Tensor:
    left, right = images.mean(dim=(1, 2)).chunk(2, dim=1)
    return right.mean(1) > left.mean(1)


def test_an_epoch_shows_no_image_twice_and_drops_a_short_tail(config: Train) -> None:
    _, shown = epoch(numbered(), config)
    assert len(shown) == 36 == len(shown.unique())
    assert [len(b.labels) for b in batches.training(numbered(), config, 32, 0, 0, CPU)] == [9] * 4


def test_a_split_smaller_than_a_batch_is_one_batch(config: Train) -> None:
    _, shown = epoch(numbered(5), config)
    assert sorted(shown.tolist()) == [0, 1, 2, 3, 4]


def test_an_epoch_repeats_bit_for_bit(config: Train) -> None:
    for first, again in zip(epoch(numbered(), config), epoch(numbered(), config), strict=True):
        assert first.equal(again)


@pytest.mark.parametrize("key", [{"number": 1}, {"seed": 1}])
def test_epoch_and_seed_each_change_order_and_crops(config: Train, key: dict[str, int]) -> None:
    images, order = epoch(numbered(36), config)
    other_images, other_order = epoch(numbered(36), config, **key)
    assert not order.equal(other_order)
    assert not images[order.argsort()].equal(other_images[other_order.argsort()])


def test_every_image_has_a_crop_of_its_own(config: Train) -> None:
    alike = toys.split(36).take(torch.zeros(36, dtype=torch.int64))
    images, _ = epoch(alike, config)
    assert len(images.flatten(1).unique(dim=0)) == 36


def test_image_and_label_stay_together(config: Train) -> None:
    images, labels = epoch(toys.split(), config)
    distance = torch.cdist(images.mean((2, 3)), TINTS / 255)
    assert distance.argmin(1).equal(labels)


def test_images_are_floats_from_0_to_1_at_the_asked_size_channels_last(config: Train) -> None:
    images, labels = next(batches.training(toys.split(), config, 24, 0, 0, CPU))
    assert images.shape == (9, 3, 24, 24) and images.dtype == torch.float32
    assert images.min() >= 0 and 0.5 < images.max() <= 1
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_without_flip_no_image_is_mirrored(config: Train) -> None:
    images, _ = epoch(shaded(36), config)
    assert brighter_right(images).all()


def test_with_flip_about_half_are_mirrored(config: Train, changed: Callable[..., Train]) -> None:
    images, _ = epoch(shaded(900), changed(config, flip=True))
    assert 0.45 < brighter_right(images).float().mean() < 0.55


def test_evaluation_shows_every_image_once_and_in_order() -> None:
    split = toys.split()
    shown = list(batches.evaluation(split, WHOLE, 9, CPU))
    assert [len(batch.labels) for batch in shown] == [9, 9, 9, 9, 4]
    images, labels = (torch.cat(column) for column in zip(*shown, strict=True))
    assert labels.equal(split.labels)
    torch.testing.assert_close(images, split.images.permute(0, 3, 1, 2) / 255)
    assert shown[0].images.is_contiguous(memory_format=torch.channels_last)


def test_mirrored_evaluation_turns_left_and_right_around() -> None:
    (plain,) = batches.evaluation(toys.split(), WHOLE, 40, CPU)
    (mirrored,) = batches.evaluation(toys.split(), WHOLE, 40, CPU, mirrored=True)
    torch.testing.assert_close(mirrored.images, plain.images.flip(3))


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_a_view_is_the_central_square_of_the_original(aspect: float) -> None:
    height, width = min(aspect, 1) / 2, min(1 / aspect, 1) / 2  # shares of the squashed canvas
    rows, columns = round(64 * height), round(64 * width)
    canvas = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    top, left = (64 - rows) // 2, (64 - columns) // 2
    canvas[:, top : top + rows, left : left + columns] = 0
    seen = batches.through(canvas, torch.tensor([aspect]), View(16, 32))[0, 0]
    assert not seen[1:-1, 1:-1].any()  # the rim is interpolated
    wider = batches.through(canvas, torch.tensor([aspect]), View(16, 24))[0, 0]
    assert wider[0].all() and wider[:, 0].all()


def test_on_the_cpu_a_split_stays_as_it_is() -> None:
    split = toys.split(4)
    assert batches.place(split, CPU) is split
