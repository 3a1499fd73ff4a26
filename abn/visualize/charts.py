"""Line charts for the report: matplotlib's SVG, in the colours of the page's style sheet."""

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Range = tuple[float, float]
Column: TypeAlias = "pd.Series[float]"
Style = tuple[str, str, float]  # colour, dashes, width
Series = Mapping[str, tuple[str, Style]]  # column -> label, style

SIZE = (440 / 72, 320 / 72)  # inches; an SVG of matplotlib has 72 units to the inch
DOTTED = 12  # a line of up to this many points also shows its points
INK, AXIS, GRID, PAGE = "#59636e", "#6e7781", "#d8dee4", "#fefefe"
BLUE, ORANGE, GREEN, VIOLET = "#0550ae", "#bc4c00", "#1a7f37", "#8250df"
VARIABLES = {  # of templates/report.css, which has a light and a dark value for each
    INK: "soft", AXIS: "grey", GRID: "rule", PAGE: "page",
    BLUE: "c0", ORANGE: "c1", GREEN: "c2", VIOLET: "c3",
}  # fmt: skip
FIRST, SECOND, THIRD = (BLUE, "-", 2.0), (ORANGE, "--", 2.0), (GREEN, "-.", 2.0)
REFERENCE: Style = (AXIS, ":", 2.0)
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.labelcolor": INK,
    "svg.fonttype": "none",  # text stays text: to search, to copy, in the page's own font
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.borderpad": 0,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.2,
}


def line_chart(
    title: str,
    table: pd.DataFrame,
    x: str,
    series: Series,
    x_label: str,
    y_label: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    sizes: str | None = None,
    diagonal: str = "",
) -> Markup | None:
    """`series` (column -> label, style) of `table` over its column `x`, as an <svg> element.

    Missing columns and values are left out; None where nothing is left. Without a `y_range` the
    axis starts at 0. `sizes` names the column that the dots' areas are proportional to, `diagonal`
    labels a line from corner to corner. The same values give the same bytes.
    """
    lines = {name: table.dropna(subset=[x, name]) for name in series if name in table}
    lines = {name: rows for name, rows in lines.items() if len(rows)}
    if not lines:
        return None
    with matplotlib.rc_context(RC | {"svg.hashsalt": title}):
        figure = Figure(SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
        if diagonal:
            axes.plot([0, 1], [0, 1], REFERENCE[1], color=REFERENCE[0], lw=2, label=diagonal)
        for name, rows in reversed(lines.items()):  # the first series is drawn on top
            label, style = series[name]
            _draw(axes, rows[x], rows[name], rows[sizes] if sizes else None, label, style)
        axes.set(xlim=x_range, ylim=y_range or (0, None))
        _decorate(figure, axes)
        return _element(figure, f"{title}: {'; '.join(_summaries(lines, series))}")


def _draw(
    axes: Axes, x: Column, y: Column, sizes: "Column | None", label: str, style: Style
) -> None:
    """One line, with dots on it where they can be told apart."""
    colour, dashes, width = style
    marker = "o" if len(x) <= DOTTED and sizes is None else ""
    line: dict[str, Any] = {"color": colour, "marker": marker, "ms": 5, "clip_on": False}
    axes.plot(x, y, dashes, lw=width, label=label, **line)
    if sizes is not None:
        radius = 2 + 7 * (sizes / sizes.max()) ** 0.5
        axes.scatter(x, y, (2 * radius) ** 2, colour, edgecolors=PAGE, clip_on=False)


def _decorate(figure: Figure, axes: Axes) -> None:
    """Few ticks, a quiet grid, one line of frame, and the legend below."""
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(AXIS)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6)
    is_epoch = axes.get_xlabel() == "epoch"
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=is_epoch))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", ncols=3)


def _summaries(lines: Mapping[str, pd.DataFrame], series: Series) -> Iterator[str]:
    """What each line does, in words."""
    for name, rows in lines.items():
        first, last = rows[name].iloc[0], rows[name].iloc[-1]
        yield f"{series[name][0]} from {first:.3g} to {last:.3g}"


def _element(figure: Figure, alt: str) -> Markup:
    """`figure` as an element of an HTML page, without what only a file of its own needs."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    body = file.getvalue().partition("<svg")[2].partition(">")[2]
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.S)  # for any page
    body = re.sub(r' id="[\w.]+_\d{1,3}"', "", body)  # they count, from 1 in each chart of a page
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    box = " ".join(f"{72 * inches:g}" for inches in figure.get_size_inches())
    head = Markup('<svg viewBox="0 0 {}" role="img" aria-label="{}">').format(box, alt)
    return head + Markup(body)  # matplotlib has escaped its text
