"""One picture of the gallery: what the network saw, where it looked, and how much that weighed."""

from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from abn.visualize import overlays
from abn.visualize.overlays import GREEN, GREY, INK, LARGE, RED, SMALL, Tile

UNIT, SIGNED = "viridis", "RdBu_r"  # colour maps: of the attention map, of evidence for a class

# Inches.
_WIDTH, _SIDE, _GAP, _MARGIN = 4.5, 1.27, 0.06, 0.11
_HEAD, _FOOT, _BAR = 0.28, 0.18, 0.07


class Exhibit(NamedTuple):
    """An image of the gallery and what is to be said of it."""

    name: str  # of its file, without suffix
    role: str  # why it is shown: "best", "median", "worst" or "error"
    tile: Tile
    srg: float | None  # None: not among the images that were scored
    evidence: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    """Of an error: the attention branch's maps [h, w] of the class predicted and of the true one;
    a map's mean is the branch's logit."""


def strongest(evidence: tuple[NDArray[np.float32], NDArray[np.float32]]) -> float:
    """The end of the scale that both maps of `evidence` are drawn on."""
    return float(max(np.abs(part).max() for part in evidence)) or 1.0


def colours(values: NDArray[np.float32], palette: str, low: float, high: float) -> NDArray[Any]:
    """A map [h, w] as uint8 [h, w, 3] RGB: `palette` runs from `low` to `high`.

    Unlike `overlay`'s, the same colour is the same value in every picture.
    """
    scaled = Normalize(low, high, clip=True)(values)
    return np.asarray(matplotlib.colormaps[palette](scaled, bytes=True)[..., :3])


def draw(exhibit: Exhibit, alpha: float, dpi: int) -> Figure:
    """Image, `overlay` and raw map in a row; below an error's the evidence for both its classes."""
    rows = 1 if exhibit.evidence is None else 2
    height = 2 * _MARGIN + _HEAD + rows * (_SIDE + _FOOT)
    figure = Figure((_WIDTH, height), dpi, facecolor="white")
    _head(figure, exhibit)
    bottom = height - _MARGIN - _HEAD - _SIDE
    image, attention = exhibit.tile.image, exhibit.tile.attention
    _panel(figure, 0, bottom, image, "image")
    laid = overlays.overlay(image, attention, alpha)
    heat = _panel(figure, 1, bottom, laid, "overlay, its own range")
    raw = colours(attention, UNIT, 0, 1)
    span = f"map, {attention.min():.2f}\N{EN DASH}{attention.max():.2f}"
    _panel(figure, 2, bottom, raw, span, "nearest")
    _bar(figure, bottom, UNIT, 0, 1)
    if overlays.is_flat(attention):
        overlays.stamp(heat)
    if exhibit.evidence is not None:
        _evidence(figure, bottom - _FOOT - _SIDE, exhibit)
    return figure


def _head(figure: Figure, exhibit: Exhibit) -> None:
    """Two lines: what it is and was taken for; why it is shown and how it scored."""
    tile = exhibit.tile
    colour, mark = (GREEN, "✓") if tile.truth == tile.prediction else (RED, "✗")
    names = f"{overlays.short(tile.truth)} → {overlays.short(tile.prediction)}"
    srg = (
        "not scored"
        if exhibit.srg is None
        else f"SRG {exhibit.srg:.2f}".replace("-", "\N{MINUS SIGN}")
    )
    ratio = f"gain ratio {overlays.gain_ratio(tile.attention):.2f}"
    why = "confident error" if exhibit.role == "error" else f"{exhibit.role} of its class by SRG"
    for line, size, ink, left, right in (
        (0.17, LARGE, colour, names, f"{tile.confidence:.0%} {mark}"),
        (0.31, SMALL, GREY, why, f"{srg} · {ratio}"),
    ):
        _write(figure, _MARGIN, line, left, size=size, color=ink)
        _write(figure, _left(2) + _SIDE, line, right, size=size, color=ink, ha="right")


def _evidence(figure: Figure, bottom: float, exhibit: Exhibit) -> None:
    """The second row: Att-CAM of the class predicted and of the true one, on one scale."""
    assert exhibit.evidence is not None
    most = strongest(exhibit.evidence)
    names = exhibit.tile.prediction, exhibit.tile.truth
    for column, (name, values) in enumerate(zip(names, exhibit.evidence, strict=True), start=1):
        text = f"Att-CAM {overlays.short(name)}"
        _panel(figure, column, bottom, colours(values, SIGNED, -most, most), text, "nearest")
    _bar(figure, bottom, SIGNED, -most, most)
    lines = ["What the attention branch", "counts for (red) and against", "(blue) each class.", ""]
    logits = (
        f"{overlays.short(n)} {v.mean():.1f}" for n, v in zip(names, exhibit.evidence, strict=True)
    )
    text = "\n".join([*lines, "Its logits:", *logits]).replace("-", "\N{MINUS SIGN}")
    height = figure.get_size_inches()[1]
    _write(figure, _MARGIN, height - bottom - _SIDE, text, size=SMALL, color=GREY, va="top")


def _left(column: int) -> float:
    return _MARGIN + column * (_SIDE + _GAP)


def _panel(
    figure: Figure,
    column: int,
    bottom: float,
    image: NDArray[np.uint8],
    text: str,
    interpolation: str = "bilinear",
) -> Axes:
    """A picture and the words below it."""
    axes = overlays.picture(figure, _left(column), bottom, _SIDE, image, interpolation)
    below = figure.get_size_inches()[1] - bottom + 0.11
    _write(figure, _left(column), below, text, size=SMALL, color=GREY)
    return axes


def _bar(figure: Figure, bottom: float, palette: str, low: float, high: float) -> None:
    """The colour bar right of a row."""
    width, height = figure.get_size_inches()
    left = (_left(2) + _SIDE + _GAP) / width
    axes = figure.add_axes((left, bottom / height, _BAR / width, _SIDE / height))
    middle = (low + high) / 2
    bar = figure.colorbar(ScalarMappable(Normalize(low, high), palette), axes)
    bar.set_ticks(
        [low, middle, high],
        labels=[f"{v:.2g}".replace("-", "\N{MINUS SIGN}") for v in (low, middle, high)],
    )
    bar.outline.set_visible(False)
    axes.tick_params(length=2, pad=1, labelsize=SMALL - 0.5, color=GREY, labelcolor=INK)


def _write(figure: Figure, left: float, down: float, text: str, **style: Any) -> None:
    """`text` with its baseline `down` inches below the top edge."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - down / height, text, parse_math=False, **style)
