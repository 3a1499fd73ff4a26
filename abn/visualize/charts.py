"""Line charts as numbers: where lines, dots and ticks go; templates/parts.html draws them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

# Of the drawing; its units are pixels where it is shown 1 : 1.
WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 10, 44
DOTTED = 12  # up to so many points are marked as dots too

Range = tuple[float, float]


class Tick(NamedTuple):
    """A value on an axis, and where it is."""

    at: float
    label: str


class Axis(NamedTuple):
    """Values from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, values: ArrayLike) -> NDArray[np.float64]:
        """Where `values` are in the drawing."""
        share = (np.asarray(values, float) - self.low) / (self.high - self.low)
        return (self.start + (self.end - self.start) * share).round(1)

    def ticks(self) -> list[Tick]:
        """About five round values."""
        slack = (self.high - self.low) / 1000
        locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
        values = np.asarray(locator.tick_values(self.low, self.high))
        inside = values[(values >= self.low - slack) & (values <= self.high + slack)]
        places = self.place(inside).tolist()
        return [Tick(at, f"{v:g}") for at, v in zip(places, inside.tolist(), strict=True)]


class Line(NamedTuple):
    """One series."""

    label: str
    style: str  # a class of the style sheet
    points: str  # as SVG's polyline wants them
    dots: list[tuple[float, float, float]]  # x, y, radius


class Chart(NamedTuple):
    """What the template needs; a chart without lines had nothing to draw."""

    title: str
    x_label: str
    diagonal: str  # what the line from corner to corner means; empty: none is drawn
    summary: str = "not measured"  # what the lines do, in words
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    lines: tuple[Line, ...] = ()
    box: tuple[int, int, int, int] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    size: tuple[int, int] = (WIDTH, HEIGHT)


def chart(
    title: str,
    table: pd.DataFrame,
    x: str,
    series: Mapping[str, tuple[str, str]],
    x_label: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    sizes: str | None = None,
    diagonal: str = "",
) -> Chart:
    """`series` (column -> label, style) of `table` over its column `x`.

    A column or a value that is missing is left out. Without a range an axis runs over all values,
    y from 0. `sizes` is a column that the dots' areas are proportional to.
    """
    found = {name: table.dropna(subset=[x, name]) for name in series if name in table}
    found = {name: rows for name, rows in found.items() if len(rows)}
    if not found:
        return Chart(title, x_label, diagonal)
    low, high = x_range or _extent([rows[x] for rows in found.values()])
    bottom, top = y_range or (0, _extent([rows[name] for name, rows in found.items()])[1] or 1)
    across = Axis(low, high, LEFT, WIDTH - RIGHT)
    up = Axis(bottom, top, HEIGHT - BOTTOM, TOP)
    lines, words = [], []
    for name, rows in found.items():
        label, style = series[name]
        places = across.place(rows[x]).tolist(), up.place(rows[name]).tolist()
        area = rows[sizes] / rows[sizes].max() if sizes else None
        lines.append(_line(label, style, *places, area))
        words.append(f"{label} from {rows[name].iloc[0]:.3g} to {rows[name].iloc[-1]:.3g}")
    ticks = tuple(across.ticks()), tuple(up.ticks())
    return Chart(title, x_label, diagonal, "; ".join(words), *ticks, tuple(lines))


def _line(
    label: str, style: str, xs: list[float], ys: list[float], area: "pd.Series[float] | None"
) -> Line:
    points = " ".join(f"{x:g},{y:g}" for x, y in zip(xs, ys, strict=True))
    if area is not None:
        radii = (2 + 7 * area.to_numpy(float) ** 0.5).round(1).tolist()
    else:
        radii = [2.5] * len(xs) if len(xs) <= DOTTED else []
    return Line(label, style, points, list(zip(xs, ys, radii, strict=False)))


def _extent(columns: list["pd.Series[float]"]) -> Range:
    """The least and the greatest value; a single one gets room to its left."""
    low, high = min(float(c.min()) for c in columns), max(float(c.max()) for c in columns)
    return (low, high) if low < high else (low - 1, high)
