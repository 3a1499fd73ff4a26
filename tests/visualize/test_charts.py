"""Line charts: which lines are drawn, what they say in words, and an SVG that fits into a page."""

import re

import pandas as pd

from abn.visualize.charts import FIRST, SECOND, VARIABLES, line_chart

TABLE = pd.DataFrame({"x": [0.0, 0.5, 1.0], "up": [0.0, 0.5, 1.0], "gap": [1.0, None, 0.0]})
UP = {"up": ("rising", FIRST)}


def lines(svg: str, variable: str = "c0") -> list[str]:
    """The points of the lines drawn in one colour of the style sheet, the legend's too."""
    pattern = rf'<path d="([^"]*)" style="fill: none;[^"]*stroke: var\(--{variable}\)'
    return re.findall(pattern, svg)


def test_a_line_has_a_point_for_each_row_and_rises_on_the_page() -> None:
    first, *_ = lines(line_chart("t", TABLE, "x", UP, "x", "y") or "")
    points = [tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", first)]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2 and y0 > y1 > y2
    assert abs(x1 - (x0 + x2) / 2) < 1e-3 and abs(y1 - (y0 + y2) / 2) < 1e-3


def test_missing_values_and_columns_are_left_out() -> None:
    series = {"gap": ("g", FIRST), "absent": ("a", SECOND)}
    svg = line_chart("t", TABLE, "x", series, "x", "y") or ""
    assert 'aria-label="t: g from 1 to 0"' in svg
    assert lines(svg)[0].count("L ") == 1 and not lines(svg, VARIABLES[SECOND[0]])


def test_nothing_measured_is_no_chart() -> None:
    assert line_chart("t", TABLE, "x", {"absent": ("a", FIRST)}, "x", "y") is None
    assert line_chart("t", pd.DataFrame(), "x", UP, "x", "y") is None


def test_a_few_points_are_drawn_as_dots_many_as_a_line() -> None:
    for count, dots in ((1, True), (50, False)):
        table = pd.DataFrame({"x": range(count), "y": range(count)})
        assert (
            "<use " in (line_chart("t", table, "x", {"y": ("y", FIRST)}, "x", "y") or "")
        ) == dots


def test_all_colours_are_variables_of_the_page() -> None:
    table = TABLE.assign(images=[100, 25, 1])
    svg = line_chart("t", table, "x", UP, "x", "y", sizes="images", diagonal="even") or ""
    assert not re.findall(r"#[0-9a-f]{6}\b(?![0-9a-f])", re.sub(r"#[mpC]\w+", "", svg))
    assert ">even</text>" in svg and ">rising</text>" in svg


def test_two_charts_share_no_id_and_the_same_chart_has_the_same_bytes() -> None:
    one, two = (line_chart(title, TABLE, "x", UP, "x", "y") or "" for title in "ab")
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (one, two)]
    assert len({*ids[0], *ids[1]}) == len(ids[0]) + len(ids[1])
    assert line_chart("a", TABLE, "x", UP, "x", "y") == one
