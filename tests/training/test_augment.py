"""Training batches: order, crops, flips, colours, holes and mixes, each drawn independently."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from abn.config.params import Params, Train
from abn.data.loader import Batch
from abn.data.packed import Split
from abn.runtime.rng import generator
from abn.training import augment, trivial
from abn.training.augment import Mix
from abn.training.distributed import World
from tests import toys
from tests.toys import CPU, TINTS

GPU = pytest.param(
    torch.device("cuda"),
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
)
SCALE = (0.08, 1.0)
ONES = torch.ones(100)
OFF: dict[str, Any] = {"jitter": 0.0, "trivial": 0.0, "erase": 0.0}
OFF |= {"mixup": 0.0, "cutmix": 0.0, "mix_share": 0.0}
MIXUP: dict[str, Any] = {"mixup": 1.0, "mix_share": 1.0, "mix_until": 1.0}
CUTMIX: dict[str, Any] = {"cutmix": 1.0, "mix_share": 1.0, "mix_until": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alternating": {"flip": "alternating"},
    "jitter": {"jitter": 0.4},
    "trivial": {"trivial": 1.0},
    "erase": {"erase": 1.0},
    "mixup": MIXUP,
    "cutmix": CUTMIX,
    "all": {"flip": "alternating", "jitter": 0.4, "trivial": 0.5, "erase": 0.5} | MIXUP | CUTMIX,
}


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, batch_size=9, flip=False, crop_scale=(0.6, 1.0), **OFF)


def numbered(split: Split) -> Split:
    """`split` with every image a class of its own, so that a label tells which image it is."""
    everyone = torch.arange(len(split))
    classes = tuple(str(number) for number in everyone.tolist())
    return dataclasses.replace(split, labels=everyone, classes=classes)


def shaded(count: int) -> Split:
    """Numbered images that are black on the left and white on the right."""
    images = torch.zeros(count, 32, 32, 3, dtype=torch.uint8)
    images[:, :, 16:] = 255
    return numbered(dataclasses.replace(toys.split(count), images=images))


def flat(count: int, grey: int = 100) -> Split:
    """Numbered images of one grey, on which crops and flips do not show."""
    images = torch.full((count, 32, 32, 3), grey, dtype=torch.uint8)
    return numbered(dataclasses.replace(toys.split(count), images=images))


def epoch(
    split: Split, config: Train, number: int = 0, seed: int = 0, size: int = 32
) -> tuple[Tensor, Tensor]:
    """The images and targets of one epoch."""
    shown = list(augment.batches(split, config, size, seed, number, CPU))
    return torch.cat([batch.images for batch in shown]), torch.cat([b.targets for b in shown])


def by_number(split: Split, config: Train, number: int = 0, seed: int = 0) -> Tensor:
    """The images of one unmixed epoch of a numbered split, in the split's order."""
    images, targets = epoch(split, config, number, seed)
    return images[targets.argmax(1).argsort()]


def brighter_right(images: Tensor) -> Tensor:
    left, right = images.mean(dim=(1, 2)).chunk(2, dim=1)
    return right.mean(1) > left.mean(1)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator("noise"))


# An epoch: what is shown, in which order.


def test_an_epoch_shows_no_image_twice_and_drops_a_short_tail(config: Train) -> None:
    split = numbered(toys.split(40))
    shown = list(augment.batches(split, config, 32, 0, 0, CPU))
    assert [len(batch.images) for batch in shown] == [len(batch.targets) for batch in shown]
    assert [len(batch.images) for batch in shown] == [9] * 4
    assert len(torch.cat([batch.targets.argmax(1) for batch in shown]).unique()) == 36


def test_a_split_smaller_than_a_batch_is_one_batch(config: Train) -> None:
    (batch,) = augment.batches(numbered(toys.split(5)), config, 32, 0, 0, CPU)
    assert sorted(batch.targets.argmax(1).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_epoch_repeats_bit_for_bit(
    config: Train, changed: Callable[..., Train], variant: str
) -> None:
    config, split = changed(config, **VARIANTS[variant]), toys.split()
    for first, again in zip(epoch(split, config, 3), epoch(split, config, 3), strict=True):
        assert first.equal(again)


@pytest.mark.parametrize("key", [{"number": 1}, {"seed": 1}])
def test_epoch_and_seed_each_change_order_and_crops(config: Train, key: dict[str, int]) -> None:
    split = numbered(toys.split(36))
    order, other = (epoch(split, config, **draw)[1].argmax(1) for draw in ({}, key))
    assert not order.equal(other)
    assert not by_number(split, config).equal(by_number(split, config, **key))


@pytest.mark.parametrize("key", [{"number": 1}, {"seed": 1}])
@pytest.mark.parametrize("variant", ["jitter", "trivial", "erase", "mixup", "cutmix"])
def test_epoch_and_seed_each_change_colours_holes_and_mixes(
    config: Train, changed: Callable[..., Train], variant: str, key: dict[str, int]
) -> None:
    config = changed(config, **VARIANTS[variant])
    split = flat(9) if variant in ("jitter", "trivial", "erase") else toys.split(9)
    first, other = (epoch(split, config, **draw) for draw in ({}, key))
    assert not first[0].equal(other[0])
    if variant in ("mixup", "cutmix"):
        assert not first[1].sort().values.equal(other[1].sort().values)


def test_every_image_has_a_crop_of_its_own(config: Train) -> None:
    alike = toys.split(36).take(torch.zeros(36, dtype=torch.int64))
    images, _ = epoch(alike, config)
    assert len(images.flatten(1).unique(dim=0)) == 36


# Sampling: every class equally often.

UNEQUAL = torch.tensor([0] * 6 + [1] * 3 + [3])  # of four classes one has no image


@pytest.mark.parametrize("number", range(4))
def test_every_class_is_drawn_equally_often(number: int) -> None:
    drawn = augment.sampling(UNEQUAL, 0, number)
    times = drawn.bincount(minlength=10)
    counts = UNEQUAL[drawn].bincount()
    assert sorted(counts.tolist()) == [0, 3, 3, 4] and counts[2] == 0  # 10 = 3 + 3 + 4
    assert times[:6].max() == 1 and times[:6].sum() == counts[0]  # the large class: none twice
    assert times[6:9].min() == 1 and times[6:9].max() <= 2  # three of three, and perhaps one more
    assert times[9] == counts[3]  # the one image of its class


def test_who_is_drawn_depends_on_seed_and_epoch() -> None:
    first, again, other, later = (
        augment.sampling(UNEQUAL, seed, number) for seed, number in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert first.equal(again) and not first.equal(other) and not first.equal(later)
    more = {int(UNEQUAL[augment.sampling(UNEQUAL, 0, n)].bincount().argmax()) for n in range(20)}
    assert more == {0, 1, 3}  # no class always has the image that is left over


@pytest.fixture
def unequal() -> Split:
    return dataclasses.replace(toys.split(10), labels=UNEQUAL)


def test_an_epoch_of_samples_continues_and_is_shared_among_ranks(
    unequal: Split, config: Train, changed: Callable[..., Train]
) -> None:
    config = changed(config, balance="sampling", batch_size=5, flip=True, jitter=0.3)
    whole = list(augment.batches(unequal, config, 32, 0, 0, CPU))
    targets = torch.cat([batch.targets for batch in whole]).sum(0)
    assert sorted(targets.tolist()) == [0, 3, 3, 4]
    (rest,) = augment.batches(unequal, config, 32, 0, 0, CPU, done=1)
    assert rest.images.equal(whole[1].images) and rest.targets.equal(whole[1].targets)
    shards = [
        list(augment.batches(unequal, config, 32, 0, 0, CPU, world=World(rank, 2)))
        for rank in range(2)
    ]
    for batch, parts in zip(whole, zip(*shards, strict=True), strict=True):
        assert batch.targets.equal(torch.cat([part.targets for part in parts]))
        torch.testing.assert_close(batch.images, torch.cat([part.images for part in parts]))


def test_an_image_that_comes_twice_has_another_crop_each_time(
    config: Train, changed: Callable[..., Train]
) -> None:
    one = dataclasses.replace(toys.split(10), labels=torch.tensor([0] * 9 + [1]))
    images, targets = epoch(one, changed(config, balance="sampling", batch_size=10))
    lonely = images[targets[:, 1] == 1]
    assert len(lonely) == len(lonely.flatten(1).unique(dim=0)) == 5


def test_image_and_target_stay_together(config: Train) -> None:
    images, targets = epoch(toys.split(), config)
    distance = torch.cdist(images.mean((2, 3)), TINTS / 255)
    assert distance.argmin(1).equal(targets.argmax(1))


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_images_are_floats_from_0_to_1_channels_last_and_targets_shares_of_the_classes(
    config: Train, changed: Callable[..., Train], variant: str, device: torch.device
) -> None:
    config = changed(config, precision="fp32", **VARIANTS[variant])
    for images, targets, _ in augment.batches(toys.split(), config, 24, 0, 0, device):
        assert images.shape == (9, 3, 24, 24) and images.dtype == torch.float32
        assert images.min() >= 0 and 0.5 < images.max() <= 1
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert targets.shape == (9, 4) and targets.min() >= 0
        torch.testing.assert_close(targets.sum(1), torch.ones(9, device=device))


# Flips.


def test_without_flip_no_image_is_mirrored(config: Train) -> None:
    images, _ = epoch(shaded(36), config)
    assert brighter_right(images).all()


@pytest.mark.parametrize("flip", [True, "alternating"])
def test_with_flip_about_half_are_mirrored(
    config: Train, changed: Callable[..., Train], flip: bool | str
) -> None:
    images, _ = epoch(shaded(900), changed(config, flip=flip))
    assert 0.45 < brighter_right(images).float().mean() < 0.55


@pytest.mark.parametrize("number", [0, 5])
def test_alternating_shows_every_image_both_ways_in_two_epochs(
    config: Train, changed: Callable[..., Train], number: int
) -> None:
    config = changed(config, flip="alternating")
    one, next_one, after = (
        brighter_right(by_number(shaded(90), config, n)) for n in range(number, number + 3)
    )
    assert one.equal(~next_one) and one.equal(after)


def test_alternating_depends_on_the_seed(config: Train, changed: Callable[..., Train]) -> None:
    config = changed(config, flip="alternating")
    one, other = (brighter_right(by_number(shaded(90), config, seed=s)) for s in (0, 1))
    assert 0.3 < one.eq(other).float().mean() < 0.7


# Random crops.


def boxes(aspect: float, count: int = 2000, scale: tuple[float, float] = SCALE) -> Tensor:
    return augment.random_boxes(torch.full((count,), aspect), scale, generator(1, "boxes"))


def inside(boxes: Tensor) -> bool:
    start, extent = boxes[:, :2], boxes[:, 2:]
    return bool((start >= 0).all() and (extent > 0).all() and (start + extent <= 1 + 1e-6).all())


@pytest.mark.parametrize("aspect", [0.05, 0.1, 0.5, 0.75, 1.0, 4 / 3, 2.0, 10.0, 20.0])
@pytest.mark.parametrize("scale", [SCALE, (1.0, 1.0), (0.01, 0.01)])
def test_random_boxes_lie_on_the_canvas(aspect: float, scale: tuple[float, float]) -> None:
    assert inside(boxes(aspect, scale=scale))


@pytest.mark.parametrize("aspect", [0.5, 0.75, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("scale", [SCALE, (0.25, 0.4)])
def test_random_boxes_have_the_area_and_the_shape_asked_for_in_the_original(
    aspect: float, scale: tuple[float, float]
) -> None:
    top, left, height, width = boxes(aspect, scale=scale).unbind(1)
    area, ratio = height * width, width * aspect / height
    fallback = torch.isclose(top, (1 - height) / 2) & torch.isclose(left, (1 - width) / 2)
    asked = (scale[0] - 1e-6 <= area) & (area <= scale[1] + 1e-6)
    assert (asked | fallback).all()
    assert (fallback & ~asked).float().mean() < 0.01  # rare: ten draws seldom all fail
    assert ratio.min() >= 3 / 4 - 1e-5
    assert ratio.max() <= 4 / 3 + 1e-5


def test_area_shape_and_place_spread_over_their_whole_range() -> None:
    top, left, height, width = boxes(1.0, 4000, (0.1, 0.5)).unbind(1)
    area, ratio = height * width, width / height
    assert area.min() < 0.11 and area.max() > 0.49 and abs(area.mean() - 0.3) < 0.01
    assert ratio.min() < 0.76 and ratio.max() > 1.32 and abs(ratio.log().mean()) < 0.01
    places = torch.stack([top / (1 - height), left / (1 - width)])
    for place in places:
        assert place.min() < 0.01 and place.max() > 0.99 and abs(place.mean() - 0.5) < 0.02
    draws = torch.cat([torch.stack([area, ratio]), places])
    assert (torch.corrcoef(draws) - torch.eye(4)).abs().max() < 0.1  # none follows another


@pytest.mark.parametrize(
    "aspect, height, width",
    [(10.0, 1.0, 4 / 3 / 10), (0.1, 0.1 / (3 / 4), 1.0), (1.0, 1.0, 1.0)],
    ids=["a panorama", "a tower", "a square, which is never drawn"],
)
def test_where_no_draw_fits_it_is_the_widest_allowed_box_in_the_centre(
    aspect: float, height: float, width: float
) -> None:
    found = boxes(aspect, 50, scale=(1.0, 1.0))
    expected = torch.tensor([(1 - height) / 2, (1 - width) / 2, height, width])
    torch.testing.assert_close(found, expected.expand(50, 4))


# Colours.


def test_no_saturation_is_grey() -> None:
    colours = torch.eye(3).view(3, 3, 1, 1)  # red, green, blue
    found = augment.jitter(colours, torch.tensor([[1.0, 1, 0]]).expand(3, 3))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)
    torch.testing.assert_close(found, luma.expand(3, 3, 1, 1))


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 2.0])
@pytest.mark.parametrize("place, name", [(0, "brightness"), (1, "contrast"), (2, "saturation")])
def test_each_factor_does_what_torchvisions_does(place: int, name: str, factor: float) -> None:
    images, factors = noise(4, 3, 8, 8), torch.ones(4, 3)
    factors[:, place] = factor
    expected = getattr(reference, f"adjust_{name}")(images, factor)
    # torchvision rounds the weight of red to 0.2989
    torch.testing.assert_close(augment.jitter(images, factors), expected, rtol=0, atol=3e-4)


def test_all_three_follow_each_other_as_torchvisions_do() -> None:
    images = noise(1, 3, 8, 8)
    expected = reference.adjust_brightness(images, 1.3)
    expected = reference.adjust_saturation(reference.adjust_contrast(expected, 0.7), 1.6)
    found = augment.jitter(images, torch.tensor([[1.3, 0.7, 1.6]]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_brightness_is_drawn_per_image_from_the_whole_range(
    config: Train, changed: Callable[..., Train]
) -> None:
    split = flat(360)
    factors = by_number(split, changed(config, jitter=0.4)).mean((1, 2, 3)) * 255 / 100
    assert len(factors.unique()) > 350
    assert 0.6 - 1e-5 < factors.min() < 0.61 and 1.39 < factors.max() < 1.4 + 1e-5
    assert abs(factors.mean() - 1) < 0.03


def test_jitter_leaves_order_crops_and_flips_as_they_were(
    config: Train, changed: Callable[..., Train]
) -> None:
    def seen(**values: Any) -> tuple[Tensor, Tensor]:
        """Up to brightness and contrast, which on grey images without clipping are affine."""
        images, targets = epoch(split, changed(config, flip=True, **values))
        middle = images.mean((1, 2, 3), keepdim=True)
        return (images - middle) / images.std((1, 2, 3), keepdim=True), targets

    grey = torch.randint(80, 150, (36, 32, 32, 1), generator=generator("grey"), dtype=torch.uint8)
    split = numbered(dataclasses.replace(toys.split(36), images=grey.expand(36, 32, 32, 3)))
    (plain, order), (jittered, same_order) = seen(), seen(jitter=0.2)
    assert same_order.equal(order)
    torch.testing.assert_close(jittered, plain, rtol=0, atol=1e-4)


# Holes.


def test_exactly_the_hole_is_blanked() -> None:
    images = noise(2, 3, 8, 8)
    holes = torch.tensor([[0.25, 0.5, 0.5, 0.25], [0, 0.125, 1, 0.125]])
    expected = images.clone()
    expected[0, :, 2:6, 4:6] = 0.5
    expected[1, :, :, 1] = 0.5
    before = images.clone()
    assert augment.erase(images, holes).equal(expected)
    assert images.equal(before)


def test_a_pixel_belongs_to_the_hole_that_holds_its_centre() -> None:
    dark = torch.zeros(1, 3, 4, 4)
    found = augment.erase(dark, torch.tensor([[0.12, 0.13, 0.26, 0.5]]))
    assert found[0, 0].tolist() == [[0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0] * 4, [0] * 4]


@pytest.mark.parametrize("share, least, most", [(0.0, 0, 0), (1.0, 1, 1), (0.25, 0.22, 0.28)])
def test_a_share_of_the_images_has_a_hole(share: float, least: float, most: float) -> None:
    holes = augment.random_holes(4000, share, generator("holes"))
    there = holes[:, 2:].gt(0).all(1)
    assert least <= there.float().mean() <= most
    assert not there.any() or holes[there, 2:].prod(1).max() > 0.19  # not the small ones alone
    assert holes[~there, 2:].eq(0).all()


def test_holes_have_the_areas_and_shapes_of_the_paper_and_lie_inside() -> None:
    holes = augment.random_holes(4000, 1.0, generator("holes"))
    assert inside(holes)
    _, _, height, width = holes.unbind(1)
    for found, (low, high) in (
        (height * width, augment.HOLE),
        (width / height, augment.HOLE_RATIO),
    ):
        assert low * (1 - 1e-5) < found.min() < 1.05 * low
        assert 0.95 * high < found.max() < high * (1 + 1e-5)


def test_erasing_leaves_order_crops_and_flips_as_they_were(
    config: Train, changed: Callable[..., Train]
) -> None:
    config, split = changed(config, flip=True), numbered(toys.split(36))
    plain, order = epoch(split, config)
    erased, same_order = epoch(split, changed(config, erase=1.0))
    assert same_order.equal(order)
    blank = erased.eq(0.5).all(1, keepdim=True).expand_as(erased)
    assert erased[~blank].equal(plain[~blank])
    areas = blank.float().mean((1, 2, 3))
    assert areas.min() > 0.01 and areas.max() < 0.22


# TrivialAugment (tests/training/test_trivial.py has its operations).


def test_a_share_of_the_images_gets_an_operation_and_the_others_stay_as_they_were(
    config: Train, changed: Callable[..., Train]
) -> None:
    split = numbered(toys.split(360))
    plain, order = epoch(split, changed(config, flip=True))
    images, same_order = epoch(split, changed(config, flip=True, trivial=0.5))
    assert same_order.equal(order)
    differ = images.ne(plain).flatten(1).any(1)
    assert 0.35 < differ.float().mean() < 0.55  # one operation in 13 is none, a few do nothing


def test_it_comes_before_the_hole_and_changes_no_other_draw(
    config: Train, changed: Callable[..., Train]
) -> None:
    split = numbered(toys.split(36))
    erased, _ = epoch(split, changed(config, erase=1.0))
    both, _ = epoch(split, changed(config, erase=1.0, trivial=1.0))
    blank = erased.eq(0.5).all(1, keepdim=True).expand_as(erased)
    assert both[blank].eq(0.5).all()


# Mixes.


def test_cutmix_of_two_images_by_hand() -> None:
    images = torch.tensor([0.2, 1.0]).view(2, 1, 1, 1).repeat(1, 3, 4, 4)
    batch = Batch(images, torch.eye(2))
    mixed = augment.blend(batch, Mix(0.625, (0, 2, 1, 4)))
    assert mixed.images[0, 0].eq(1.0).tolist() == 2 * [[False, True, True, True]] + 2 * [
        [False] * 4
    ]
    assert mixed.images[1, 2].eq(images[0, 0, 0, 0]).equal(mixed.images[0, 0].eq(1.0))
    torch.testing.assert_close(mixed.targets, torch.tensor([[0.625, 0.375], [0.375, 0.625]]))
    assert batch.images[0].unique().tolist() == pytest.approx([0.2])  # the input is left alone


def test_every_image_is_mixed_with_the_one_before_it() -> None:
    batch = Batch(torch.arange(3.0).view(3, 1, 1, 1), torch.eye(3))
    mixed = augment.blend(batch, Mix(0.5))
    assert mixed.images.flatten().tolist() == [1, 0.5, 1.5]
    assert mixed.targets.tolist() == [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]]


def pairs(config: Train, mixed: Train, number: int = 0, count: int = 36) -> list[Any]:
    """For each batch of an epoch: as it is, as it is mixed, and each image's share of its label."""
    split = numbered(toys.split(count))
    plain = augment.batches(split, config, 32, 0, number, CPU)
    blended = augment.batches(split, mixed, 32, 0, number, CPU)
    return [
        (before, after, after.targets[before.targets.bool()])
        for before, after in zip(plain, blended, strict=True)
    ]


def kind(before: Batch, after: Batch) -> str:
    """none, mixup or cutmix, told by the images."""
    own, other = (after.images == images for images in (before.images, before.images.roll(1, 0)))
    if own.all():
        return "none"
    return "cutmix" if (own | other).all() else "mixup"


def test_mixup_blends_the_same_order_crops_and_flips(
    config: Train, changed: Callable[..., Train]
) -> None:
    config = changed(config, flip=True)
    for before, after, own in pairs(config, changed(config, **MIXUP)):
        assert kind(before, after) == "mixup"
        expected = augment.blend(before, Mix(own[0].item()))
        torch.testing.assert_close(after.images, expected.images)
        torch.testing.assert_close(after.targets, expected.targets)


def test_with_cutmix_an_images_share_of_its_label_is_the_area_left_to_it(
    config: Train, changed: Callable[..., Train]
) -> None:
    config = changed(config, flip=True)
    for before, after, own in pairs(config, changed(config, **CUTMIX)):
        assert kind(before, after) == "cutmix"
        left = (after.images == before.images).all(1)
        torch.testing.assert_close(left.float().mean((1, 2)), own)


@pytest.mark.parametrize(
    ("mix", "other", "share"),
    [(MIXUP | CUTMIX, "cutmix", 0.5), (MIXUP | {"mix_share": 0.25}, "none", 0.25)],
    ids=["both: half are mixup", "a quarter of the batches is mixed"],
)
def test_batches_are_mixed_by_chance(
    config: Train, changed: Callable[..., Train], mix: dict[str, Any], other: str, share: float
) -> None:
    batches = pairs(config, changed(config, **mix), count=720)
    kinds = [kind(before, after) for before, after, _ in batches]
    assert kinds.count("mixup") + kinds.count(other) == 80
    assert abs(kinds.count("mixup") / 80 - share) < 0.2


def test_mixing_stops_after_its_share_of_the_training(
    config: Train, changed: Callable[..., Train]
) -> None:
    mixed = changed(config, **MIXUP | {"epochs": 4, "mix_until": 0.5})
    kinds = [{kind(*pair[:2]) for pair in pairs(config, mixed, number)} for number in range(4)]
    assert kinds == [{"mixup"}, {"mixup"}, {"none"}, {"none"}]


def test_mixing_spreads_over_all_strengths(config: Train, changed: Callable[..., Train]) -> None:
    for variant in (MIXUP, CUTMIX):  # with an alpha of 1 no strength is rare
        found = pairs(config, changed(config, **variant), count=360)
        own = torch.tensor([shares[0].item() for _, _, shares in found])
        assert own.min() < 0.3 and own.max() > 0.8  # a box over the edge takes less


# Masks.


def outlined(count: int) -> Split:
    """Numbered images that show their own mask: white on the object, black elsewhere."""
    split = toys.split(count)
    assert split.masks is not None
    images = (split.masks == 1).to(torch.uint8).mul(255)[..., None].expand(-1, -1, -1, 3)
    return numbered(dataclasses.replace(split, images=images.contiguous()))


def masked(split: Split, config: Train, number: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images, masks and labels of one epoch."""
    shown = list(augment.batches(split, config, 32, 0, number, CPU))
    masks = [batch.masks for batch in shown if batch.masks is not None]
    images, targets = ([getattr(b, name) for b in shown] for name in ("images", "targets"))
    return torch.cat(images), torch.cat(masks), torch.cat(targets).argmax(1)


@pytest.mark.parametrize("flip", [True, "alternating"])
def test_a_mask_is_cropped_and_mirrored_as_its_image_is(
    config: Train, changed: Callable[..., Train], flip: Any
) -> None:
    config = changed(config, attention_loss=1.0, flip=flip, crop_scale=(0.2, 1.0))
    for number in range(2):
        images, masks, _ = masked(outlined(36), config, number)
        torch.testing.assert_close(masks.expand_as(images), images)


def test_a_mask_is_sheared_turned_and_shifted_as_its_image_is(
    config: Train, changed: Callable[..., Train], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the other operations, and where what comes from outside is black as the ground."""
    monkeypatch.setattr(trivial, "recolour", lambda images, operations, strengths: images)
    monkeypatch.setattr(trivial.move, "__defaults__", (0.0,))
    config = changed(config, attention_loss=1.0, trivial=1.0)
    images, masks, _ = masked(outlined(36), config)
    _, plain, _ = masked(outlined(36), changed(config, trivial=0.0))
    torch.testing.assert_close(masks.expand_as(images), images)
    assert 5 <= masks.ne(plain).flatten(1).any(1).sum() <= 25  # 5 of 13 operations move


def test_a_mask_stays_where_only_the_tones_change(
    config: Train, changed: Callable[..., Train], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trivial, "draw", lambda n, share, draws: (torch.full((n,), 11), ONES[:n]))
    config = changed(config, attention_loss=1.0)
    images, masks, _ = masked(outlined(36), changed(config, trivial=1.0))
    plain, whole, _ = masked(outlined(36), config)
    assert masks.equal(whole)
    torch.testing.assert_close(images, 1 - plain)  # solarize at full strength


def test_what_is_erased_is_object_no_longer(config: Train, changed: Callable[..., Train]) -> None:
    split = outlined(36)
    images, masks, _ = masked(split, changed(config, attention_loss=1.0, erase=1.0))
    plain, whole, _ = masked(split, changed(config, attention_loss=1.0))
    hole = images.eq(0.5).all(1, keepdim=True) & plain.ne(0.5).any(1, keepdim=True)
    assert masks.equal(whole.masked_fill(hole, 0)) and not masks.equal(whole)


def test_the_loss_leaves_images_and_targets_as_they_were(
    config: Train, changed: Callable[..., Train]
) -> None:
    config, split = changed(config, **VARIANTS["all"] | {"mix_share": 0.5}), toys.split(36)
    plain = list(augment.batches(split, config, 32, 0, 1, CPU))
    with_loss = changed(config, attention_loss=1.0, attention_masks=0.3)
    for before, after in zip(plain, augment.batches(split, with_loss, 32, 0, 1, CPU), strict=True):
        assert before.masks is None and after.masks is not None
        assert after.images.equal(before.images) and after.targets.equal(before.targets)


def test_the_same_images_have_a_mask_in_every_epoch(
    config: Train, changed: Callable[..., Train]
) -> None:
    config = changed(config, attention_loss=1.0, attention_masks=0.25, flip=True)
    known = []
    for number in range(3):
        _, masks, labels = masked(outlined(36), config, number)
        assert masks.isnan().flatten(1).all(1).equal(masks.isnan().flatten(1).any(1))
        known.append(sorted(labels[~masks.isnan().flatten(1).any(1)].tolist()))
    assert len(known[0]) == 9 and known[0] == known[1] == known[2]


@pytest.mark.parametrize("variant", ["mixup", "cutmix"])
def test_no_mask_of_a_mixed_batch_is_known(
    config: Train, changed: Callable[..., Train], variant: str
) -> None:
    config = changed(config, attention_loss=1.0, **VARIANTS[variant])
    _, masks, _ = masked(outlined(36), config)
    assert len(masks) == 36 and masks.isnan().all()
