"""The overlay to the pixel."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from abn.visualize.overlay import HEAT, Style, _heat, blend, overlay
from abn.visualize.tiles import Heat, Look, Tile

JET_LOWEST = (0, 0, 128)  # RGB
VIRIDIS = (68, 1, 84), (253, 231, 36)  # its first and last colour, RGB


def tile(attention: NDArray[np.float32]) -> Tile:
    return Tile(np.zeros((8, 8, 3), np.uint8), attention, "church", "church", 0.9)


def test_the_lowest_place_gains_jets_blue_and_the_highest_its_red() -> None:
    image = np.array([[[10, 20, 30], [0, 0, 0]], [[1, 2, 3], [40, 50, 60]]], np.uint8)
    attention = np.array([[0.25, 0.75], [0.75, 0.25]], np.float32)
    expected = [[[10, 20, 158], [128, 0, 0]], [[129, 2, 3], [40, 50, 188]]]
    assert overlay(image, attention, 1.0).tolist() == expected


@pytest.mark.parametrize("palette", [cv2.COLORMAP_JET, cv2.COLORMAP_VIRIDIS])
def test_the_colours_of_every_level_are_opencvs(palette: int) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    theirs = cv2.cvtColor(cv2.applyColorMap(levels, palette), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(_heat(levels, palette), theirs)


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


def test_the_gain_of_a_map_on_the_picture_is_the_map_itself() -> None:
    seen = Look(np.zeros((8, 8, 3), np.uint8), "church", 7.3)
    given = tile(np.array([[0.5, 1.0]], np.float32))._replace(look=seen)
    assert given.gain_ratio == 2 and not given.flat
    assert given.range == "M 0.50\N{EN DASH}1.00, class map range 7.3 logits"
    hiding = tile(np.array([[0.0, 1.0]], np.float32))._replace(look=seen)
    assert hiding.gain_ratio == float("inf") and not hiding.flat
    shown = tile(np.ones((2, 2), np.float32))._replace(look=seen)
    assert shown.gain_ratio == 1 and shown.flat


def test_a_map_in_the_attentions_place_is_drawn_and_is_flat_where_it_is_constant() -> None:
    values = np.array([[-1.25, 3.0]], np.float32)
    given = tile(np.array([[0.5, 0.5]], np.float32))._replace(
        other=Heat("att_cam", values, (-2, 4))
    )
    assert not given.flat and given.range == "Att-CAM \N{MINUS SIGN}1.2 to 3.0"
    assert np.array_equal(given.overlay(Style()), overlay(given.image, values, 1.0))
    assert given._replace(other=Heat("gradcam", 0 * values, (0, 1))).flat


def test_a_blend_keeps_the_grey_of_the_image_and_adds_the_maps_colours() -> None:
    image = np.array([[[100, 100, 100], [200, 200, 200]]], np.uint8)
    first, last = blend(image, np.array([[0, 1]], np.float32), 1.0, (0, 1))[0]
    for pixel, grey, heat in ((first, 100, VIRIDIS[0]), (last, 200, VIRIDIS[1])):
        expected = [(1 - HEAT) * grey + HEAT * value for value in heat]
        assert np.abs(pixel - expected).max() <= 1.5  # two palettes of 256 steps differ by one


def test_a_blend_never_saturates_so_that_white_objects_keep_their_edges() -> None:
    image = np.array([[[255, 255, 255], [215, 215, 215]]], np.uint8)
    hot = np.ones((1, 2), np.float32)
    brighter, darker = blend(image, hot, 1.0, (0, 1))[0].astype(int)
    assert (brighter - darker == 16).all()  # 40 levels at a weight of 0.4
    assert (overlay(image, np.array([[0.1, 1.0]], np.float32), 1.0) == 255).any()


def test_without_strength_a_blend_is_the_image_in_grey() -> None:
    image = np.array([[[255, 0, 0], [9, 9, 9]]], np.uint8)
    grey = blend(image, np.array([[0, 1]], np.float32), 0.0, (0, 1))
    assert grey.tolist() == [[[76] * 3, [9] * 3]]  # 0.299 of red's 255


def test_of_one_scale_the_same_colour_is_the_same_value_and_what_lies_beyond_is_clipped() -> None:
    image = np.zeros((1, 2, 3), np.uint8)
    one = blend(image, np.array([[0.5, 1.0]], np.float32), 1.0, (0, 1))
    two = blend(image, np.array([[0.5, 0.0]], np.float32), 1.0, (0, 1))
    assert (one[0, 0] == two[0, 0]).all() and (one[0, 1] != two[0, 1]).any()
    beyond = blend(image, np.array([[-3.0, 5.0]], np.float32), 1.0, (0, 1))
    assert (beyond == blend(image, np.array([[0.0, 1.0]], np.float32), 1.0, (0, 1))).all()
    assert (blend(image, np.ones((1, 2), np.float32), 1.0, (1, 1)) == beyond[0, 0]).all()


def test_viridis_has_the_attention_on_one_scale_and_another_map_on_its_own_range() -> None:
    values = np.array([[0.25, 0.75]], np.float32)
    given, style = tile(values), Style("viridis", 0.5)
    assert np.array_equal(given.overlay(style), blend(given.image, values, 0.5, (0, 1)))
    other = given._replace(other=Heat("gradcam", values, (-9, 9)))
    assert np.array_equal(other.overlay(style), blend(given.image, values, 0.5, (0.25, 0.75)))
