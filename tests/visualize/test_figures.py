"""The PNG figures: the sheet of overlays and the figure of a gallery item, as drawn."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from abn.visualize.figures import columns, item_figure, save, sheet, tiles_of
from abn.visualize.overlay import Style
from abn.visualize.tiles import (
    SIGNED,
    UNIT,
    Enough,
    GalleryItem,
    Heat,
    Look,
    Tile,
    WhatIf,
    colours,
    evidence_panels,
    map_panels,
    rows,
)

JET = Style("jet", 1.0)
ARABIC, HEBREW = "خنفساء", "חיפושית"
VIRIDIS = (68, 1, 84), (253, 231, 36)  # its first and last colour, RGB


def tile(truth: str = "church", prediction: str = "church", low: float = 0.2) -> Tile:
    image = np.full((8, 8, 3), 90, np.uint8)
    attention = np.linspace(low, 0.8, 16, dtype=np.float32).reshape(4, 4)
    return Tile(image, attention, truth, prediction, 0.876)


def item(low: float = 0.2, srg: float | None = 0.5, error: bool = False) -> GalleryItem:
    maps = np.full((4, 4), 2, np.float32), np.full((4, 4), -1, np.float32)
    role, prediction = ("error", "ring") if error else ("best", "disc")
    return GalleryItem("disc", role, tile("disc", prediction, low), srg, maps if error else None)


def looking(error: bool = False) -> GalleryItem:
    """An item of a network that looks, then decides."""
    given, black = item(low=0.5, error=error), np.zeros((8, 8, 3), np.uint8)
    look = Look(black, "ring", 7.3)
    what_if = WhatIf(black + 9, "disc", 0.61, 0.2, 0.61, corrects=True) if error else None
    return given._replace(tile=given.tile._replace(look=look), what_if=what_if)


def texts(figure: Figure) -> dict[str, Text]:
    """Everything written on `figure`, by what it says."""
    return {text.get_text(): text for text in figure.findobj(Text)}


def words(figure: Figure) -> str:
    return "\n".join(texts(figure))


def draw(path: Path) -> None:
    """A sheet with everything on it: right, wrong, flat."""
    save(sheet([tile(), tile(prediction="tench"), tile(low=0.75)], JET, 60), path)


def test_pairs_tile_near_a_square() -> None:
    expected = [1] * 3 + [2] * 7 + [3] * 10
    assert [columns(count) for count in range(1, 21)] == expected


def test_a_pair_shows_the_image_left_and_the_overlay_right() -> None:
    given = tile()
    assert len(sheet([given] * 3, Style("jet", 0.5), 50).axes) == 6
    left, right = sheet([given], Style("jet", 0.5), 50).axes
    assert left.get_position().x1 < right.get_position().x0
    assert np.array_equal(left.images[0].get_array(), given.image)
    assert np.array_equal(right.images[0].get_array(), given.overlay(Style("jet", 0.5)))


def test_right_and_wrong_differ_in_mark_and_in_colour() -> None:
    right = texts(sheet([tile()], JET, 50))
    wrong = texts(sheet([tile(prediction="tench")], JET, 50))
    assert right["church → church"].get_color() == right["88% ✓"].get_color()
    assert wrong["church → tench"].get_color() == wrong["88% ✗"].get_color()
    assert right["88% ✓"].get_color() != wrong["88% ✗"].get_color()


def test_the_raw_range_is_written_and_only_a_flat_map_is_stamped() -> None:
    lively, flat = texts(sheet([tile()], JET, 50)), texts(sheet([tile(low=0.75)], JET, 50))
    assert "attention 0.20\N{EN DASH}0.80" in lively and "flat map" not in lively
    assert "attention 0.75\N{EN DASH}0.80" in flat and "flat map" in flat


def test_long_class_names_keep_clear_of_the_confidence() -> None:
    figure = sheet([tile("English springer", "Norwegian elkhound, elkhound, elkdog")], JET, 50)
    figure.draw_without_rendering()
    (names,) = (text for said, text in texts(figure).items() if "English springer →" in said)
    assert names.get_text().endswith("…")
    assert names.get_window_extent().x1 < texts(figure)["88% ✗"].get_window_extent().x0


@pytest.mark.parametrize("name", ["W" * 40, "i" * 200, "a b " * 30])
def test_a_name_of_any_width_stays_in_its_place(name: str) -> None:
    error = looking(error=True)
    given = error._replace(tile=error.tile._replace(truth=name, prediction=name[1:]))
    for figure in (sheet([given.tile], JET, 50), item_figure(given, JET, 50)):
        figure.draw_without_rendering()
        cut = [text for said, text in texts(figure).items() if "…" in said]
        assert cut and all(text.get_window_extent().x1 <= figure.bbox.x1 for text in cut)
    titles = [axes.get_title(loc="left") for axes in item_figure(given, JET, 50).axes]
    assert any(title.startswith("for ") and "…: disc, 61" in title for title in titles)


def test_truth_stays_left_of_the_prediction_in_every_script() -> None:
    """Both names run from right to left: isolated, each keeps its place in a line of ours."""
    written = texts(sheet([tile(ARABIC, HEBREW)], JET, 50))
    assert f"\u2068{ARABIC}\u2069 → \u2068{HEBREW}\u2069" in written


def test_dollars_in_a_class_name_are_letters(tmp_path: Path) -> None:
    save(sheet([tile("$\\oops$")], JET, 50), tmp_path / "sheet.png")


def test_dpi_scales_the_picture_and_no_writer_is_named(tmp_path: Path) -> None:
    shapes = []
    for dpi in (50, 100):
        save(sheet([tile()], JET, dpi), tmp_path / "sheet.png")
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


def test_a_colour_is_a_value_whatever_else_is_in_the_map() -> None:
    ends = colours(np.array([[0, 1]], np.float32), UNIT, 0, 1)
    assert [tuple(pixel) for pixel in ends[0].tolist()] == list(VIRIDIS)
    low, high = (np.array([[v, 0.5]], np.float32) for v in (0.1, 0.9))
    assert (colours(low, UNIT, 0, 1)[0, 1] == colours(high, UNIT, 0, 1)[0, 1]).all()
    assert (colours(7 * high, UNIT, 0, 1)[0, 1] == VIRIDIS[1]).all()  # beyond the scale


def test_no_evidence_is_nearly_white_and_both_maps_share_one_scale() -> None:
    assert colours(np.zeros((1, 1), np.float32), SIGNED, -2, 2).min() > 240
    pair = np.array([[1, -3]], np.float32), np.array([[2, 0]], np.float32)
    assert item()._replace(evidence=pair).scale == 3
    assert item()._replace(evidence=(pair[0] * 0, pair[1] * 0)).scale == 1


def test_truth_prediction_confidence_srg_and_gain_ratio_are_written() -> None:
    text = words(item_figure(item(), JET, 50))
    for part in ("disc → disc", "88% ✓", "best of its class", "SRG 0.50", "gain ratio 1.50"):
        assert part in text
        assert "flat map" not in text
    flat = words(item_figure(item(low=0.75, srg=None), JET, 50))
    assert "not scored" in flat and "flat map" in flat


def test_the_file_is_written_and_a_long_path_keeps_its_end() -> None:
    assert words(item_figure(item()._replace(file="val/disc/7.png"), JET, 50)).count("7.png") == 1
    long = item()._replace(file="val/" + "deep/" * 40 + "disc/7.png")
    figure = item_figure(long, JET, 50)
    figure.draw_without_rendering()
    (heading,) = (text for said, text in texts(figure).items() if "7.png" in said)
    assert "\n…" in heading.get_text() and heading.get_text().endswith("/disc/7.png")
    assert heading.get_window_extent().x1 <= figure.bbox.x1


def test_the_panels_are_the_image_its_overlay_and_the_cells_of_its_map() -> None:
    given = tile()
    image, overlay, cells = map_panels(given, JET)
    assert np.array_equal(image.pixels, given.image)
    assert np.array_equal(overlay.pixels, given.overlay(JET))
    assert np.array_equal(cells.pixels, colours(given.attention, UNIT, 0, 1)) and cells.cells
    assert cells.caption == "map 0.20\N{EN DASH}0.80"
    assert cells.alt == "The attention map, 4 x 4 cells from 0.20 to 0.80"


def test_another_map_is_named_and_its_cells_are_on_the_scale_of_all() -> None:
    values = np.array([[-1, 3]], np.float32)
    given = tile()._replace(other=Heat("att_cam", values, (-2, 4)))
    _, overlay, cells = map_panels(given, JET)
    assert np.array_equal(cells.pixels, colours(values, UNIT, -2, 4))
    assert cells.caption == "Att-CAM \N{MINUS SIGN}1.0 to 3.0"
    assert "Att-CAM map laid over it" in overlay.alt
    bar = rows(item()._replace(tile=given), JET)[0]
    assert (bar.palette, bar.scale) == (UNIT, (-2, 4))


def test_a_tile_of_a_looking_network_has_a_third_picture_of_what_it_saw() -> None:
    given = looking().tile
    assert given.look is not None
    figure = sheet([given] * 3, JET, 50)
    assert len(figure.axes) == 9
    image, overlay, seen = figure.axes[:3]
    assert image.get_position().x1 < overlay.get_position().x0
    assert overlay.get_position().x1 < seen.get_position().x0
    assert np.array_equal(seen.images[0].get_array(), given.look.seen)
    assert "M 0.50\N{EN DASH}0.80, class map range 7.3 logits" in texts(figure)
    assert "Right: what the network decided on" in words(figure)


def test_tiles_of_three_pictures_are_as_near_a_square() -> None:
    assert [columns(count, 3) for count in (1, 3, 4, 10, 12)] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("colour", ["jet", "viridis"])
def test_all_of_the_key_is_on_a_sheet_of_one_column(colour: str) -> None:
    """The sheet of a data set of two classes, trained with `look`: its key is wider than it."""
    for given in (tile(), looking().tile):
        figure = sheet([given] * 2, Style(colour, 1.0), 100)
        assert len({round(axes.get_position().y0, 3) for axes in figure.axes}) == 2
        key, width = figure.texts[-1].get_window_extent(), figure.get_size_inches()[0] * 100
        assert key.x0 >= 0 and key.x1 <= width and key.y0 >= 0
        lowest = min(axes.get_position().y0 for axes in figure.axes) * figure.bbox.height
        assert key.y1 < lowest - 0.15 * 100  # the range of a map is written below its picture


@pytest.mark.parametrize(
    ("colour", "other", "expected"),
    [
        ("jet", None, "from each map's lowest value (blue) to its highest (red)"),
        ("viridis", None, "from 0.00 (violet) to 1.00 (yellow) in every picture"),
        ("viridis", (-1, 3), "from each map's lowest value (violet) to its highest (yellow)"),
    ],
)
def test_the_key_says_what_the_colours_stand_for(colour, other, expected) -> None:
    heat = other and Heat("att_cam", np.array([other], np.float32), other)
    figure = sheet([tile()._replace(other=heat)], Style(colour, 1.0), 50)
    assert expected in words(figure).replace("\n", " ")


def test_an_item_of_a_looking_network_shows_what_it_saw_and_what_if() -> None:
    second = rows(looking(), JET)[1]
    assert [panel and panel.caption for panel in second.panels] == [
        "what it saw, for ring",
        None,
        None,
    ]
    *_, second, evidence = rows(looking(error=True), JET)
    seen, what_if, empty = second.panels
    assert seen and what_if and empty is None and not second.palette
    assert what_if.caption == "for disc: disc, 61\N{NO-BREAK SPACE}%"
    assert (what_if.pixels == 9).all() and evidence.palette == SIGNED
    text = words(item_figure(looking(error=True), JET, 50))
    assert "class map range 7.3 logits" in text and "gain ratio" not in text


def test_the_part_that_is_enough_is_shown_with_its_share_and_the_map_that_ranked() -> None:
    part = Enough(np.zeros((8, 8, 3), np.uint8), 0.234, "attention")
    (panel, *_) = rows(item()._replace(enough=part), JET)[1].panels
    assert panel and panel.caption == "these 23\N{NO-BREAK SPACE}% are enough"
    (panel, *_) = rows(item()._replace(enough=part._replace(share=0.004)), JET)[1].panels
    assert panel and panel.caption == "these 0.4\N{NO-BREAK SPACE}% are enough"
    (panel, *_) = rows(item()._replace(enough=part._replace(name="att_cam")), JET)[1].panels
    assert panel and panel.caption.endswith("are enough (Att-CAM)")
    (panel, *_) = rows(item()._replace(enough=part._replace(share=1.0)), JET)[1].panels
    assert panel and panel.caption == "all of it is needed"


def test_the_evidence_for_both_classes_is_on_one_scale() -> None:
    predicted, true = evidence_panels(item(error=True))
    assert (predicted.pixels == colours(np.full((4, 4), 1.0), SIGNED, -1, 1)).all()
    assert (true.pixels == colours(np.full((4, 4), -0.5), SIGNED, -1, 1)).all()
    assert (predicted.caption, true.caption) == ("ring: 2.0", "disc: \N{MINUS SIGN}1.0")
    assert evidence_panels(item()) == []


def test_an_error_shows_the_evidence_for_both_classes() -> None:
    right, wrong = (item_figure(item(error=error), JET, 50) for error in (False, True))
    assert len(wrong.axes) == len(right.axes) + 4  # a note, two maps and their bar
    for part in ("disc → ring", "88% ✗", "ring: 2.0", "disc: \N{MINUS SIGN}1.0"):
        assert part in words(wrong)


def test_a_gallery_figure_drawn_twice_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(item_figure(item(error=True), JET, 50), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] == 225


if __name__ == "__main__":  # the other process
    draw(Path(sys.argv[1]))


@pytest.mark.parametrize("count", [1, 3, 10])
def test_a_sheet_is_cut_into_its_tiles_again(count: int, tmp_path: Path) -> None:
    """The image of each tile has a grey of its own; it is in that tile and in no other."""
    greys = [20 + 20 * place for place in range(count)]
    tiles = [tile()._replace(image=np.full((8, 8, 3), grey, np.uint8)) for grey in greys]
    save(sheet(tiles, JET, 60), tmp_path / "sheet.png")
    picture = np.round(255 * matplotlib.image.imread(tmp_path / "sheet.png")[..., :3]).astype(int)
    found = tiles_of(picture, count, 2)
    for grey, cut in zip(greys, found, strict=True):
        areas = [int((cut == [other] * 3).all(-1).sum()) for other in greys]
        assert areas[greys.index(grey)] > 80 * 80 and sum(areas) - max(areas) < 80
    assert tiles_of(picture, count + 1, 2) == [] or count == 10
