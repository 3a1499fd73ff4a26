"""Where a chart's lines and ticks go, by hand."""

import pandas as pd
import pytest

from abn.visualize.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, chart

TABLE = pd.DataFrame({"x": [0.0, 0.5, 1.0], "up": [0.0, 0.5, 1.0], "gap": [1.0, None, 0.0]})


def test_an_axis_runs_from_its_start_to_its_end() -> None:
    axis = Axis(0, 10, 100, 0)
    assert axis.place([0, 5, 10]).tolist() == [100, 50, 0]
    assert [tick.label for tick in axis.ticks()] == ["0", "2", "4", "6", "8", "10"]


def test_a_line_goes_from_corner_to_corner_of_its_box() -> None:
    (line,) = chart("t", TABLE, "x", {"up": ("rising", "s0")}, "x").lines
    start, middle, end = (tuple(map(float, p.split(","))) for p in line.points.split())
    assert start == (LEFT, HEIGHT - BOTTOM) and end == (WIDTH - RIGHT, TOP)
    assert middle == ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)


def test_missing_values_and_columns_are_left_out() -> None:
    drawn = chart("t", TABLE, "x", {"gap": ("g", "s0"), "absent": ("a", "s1")}, "x")
    (line,) = drawn.lines
    assert len(line.dots) == 2
    assert drawn.summary == "g from 1 to 0"


def test_what_was_not_measured_has_no_lines_and_says_so() -> None:
    drawn = chart("t", TABLE, "x", {"absent": ("a", "s0")}, "x")
    assert not drawn.lines and drawn.summary == "not measured"


def test_a_single_point_and_a_line_at_zero_can_be_drawn() -> None:
    one = pd.DataFrame({"epoch": [1], "loss": [0.0]})
    (line,) = chart("t", one, "epoch", {"loss": ("loss", "s0")}, "epoch").lines
    assert line.points == f"{WIDTH - RIGHT},{HEIGHT - BOTTOM}"


def test_the_area_of_a_dot_is_its_share_of_the_largest() -> None:
    table = TABLE.assign(images=[100, 25, 1])
    (line,) = chart("t", table, "x", {"up": ("u", "s0")}, "x", sizes="images").lines
    radii = [radius - 2 for _, _, radius in line.dots]
    assert radii[1] / radii[0] == pytest.approx(0.5)


def test_only_few_points_are_dotted() -> None:
    many = pd.DataFrame({"x": range(50), "y": range(50)})
    assert chart("t", many, "x", {"y": ("y", "s0")}, "x").lines[0].dots == []
