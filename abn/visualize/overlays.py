"""Pictures for people: the attention laid over its image, and a sheet of such pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from abn.explain.case import FLAT
from abn.visualize.heat import overlay as overlay  # overlays.overlay

# Inches. A pair is an image and its overlay, a line above and a line below.
_IMAGE, _SEAM = 1.5, 0.05
_HEAD, _FOOT = 0.19, 0.17
_GAP_X, _GAP_Y, _MARGIN, _NOTE = 0.32, 0.08, 0.18, 0.2
_PAIR_WIDTH, _PAIR_HEIGHT = 2 * _IMAGE + _SEAM, _HEAD + _IMAGE + _FOOT

GREEN, RED, INK, GREY = "#116329", "#b3191e", "#1f2328", "#59636e"  # all above 5:1 on white
_LONGEST_NAME = 19  # characters; two of them and a confidence fill the line above a pair
LARGE, SMALL = 8.0, 6.5  # points
_KEY = "Colours run from each map's lowest value (blue) to its highest (red)"


class Tile(NamedTuple):
    """An image, the map the network drew for it, and what it took the image for."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    attention: NDArray[np.float32]  # [h, w] in (0, 1), as the network gave it
    truth: str
    prediction: str
    confidence: float  # of the prediction, 0 to 1


def is_flat(attention: NDArray[np.float32]) -> bool:
    """Whether the map [h, w] changes the features hardly anywhere more than elsewhere."""
    return gain_ratio(attention) < FLAT


def gain_ratio(attention: NDArray[np.float32]) -> float:
    """The largest gain (1 + map) over the smallest: 1 to 2, and 1 means that nothing is weighed."""
    return float((1 + attention.max()) / (1 + attention.min()))


def columns(count: int) -> int:
    """Pairs a row, so that `count` (>= 1) pairs, each two images wide, tile nearest a square."""

    def skew(pairs: int) -> float:
        width, height = 2 * pairs, -(-count // pairs)
        return max(width / height, height / width)

    # The wider of two equals: the lines of text make the rows higher than their images.
    return min(range(count, 0, -1), key=skew)


def sheet(tiles: Sequence[Tile], alpha: float, dpi: int) -> Figure:
    """A figure of all `tiles` (>= 1): image left, `overlay` right, what was said of it around."""
    across = columns(len(tiles))
    down = -(-len(tiles) // across)
    width = 2 * _MARGIN + across * (_PAIR_WIDTH + _GAP_X) - _GAP_X
    height = 2 * _MARGIN + down * (_PAIR_HEIGHT + _GAP_Y) - _GAP_Y + _NOTE
    figure = Figure((width, height), dpi, facecolor="white")
    for place, tile in enumerate(tiles):
        row, column = divmod(place, across)
        left = _MARGIN + column * (_PAIR_WIDTH + _GAP_X)
        top = height - _MARGIN - row * (_PAIR_HEIGHT + _GAP_Y)
        _pair(figure, left, top - _HEAD - _IMAGE, tile, alpha)
    figure.text(0.5, _MARGIN / height, _KEY, ha="center", color=GREY, fontsize=SMALL)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write `figure` to `path` as PNG; the same figure gives the same bytes."""
    figure.savefig(path, format="png", dpi="figure", metadata={"Software": None})


def picture(
    figure: Figure,
    left: float,
    bottom: float,
    side: float,
    image: NDArray[np.uint8],
    interpolation: str = "bilinear",
) -> Axes:
    """Square axes without frame or ticks at (left, bottom) inches of `figure`, showing `image`."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    axes.imshow(image, interpolation=interpolation)
    axes.set_axis_off()
    return axes


def stamp(axes: Axes) -> None:
    """Write "flat map" across `axes`."""
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": LARGE, "weight": "bold"}
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": INK}
    axes.text(0.5, 0.5, "flat map", color=INK, bbox=box, transform=axes.transAxes, **style)


def short(name: str) -> str:
    """`name`, cut where it would run into what stands beside it."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _pair(figure: Figure, left: float, bottom: float, tile: Tile, alpha: float) -> None:
    """Draw one tile with the lower left corner of its image at (left, bottom) inches."""
    original = picture(figure, left, bottom, _IMAGE, tile.image)
    laid = overlay(tile.image, tile.attention, alpha)
    heat = picture(figure, left + _IMAGE + _SEAM, bottom, _IMAGE, laid)
    _verdict(original, heat, tile)
    _reach(heat, tile.attention)


def _verdict(original: Axes, heat: Axes, tile: Tile) -> None:
    """The line above a pair; a mark says right or wrong to those who see no colour."""
    colour, mark = (GREEN, "✓") if tile.truth == tile.prediction else (RED, "✗")
    style: dict[str, Any] = {"color": colour, "fontsize": LARGE, "pad": 4, "parse_math": False}
    original.set_title(f"{short(tile.truth)} → {short(tile.prediction)}", loc="left", **style)
    heat.set_title(f"{tile.confidence:.0%} {mark}", loc="right", **style)


def _reach(heat: Axes, attention: NDArray[np.float32]) -> None:
    """The map's raw range below it, which its stretched colours hide; a stamp on a flat one."""
    reach = f"attention {attention.min():.2f}\N{EN DASH}{attention.max():.2f}"
    style: dict[str, Any] = {"transform": heat.transAxes, "fontsize": SMALL}
    heat.text(1, -0.03, reach, ha="right", va="top", color=GREY, **style)
    if is_flat(attention):
        stamp(heat)
