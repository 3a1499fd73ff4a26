"""TrivialAugment: every operation by hand, and how often and how strongly each is drawn."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from abn.runtime.rng import generator
from abn.training import trivial

BILINEAR = InterpolationMode.BILINEAR


def applied(images: Tensor, name: str, strength: float) -> Tensor:
    """`images` [H, W] or [B, 3, H, W] after one operation."""
    batch = images.expand(1, 3, -1, -1) if images.ndim == 2 else images
    operations = torch.full((len(batch),), trivial.OPERATIONS.index(name))
    strengths = torch.full((len(batch),), float(strength))
    moved = trivial.move(batch, operations, strengths)
    found = trivial.recolour(moved, operations, strengths)
    return found[0, 0] if images.ndim == 2 else found


def row(*values: float) -> Tensor:
    """A square of 3 x 3 or more whose rows are alike."""
    return torch.tensor(values).expand(len(values), -1)


def close(found: Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator("trivial"))


# What moves.


def test_a_shift_is_at_most_a_fifth_of_the_side_and_leaves_grey() -> None:
    """A fifth of 5 pixels is one, half of that strength is half a pixel."""
    x = row(0.0, 0.1, 0.2, 0.3, 0.4)
    close(applied(x, "shift x", 1), [[0.1, 0.2, 0.3, 0.4, 0.5]] * 5)
    close(applied(x, "shift x", -1), [[0.5, 0, 0.1, 0.2, 0.3]] * 5)
    close(applied(x, "shift x", 0.5), [[0.05, 0.15, 0.25, 0.35, 0.45]] * 5)
    close(applied(x.T, "shift y", 1).T, [[0.1, 0.2, 0.3, 0.4, 0.5]] * 5)


def test_a_shear_moves_a_row_by_three_tenths_of_its_height() -> None:
    """The rows of a 2 x 2 image are half a pixel from the middle: 0.15 pixels."""
    x = torch.tensor([[0.0, 1.0], [0.2, 0.4]])
    first = [0.85 * 0 + 0.15 * 0.5, 0.85 * 1 + 0.15 * 0]
    second = [0.85 * 0.2 + 0.15 * 0.4, 0.85 * 0.4 + 0.15 * 0.5]
    close(applied(x, "shear x", 1), [first, second])
    close(applied(x.T, "shear y", 1).T, [first, second])


@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_a_turn_is_torchvisions_by_at_most_thirty_degrees(strength: float) -> None:
    x, angle = noise(2, 3, 12, 12), 30 * strength
    inside = reference.rotate(torch.ones_like(x), angle, BILINEAR) > 0.999
    found, expected = applied(x, "turn", strength), reference.rotate(x, angle, BILINEAR)
    torch.testing.assert_close(found[inside], expected[inside], atol=1e-5, rtol=0)
    assert inside.float().mean() > 0.5
    assert strength < 1 or found[:, :, ::11, ::11].sub(0.5).abs().max() < 0.01  # the corners


# What changes the tones.


@pytest.mark.parametrize("strength, values", [(1, [0.19, 0.76, 1]), (-1, [0.01, 0.04, 0.08])])
def test_brightness_is_a_factor_from_a_tenth_to_nineteen_tenths(
    strength: float, values: list[float]
) -> None:
    close(applied(row(0.1, 0.4, 0.8), "brightness", strength), [values] * 3)


@pytest.mark.parametrize("strength, values", [(0.5, [0.11, 0.4, 0.69]), (-1, [0.38, 0.4, 0.42])])
def test_contrast_is_the_distance_from_the_mean_grey(strength: float, values: list[float]) -> None:
    close(applied(row(0.2, 0.4, 0.6), "contrast", strength), [values] * 3)


def test_saturation_is_the_distance_from_the_pixels_own_grey() -> None:
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    luma = 0.299  # of red
    expected = [luma + 0.1 * (1 - luma), 0.9 * luma, 0.9 * luma]
    close(applied(red, "saturation", -1).view(1, 3), [expected])


def test_sharpness_is_the_distance_from_the_mean_of_three_by_three() -> None:
    """A step of columns, 0 and 0.9: beside it the mean is 0.3 and 0.6, at the edges 0 and 0.9."""
    close(applied(row(0.0, 0, 0.9, 0.9), "sharpness", -1), [[0, 0.27, 0.63, 0.9]] * 4)
    close(applied(row(0.2, 0.2, 0.5, 0.5), "sharpness", 1), [[0.2, 0.11, 0.59, 0.5]] * 4)


@pytest.mark.parametrize(
    "strength, levels", [(1.0, 3), (-1.0, 3), (0.5, 31), (0.0, 255)], ids=["2", "-2", "5", "8"]
)
def test_posterize_leaves_from_eight_bits_down_to_two(strength: float, levels: int) -> None:
    found = applied(row(0.0, 0.4, 0.55, 1.0), "posterize", strength)
    values = [0, round(0.4 * levels) / levels, round(0.55 * levels) / levels, 1]
    close(found, [values] * 4)


def test_solarize_inverts_what_is_above_one_less_the_strength() -> None:
    for strength in (0.3, -0.3):
        close(applied(row(0.1, 0.6, 0.8), "solarize", strength), [[0.1, 0.6, 0.2]] * 3)


def test_autocontrast_spreads_each_channel_and_leaves_a_flat_one_finite() -> None:
    close(applied(row(0.2, 0.3, 0.6), "autocontrast", 0.1), [[0, 0.25, 1]] * 3)
    assert applied(row(0.2, 0.2), "autocontrast", 0.1).eq(0).all()


# Together.


@pytest.mark.parametrize("name", trivial.OPERATIONS)
def test_one_operation_leaves_the_other_images_alone_and_the_range_from_0_to_1(name: str) -> None:
    x, strengths = noise(3, 3, 8, 8), torch.tensor([0.8, 0.8, -0.8])
    operations = torch.tensor([0, trivial.OPERATIONS.index(name), 0])
    found = trivial.recolour(trivial.move(x, operations, strengths), operations, strengths)
    assert found[0].equal(x[0]) and found[2].equal(x[2])
    assert found[1].equal(x[1]) == (name == "nothing")
    assert found.min() >= 0 and found.max() <= 1 and found.dtype == x.dtype


@pytest.mark.parametrize("name", trivial.OPERATIONS)
def test_half_precision_is_the_same_to_two_grey_levels(name: str) -> None:
    """Posterize and solarize jump, so these are of values away from their thresholds."""
    x = (noise(2, 3, 8, 8) * 8).floor() / 8 + 0.03
    whole, half = applied(x, name, 0.4), applied(x.half(), name, 0.4)
    assert half.dtype == torch.float16
    assert (half.float() - whole).abs().max() <= 2 / 255


def test_every_operation_is_as_frequent_and_every_strength() -> None:
    operations, strengths = trivial.draw(26_000, 1.0, generator("draws"))
    counts = operations.bincount()
    assert len(counts) == len(trivial.OPERATIONS) == 13
    assert (counts - 2000).abs().max() < 4 * math.sqrt(2000)  # four standard deviations
    assert -1 <= strengths.min() < -0.999 and 0.999 < strengths.max() < 1
    assert abs(strengths.mean()) < 0.02 and abs(strengths.abs().mean() - 0.5) < 0.01


def test_a_share_has_operations() -> None:
    assert not trivial.draw(1000, 0.0, generator("draws"))[0].any()
    operations, _ = trivial.draw(13_000, 0.5, generator("draws"))
    assert abs((operations > 0).float().mean() - 6 / 13) < 0.02
