"""The loss between the map and the object's mask: its values by hand, its gradient, its images."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abn.config.params import Attention, Params, Train
from abn.data.loader import Batch
from abn.data.packed import Split
from abn.models.abn import AttentionBranchNetwork, Output
from abn.runtime.errors import ParamsError
from abn.runtime.rng import generator
from abn.training import augment, loop, map_losses
from abn.training.map_losses import FLAT, correlation, misplacement
from tests import toys
from tests.toys import CPU

SHARES = [1.0, 0.5, 0, 0]  # of four cells, 2 x 2, that the object covers


def maps(*cells: list[float]) -> Tensor:
    """Maps of 2 x 2 cells, row by row."""
    return torch.tensor(cells).view(-1, 1, 2, 2)


def objects(*cells: list[float]) -> Tensor:
    """Masks of 4 x 4 pixels by the share of each cell, which is covered from the left."""
    pixels = torch.zeros(len(cells), 1, 4, 4)
    for i, shares in enumerate(cells):
        for cell, share in enumerate(shares):
            top, left = 2 * (cell // 2), 2 * (cell % 2)
            pixels[i, 0, top : top + 2, left : left + round(2 * share)] = 1
    return pixels


def loss_of(attention: Tensor, masks: Tensor, hits: list[bool] | None = None) -> Tensor:
    """The loss of images of class 1; with `hits`, of a network that looks and predicts 1 or 0."""
    predicted = torch.tensor(hits or [True] * len(attention)).long()
    logits, targets = (F.one_hot(k, 2).float() for k in (predicted, torch.ones_like(predicted)))
    batch = Batch(torch.zeros(len(attention), 3, 4, 4), targets, masks)
    return misplacement(Output(targets, logits, attention), batch, looks=hits is not None)


# Values.


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([1.0, 0.5, 0, 0], 1),
        ([0.0, 0.5, 1, 1], -1),
        ([0.5, 1.0, 0, 0], 7 / 11),  # covariance 7/64, both variances 11/64
        ([0.0, 0, 1, 0.5], -9 / 11),  # covariance -9/64
    ],
    ids=["the object's form", "its opposite", "the top cell beside it", "on the other half"],
)
def test_the_correlation_is_that_of_map_and_covered_share(
    cells: list[float], expected: float
) -> None:
    r, defined = correlation(maps(cells), objects(SHARES))
    assert defined.tolist() == [True] and r.item() == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("contrast", [1.0, 0.5, 0.3])
def test_neither_the_contrast_nor_the_height_of_a_map_counts(contrast: float) -> None:
    cells = maps([0.5, 1.0, 0, 0.1])
    own, _ = correlation(cells, objects(SHARES))
    raised, _ = correlation(1 - contrast + contrast * cells, objects(SHARES))
    assert raised.item() == pytest.approx(own.item(), rel=0.03)


def test_a_flat_map_has_no_correlation_and_a_finite_gradient() -> None:
    flat = torch.full((1, 1, 2, 2), 0.7, requires_grad=True)
    loss = loss_of(flat, objects(SHARES))
    loss.backward()
    assert loss.item() == 1 and flat.grad is not None and flat.grad.isfinite().all()
    assert flat.grad.flatten().argmin() == 0  # descent raises the cell with the most of the object


UNKNOWN = torch.full((1, 1, 4, 4), math.nan)
EVERYWHERE, NOWHERE = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)


def test_the_loss_is_the_mean_over_the_images_whose_object_is_somewhere() -> None:
    masks = torch.cat([objects(SHARES), UNKNOWN, EVERYWHERE, NOWHERE, objects(SHARES)])
    attention = maps([0.0, 0.5, 1, 1], *3 * [SHARES], [0.5, 1.0, 0, 0])
    _, defined = correlation(attention, masks)
    assert defined.tolist() == [True, False, False, False, True]
    assert loss_of(attention, masks).item() == pytest.approx((2 + 4 / 11) / 2, abs=3e-3)


def test_a_network_that_looks_is_not_judged_by_the_map_of_a_class_that_is_not_there() -> None:
    attention = maps([0.0, 0.5, 1, 1], [0.5, 1.0, 0, 0], SHARES)
    masks = objects(SHARES, SHARES, SHARES)
    found = loss_of(attention, masks, hits=[False, True, True]).item()
    assert found == pytest.approx((4 / 11 + 0) / 2, abs=3e-3)
    assert loss_of(attention, masks, hits=[False] * 3).item() == 0
    assert loss_of(attention, masks).item() == pytest.approx((2 + 4 / 11) / 3, abs=3e-3)


@pytest.mark.parametrize("masks", [UNKNOWN, EVERYWHERE, NOWHERE])
def test_a_batch_that_says_nothing_about_the_place_costs_nothing(masks: Tensor) -> None:
    attention = maps([0.3, 0.1, 0.9, 0.2]).requires_grad_()
    loss = loss_of(attention, masks)
    loss.backward()
    assert loss.item() == 0 and attention.grad is not None and not attention.grad.any()


# Gradients.


def test_the_gradient_is_the_one_derived() -> None:
    attention = torch.rand(1, 1, 2, 2, generator=generator("map")).double().requires_grad_()
    masks = objects(SHARES).double()
    (1 - correlation(attention, masks)[0]).sum().backward()
    a, c = (x - x.mean() for x in (attention.detach().flatten(), torch.tensor(SHARES).double()))
    s = (a.square().mean() + FLAT**2).sqrt()  # a map of this spread is not flat: all but its own
    a, c = a / s, c / c.square().mean().sqrt()
    assert attention.grad is not None
    torch.testing.assert_close(attention.grad.flatten(), -(c - (a * c).mean() * a) / (4 * s))


def test_a_scaled_maps_top_cell_learns_that_it_lies_beside_the_object() -> None:
    """It is 1 whatever it does; what changes is how far all others lie below it."""
    scores = maps([0.4, 0.2, 0, 3.0]).requires_grad_()
    lowest, highest = scores.amin(), scores.amax()
    loss_of(0.5 + 0.5 * (scores - lowest) / (highest - lowest), objects(SHARES)).backward()
    assert scores.grad is not None
    beside, on = scores.grad[0, 0, 1, 1], scores.grad[0, 0, 0, 0]
    assert beside > 0.01 and on < -0.01  # descent lowers the one and raises the other


def test_the_gradient_reaches_the_maps_own_layer_and_the_trunk() -> None:
    torch.manual_seed(0)
    model = AttentionBranchNetwork("resnet18", 4)
    images = torch.rand(2, 3, 32, 32, generator=generator("images"))
    loss_of(model(images).attention, objects(SHARES, SHARES)).backward()
    for weight in (model.att_conv3.weight, model.att_conv.weight, model.conv1.weight):
        assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert model.fc.weight.grad is None and model.att_conv2.weight.grad is None


def test_with_look_the_gradient_reaches_the_map_of_the_predicted_class_alone() -> None:
    torch.manual_seed(0)
    model = AttentionBranchNetwork("resnet18", 4, attention="look", contrast=0.5)
    images = torch.rand(2, 3, 32, 32, generator=generator("images"))
    output = model(images)
    loss_of(output.attention, objects(SHARES, SHARES)).backward()
    gradient = model.att_conv2.weight.grad
    assert gradient is not None and model.fc.weight.grad is None
    reached = gradient.abs().sum((1, 2, 3)).nonzero()[:, 0].tolist()
    assert reached == sorted(set(output.attention_logits.argmax(1).tolist()))


# Which masks are used.


def uneven() -> Split:
    """110 images: 60, 30 and 20 of three classes."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate((60, 30, 20))])
    return dataclasses.replace(toys.split(110, 3), labels=labels)


def counts(split: Split, share: float, seed: int = 0) -> list[int]:
    known = map_losses.chosen(split, share, seed, CPU)
    return split.labels[known].bincount(minlength=len(split.classes)).tolist()


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, [60, 30, 20]), (0.5, [30, 15, 10]), (0.1, [6, 3, 2])]
)
def test_the_share_is_taken_of_every_class(share: float, expected: list[int]) -> None:
    assert counts(uneven(), share) == expected


@pytest.mark.parametrize(("share", "total"), [(0.03, 3), (0.01, 1), (0.0001, 1)])
def test_of_few_masks_the_number_is_right_and_never_none(share: float, total: int) -> None:
    assert sum(counts(toys.split(100), share)) == total
    assert max(counts(toys.split(100), share)) == 1


def test_a_larger_share_has_all_the_images_of_a_smaller_one() -> None:
    few, more = (map_losses.chosen(uneven(), share, 0, CPU) for share in (0.1, 0.3))
    assert not (few & ~more).any()


def test_the_seed_alone_draws_the_images() -> None:
    first, again, other = (map_losses.chosen(uneven(), 0.3, seed, CPU) for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)


def test_data_without_masks_have_none_to_choose() -> None:
    assert not map_losses.chosen(toys.split(8).without_masks(), 1.0, 0, CPU).any()


# A training.


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, epochs=5, batch_size=8, sizes=(32,), lr=0.05)


def trained(config: Train, split: Split, attention: Attention = "residual") -> toys.Network:
    model = toys.network(attention=attention)
    loop.fit(model, split, toys.split(8, seed=1), config, seed=0)
    return model


def same(one: toys.Network, other: toys.Network) -> bool:
    state = other.state_dict()
    return all(tensor.equal(state[name]) for name, tensor in one.state_dict().items())


def tinted_objects(count: int, seed: int = 0) -> Split:
    """Noise that has the tint of its class on the object alone."""
    split = toys.split(count, seed=seed)
    noise = torch.randint(55, split.images.shape, generator=generator(seed), dtype=torch.uint8)
    assert split.masks is not None
    images = torch.where(split.masks[..., None] == 1, split.images, noise)
    return dataclasses.replace(split, images=images)


def placed(model: toys.Network) -> float:
    """The mean correlation on images that were not trained on."""
    split = tinted_objects(40, seed=2)
    assert split.masks is not None
    masks = (split.masks == 1).float()[:, None]
    with torch.no_grad():
        attention = model.eval()(split.images.permute(0, 3, 1, 2) / 255).attention
    return correlation(attention, masks)[0].mean().item()


class Unreadable(Tensor):
    """A tensor that must not be used."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise AssertionError(f"the masks were used by {function}")


def test_without_the_loss_masks_are_not_read_and_change_nothing(
    config: Train, changed: Callable[..., Train]
) -> None:
    config, split = changed(config, epochs=2), toys.split(16)
    unreadable = dataclasses.replace(split, masks=torch.zeros(1).as_subclass(Unreadable))
    reference = trained(config, split.without_masks())
    assert same(trained(changed(config, attention_masks=0.5), unreadable), reference)
    with pytest.raises(AssertionError, match="the masks were used"):
        trained(changed(config, attention_loss=1.0), unreadable)


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_the_map_learns_to_lie_on_the_object(
    config: Train, changed: Callable[..., Train], attention: Attention
) -> None:
    """With look, the map of a class predicted wrongly once held that class's own at r = -1."""
    model = trained(changed(config, attention_loss=0.3), tinted_objects(40), attention)
    assert placed(model) > 0.8
    if attention == "residual":  # the class maps of these pictures need no help
        assert placed(trained(config, tinted_objects(40), attention)) < 0.8


def test_data_without_masks_are_refused_in_one_line_before_the_training(
    config: Train, changed: Callable[..., Train]
) -> None:
    with pytest.raises(ParamsError) as caught:
        trained(changed(config, attention_loss=0.5), toys.split(8).without_masks())
    assert str(caught.value) == (
        "the data have no masks; train.attention_loss = 0.5; "
        "set it to 0, or give images masks (docs/usage.md)"
    )


def some_masks(split: Split, have: Tensor) -> Split:
    """`split`, where only the images `have` bool [N] have a mask."""
    assert split.masks is not None
    return dataclasses.replace(split, masks=split.masks * have[:, None, None], masked=have)


def test_where_some_images_have_a_mask_those_are_chosen_from() -> None:
    have = torch.arange(40) < 12
    split = some_masks(toys.split(40), have)
    assert map_losses.chosen(split, 1.0, 0, CPU).equal(have)
    half = map_losses.chosen(split, 0.5, 0, CPU)
    assert half.sum() == 6 and not half[12:].any()
    assert set(split.labels[half].bincount().tolist()) <= {1, 2}  # six of four classes, evenly
    assert map_losses.chosen(split, 0.01, 0, CPU).sum() == 1
    none = some_masks(toys.split(8), torch.zeros(8, dtype=torch.bool))
    assert not map_losses.chosen(none, 1.0, 0, CPU).any()


def test_the_loss_is_that_of_the_images_that_have_a_mask(
    config: Train, changed: Callable[..., Train]
) -> None:
    have = torch.arange(8) % 4 < 2
    split = some_masks(toys.split(8), have)
    exact = changed(config, attention_loss=1.0, batch_size=8, flip=False, crop_scale=(1.0, 1.0))
    (batch,) = augment.batches(split, exact, 32, 0, 0, CPU)
    assert batch.masks is not None
    known = batch.masks.isfinite().flatten(1).all(1)
    assert known.equal(batch.targets.argmax(1) < 2)
    top_left = torch.zeros(8, 1, 2, 2)
    top_left[:, :, 0, 0] = 1  # r is 1 for class 0, whose object is there, and -1/3 for class 1
    output = Output(batch.targets, batch.targets, top_left)
    loss = misplacement(output, batch, looks=False).item()
    assert loss == pytest.approx((0 + 4 / 3) / 2, abs=3e-3)


def test_masks_of_half_of_the_images_teach_the_map(
    config: Train, changed: Callable[..., Train]
) -> None:
    few = some_masks(tinted_objects(40), torch.arange(40) < 20)
    assert placed(trained(changed(config, attention_loss=0.3), few, "residual")) > 0.8


def test_where_no_image_to_train_on_has_a_mask_that_is_refused(
    config: Train, changed: Callable[..., Train]
) -> None:
    none = some_masks(toys.split(8), torch.zeros(8, dtype=torch.bool))
    with pytest.raises(ParamsError, match=r"^the data have no masks; train.attention_loss = 0\.5"):
        trained(changed(config, attention_loss=0.5), none)
