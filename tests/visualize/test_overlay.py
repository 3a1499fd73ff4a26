"""The overlay to the pixel."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from abn.visualize.figures import Tile
from abn.visualize.overlay import overlay

JET_LOWEST = (0, 0, 128)  # RGB


def tile(attention: NDArray[np.float32]) -> Tile:
    return Tile(np.zeros((8, 8, 3), np.uint8), attention, "church", "church", 0.9)


def test_the_lowest_place_gains_jets_blue_and_the_highest_its_red() -> None:
    image = np.array([[[10, 20, 30], [0, 0, 0]], [[1, 2, 3], [40, 50, 60]]], np.uint8)
    attention = np.array([[0.25, 0.75], [0.75, 0.25]], np.float32)
    expected = [[[10, 20, 158], [128, 0, 0]], [[129, 2, 3], [40, 50, 188]]]
    assert overlay(image, attention, 1.0).tolist() == expected


def test_alpha_scales_the_colours_and_zero_gives_the_image_back() -> None:
    image = np.array([[[10, 20, 30], [0, 0, 0]], [[1, 2, 3], [40, 50, 60]]], np.uint8)
    attention = np.array([[0.25, 0.75], [0.75, 0.25]], np.float32)
    half = [[[10, 20, 94], [64, 0, 0]], [[65, 2, 3], [40, 50, 124]]]
    assert overlay(image, attention, 0.5).tolist() == half
    assert overlay(image, attention, 0.0).tolist() == image.tolist()


def test_a_sum_above_white_saturates() -> None:
    image = np.full((1, 2, 3), 200, np.uint8)
    attention = np.array([[0.1, 0.9]], np.float32)
    assert overlay(image, attention, 1.0).tolist() == [[[200, 200, 255], [255, 200, 200]]]


def test_a_map_is_resized_to_its_image_before_it_is_coloured() -> None:
    attention = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    levels = cv2.resize(np.array([[0, 63], [127, 255]], np.uint8), (6, 4))
    heat = cv2.applyColorMap(levels, cv2.COLORMAP_JET)[..., ::-1]
    black = np.zeros((4, 6, 3), np.uint8)
    assert np.array_equal(overlay(black, attention, 1.0), heat)


def test_a_constant_map_adds_the_lowest_colour_everywhere_and_is_flat() -> None:
    image = np.full((4, 4, 3), 7, np.uint8)
    attention = np.full((2, 2), 0.5, np.float32)
    assert np.array_equal(overlay(image, attention, 1.0), image + np.array(JET_LOWEST, np.uint8))
    assert tile(attention).flat


@pytest.mark.parametrize(
    ("low", "high", "ratio", "flat"),
    [
        (0.5, 0.5, 1, True),
        (0.5, 0.64, 1.64 / 1.5, True),
        (0.5, 0.66, 1.66 / 1.5, False),
        (0, 0.11, 1.11, False),
        (0, 1, 2, False),
    ],
)
def test_the_gain_ratio_is_of_one_plus_the_map_and_a_map_is_flat_below_1_1(
    low: float, high: float, ratio: float, flat: bool
) -> None:
    given = tile(np.array([[low, high]], np.float32))
    assert given.gain_ratio == pytest.approx(ratio) and given.flat == flat
