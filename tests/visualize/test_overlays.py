"""The overlay to the pixel, the tiling, and the sheet as drawn."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from abn.visualize.overlays import Tile, columns, gain_ratio, is_flat, overlay, save, sheet

JET_LOWEST = (0, 0, 128)  # RGB


def tile(truth: str = "church", prediction: str = "church", low: float = 0.2) -> Tile:
    image = np.full((8, 8, 3), 90, np.uint8)
    attention = np.linspace(low, 0.8, 16, dtype=np.float32).reshape(4, 4)
    return Tile(image, attention, truth, prediction, 0.876)


def draw(path: Path) -> None:
    """A sheet with everything on it: right, wrong, flat."""
    save(sheet([tile(), tile(prediction="tench"), tile(low=0.75)], 1.0, 60), path)


def words(figure: Figure) -> dict[str, Text]:
    """Everything written on `figure`, by what it says."""
    return {text.get_text(): text for text in figure.findobj(Text)}


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
    assert is_flat(attention)


def test_a_map_is_flat_below_a_tenth_of_difference_in_gain() -> None:
    assert is_flat(np.array([[0.50, 0.64]], np.float32))
    assert not is_flat(np.array([[0.50, 0.66]], np.float32))
    assert not is_flat(np.array([[0.00, 0.11]], np.float32))


def test_pairs_tile_near_a_square() -> None:
    expected = [1] * 3 + [2] * 7 + [3] * 10
    assert [columns(count) for count in range(1, 21)] == expected


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_sheet_has_two_pictures_a_tile(count: int) -> None:
    assert len(sheet([tile()] * count, 1.0, 50).axes) == 2 * count


def test_a_pair_shows_the_image_left_and_the_overlay_right() -> None:
    given = tile()
    left, right = sheet([given], 0.5, 50).axes
    assert left.get_position().x1 < right.get_position().x0
    assert np.array_equal(left.images[0].get_array(), given.image)
    assert np.array_equal(right.images[0].get_array(), overlay(given.image, given.attention, 0.5))


def test_right_and_wrong_differ_in_mark_and_in_colour() -> None:
    right = words(sheet([tile()], 1.0, 50))
    wrong = words(sheet([tile(prediction="tench")], 1.0, 50))
    assert right["church → church"].get_color() == right["88% ✓"].get_color()
    assert wrong["church → tench"].get_color() == wrong["88% ✗"].get_color()
    assert right["88% ✓"].get_color() != wrong["88% ✗"].get_color()


def test_the_raw_range_is_told_and_only_a_flat_map_is_stamped() -> None:
    lively, flat = words(sheet([tile()], 1.0, 50)), words(sheet([tile(low=0.75)], 1.0, 50))
    assert "attention 0.20\N{EN DASH}0.80" in lively and "flat map" not in lively
    assert "attention 0.75\N{EN DASH}0.80" in flat and "flat map" in flat


def test_long_class_names_keep_clear_of_the_confidence() -> None:
    figure = sheet([tile("English springer", "Norwegian elkhound, elkhound")], 1.0, 50)
    figure.draw_without_rendering()
    names = words(figure)["English springer → Norwegian elkhound…"].get_window_extent()
    assert names.x1 < words(figure)["88% ✗"].get_window_extent().x0


def test_dollars_in_a_class_name_are_letters(tmp_path: Path) -> None:
    save(sheet([tile("$\\oops$")], 1.0, 50), tmp_path / "sheet.png")


def test_dpi_scales_the_picture_and_no_writer_is_named(tmp_path: Path) -> None:
    shapes = []
    for dpi in (50, 100):
        save(sheet([tile()], 1.0, dpi), tmp_path / "sheet.png")
        shapes.append(matplotlib.image.imread(tmp_path / "sheet.png").shape)
    assert shapes[1][:2] == pytest.approx([2 * side for side in shapes[0][:2]], abs=2)
    assert b"Software" not in (tmp_path / "sheet.png").read_bytes()


def test_another_process_in_another_zone_and_language_draws_the_same_bytes(tmp_path: Path) -> None:
    here, there = tmp_path / "here.png", tmp_path / "there.png"
    draw(here)
    elsewhere = {"TZ": "Asia/Tokyo", "LANG": "ja_JP.UTF-8", "PYTHONHASHSEED": "7"}
    environment = os.environ | elsewhere | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, __file__, str(there)], check=True, env=environment)
    assert here.read_bytes() == there.read_bytes()


if __name__ == "__main__":  # the other process
    draw(Path(sys.argv[1]))


def test_the_gain_ratio_is_of_one_plus_the_map() -> None:
    assert gain_ratio(np.array([[0.0, 1.0]], np.float32)) == 2
    assert gain_ratio(np.array([[0.5, 0.5]], np.float32)) == 1
