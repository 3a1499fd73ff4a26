"""The PNG figures: a sheet of overlays, and one figure for each image of the gallery."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from abn.explain.case import FLAT
from abn.visualize.overlay import overlay
from abn.visualize.tables import number, plain

UNIT, SIGNED = "viridis", "RdBu_r"  # colour maps: of attention, of evidence for a class
GREEN, RED, INK, GREY = "#116329", "#b3191e", "#1f2328", "#59636e"  # contrast on white above 5:1
LARGE, SMALL = 8.0, 6.5  # points
DASH = "\N{EN DASH}"

# Inches. In the sheet a pair is an image and its overlay, with a line above and a line below.
_IMAGE, _SEAM = 1.5, 0.05
_ABOVE, _BELOW = 0.19, 0.17
_GAP_X, _GAP_Y, _BORDER, _NOTE = 0.32, 0.08, 0.18, 0.2
_PAIR_WIDTH, _PAIR_HEIGHT = 2 * _IMAGE + _SEAM, _ABOVE + _IMAGE + _BELOW

_NAME = 19  # characters; two names and a confidence fill the line above a pair
_KEY = "Colours run from each map's lowest value (blue) to its highest (red)"
_EVIDENCE = """What the attention branch
counts for (red) and against
(blue) each class. Below
each map is its mean, the
logit."""


class Tile(NamedTuple):
    """An image, the attention map of the network, and its prediction."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    attention: NDArray[np.float32]  # [h, w] in (0, 1), as the network gave it
    truth: str
    prediction: str
    confidence: float  # of the prediction, 0 to 1

    @property
    def correct(self) -> bool:
        return self.truth == self.prediction

    @property
    def gain_ratio(self) -> float:
        """The largest gain (1 + map) over the smallest: 1 to 2; at 1 the map changes nothing."""
        return float((1 + self.attention.max()) / (1 + self.attention.min()))

    @property
    def flat(self) -> bool:
        """Whether the map weighs all places about the same."""
        return self.gain_ratio < FLAT

    def overlay(self, alpha: float) -> NDArray[np.uint8]:
        return overlay(self.image, self.attention, alpha)


class GalleryItem(NamedTuple):
    """An image of the gallery and what is known about it."""

    name: str  # of its file, without suffix
    role: str  # why it is in the gallery: "best", "median", "worst" or "error"
    tile: Tile
    srg: float | None  # None: not among the images that were scored
    evidence: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    """Of an error: the attention branch's maps [h, w] of the class predicted and of the true one;
    a map's mean is the branch's logit."""

    @property
    def scale(self) -> float:
        """Both maps of `evidence` are drawn from minus this value to plus this value."""
        return float(max(np.abs(values).max() for values in self.evidence or ())) or 1.0


class Panel(NamedTuple):
    """A picture of a gallery item, in its PNG and in the report."""

    pixels: NDArray[np.uint8]  # RGB
    caption: str
    alt: str  # the picture in words
    cells: bool = False  # pixels are cells of a map: do not smooth them


def sheet(tiles: Sequence[Tile], alpha: float, dpi: int) -> Figure:
    """A figure of all `tiles` (>= 1): image left, `overlay` right, prediction above."""
    across = columns(len(tiles))
    down = -(-len(tiles) // across)
    width = 2 * _BORDER + across * (_PAIR_WIDTH + _GAP_X) - _GAP_X
    height = 2 * _BORDER + down * (_PAIR_HEIGHT + _GAP_Y) - _GAP_Y + _NOTE
    figure = Figure((width, height), dpi, facecolor="white")
    for place, tile in enumerate(tiles):
        row, column = divmod(place, across)
        left = _BORDER + column * (_PAIR_WIDTH + _GAP_X)
        top = height - _BORDER - row * (_PAIR_HEIGHT + _GAP_Y)
        _pair(figure, left, top - _ABOVE - _IMAGE, tile, alpha)
    figure.text(0.5, _BORDER / height, _KEY, ha="center", color=GREY, fontsize=SMALL)
    return figure


def columns(count: int) -> int:
    """Pairs per row that bring `count` (>= 1) pairs, each two images wide, nearest to a square."""

    def skew(pairs: int) -> float:
        width, height = 2 * pairs, -(-count // pairs)
        return max(width / height, height / width)

    # The wider of two equals: the lines of text make the rows higher than their images.
    return min(range(count, 0, -1), key=skew)


def item_figure(item: GalleryItem, alpha: float, dpi: int) -> Figure:
    """Image, overlay and raw map in a row; for an error a second row with the evidence."""
    rows = 1 if item.evidence is None else 2
    figure = Figure((4.5, 0.4 + 1.5 * rows), dpi, facecolor="white", layout="constrained")
    style: dict[str, Any] = {"ha": "left", "fontsize": LARGE, "parse_math": False}
    figure.suptitle(_heading(item), x=0.01, color=_mark(item.tile)[0], **style)
    grid = figure.subplots(rows, 3, squeeze=False)
    _row(figure, grid[0], map_panels(item.tile, alpha), ScalarMappable(Normalize(0, 1), UNIT))
    if item.tile.flat:
        _stamp(grid[0, 1])
    if item.evidence is not None:
        scale = ScalarMappable(Normalize(-item.scale, item.scale), SIGNED)
        _row(figure, grid[1], [None, *evidence_panels(item)], scale)
        note: dict[str, Any] = {"va": "top", "fontsize": SMALL, "color": GREY, "in_layout": False}
        grid[1, 0].text(0, 1, _EVIDENCE, **note)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write `figure` to `path` as PNG; the same figure gives the same bytes."""
    figure.savefig(path, format="png", dpi="figure", metadata={"Software": None})


def map_panels(tile: Tile, alpha: float) -> list[Panel]:
    """The image, its overlay, and the cells of its map on a scale of 0 to 1."""
    low, high = float(tile.attention.min()), float(tile.attention.max())
    height, width = tile.attention.shape
    span = f"{low:.2f}{DASH}{high:.2f}"
    cells = colours(tile.attention, UNIT, 0, 1)
    overlay_alt = "The same image with its attention map laid over it"
    map_alt = f"The attention map, {height} x {width} cells from {low:.2f} to {high:.2f}"
    return [
        Panel(tile.image, "image", f"An image of class {tile.truth}"),
        Panel(tile.overlay(alpha), "overlay", overlay_alt),
        Panel(cells, f"map {span}", map_alt, cells=True),
    ]


def evidence_panels(item: GalleryItem) -> list[Panel]:
    """Of an error: Att-CAM of the class predicted and of the true one, on one scale."""
    panels = []
    roles = ("predicted", item.tile.prediction), ("true", item.tile.truth)
    for (role, name), values in zip(roles, item.evidence or (), strict=False):
        logit = number(float(values.mean()), 1)
        alt = f"Att-CAM of the {role} class {name}, mean {logit}, on a scale of ±{item.scale:.1f}"
        pixels = colours(values, SIGNED, -item.scale, item.scale)
        panels.append(Panel(pixels, f"{short(name)}: {logit}", alt, cells=True))
    return panels


def colours(values: NDArray[np.float32], palette: str, low: float, high: float) -> NDArray[Any]:
    """A map [h, w] as uint8 [h, w, 3] RGB: `palette` runs from `low` to `high`.

    The same colour is the same value in every picture, unlike in an overlay.
    """
    scaled = Normalize(low, high, clip=True)(values)
    return np.asarray(matplotlib.colormaps[palette](scaled, bytes=True)[..., :3])


def short(name: str) -> str:
    """`name`, cut so that it does not run into the text beside it."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _pair(figure: Figure, left: float, bottom: float, tile: Tile, alpha: float) -> None:
    """Draw one tile with the lower left corner of its image at (left, bottom) inches.

    Above are classes and confidence, with a mark, so that right and wrong do not differ by colour
    alone; below is the map's range, which the stretched colours hide.
    """
    original = _picture(figure, left, bottom, tile.image)
    heat = _picture(figure, left + _IMAGE + _SEAM, bottom, tile.overlay(alpha))
    colour, mark = _mark(tile)
    style: dict[str, Any] = {"color": colour, "fontsize": LARGE, "pad": 4, "parse_math": False}
    original.set_title(f"{short(tile.truth)} → {short(tile.prediction)}", loc="left", **style)
    heat.set_title(f"{tile.confidence:.0%} {mark}", loc="right", **style)
    span = f"attention {tile.attention.min():.2f}{DASH}{tile.attention.max():.2f}"
    place: dict[str, Any] = {"transform": heat.transAxes, "ha": "right", "va": "top"}
    heat.text(1, -0.03, span, color=GREY, fontsize=SMALL, **place)
    if tile.flat:
        _stamp(heat)


def _mark(tile: Tile) -> tuple[str, str]:
    return (GREEN, "✓") if tile.correct else (RED, "✗")


def _stamp(axes: Axes) -> None:
    """Write "flat map" across `axes`."""
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": LARGE, "weight": "bold"}
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": INK}
    axes.text(0.5, 0.5, "flat map", color=INK, bbox=box, transform=axes.transAxes, **style)


def _heading(item: GalleryItem) -> str:
    """Class, prediction and confidence; why it is in the gallery, and its scores."""
    tile = item.tile
    srg = "not scored" if item.srg is None else f"SRG {number(item.srg)}"
    why = "confident error" if item.role == "error" else f"{item.role} of its class by SRG"
    names = f"{short(tile.truth)} → {short(tile.prediction)}"
    outcome = f"{names}  {tile.confidence:.0%} {_mark(tile)[1]}"
    return f"{outcome}\n{why} · {srg} · gain ratio {tile.gain_ratio:.2f}"


def _row(
    figure: Figure, row: NDArray[Any], panels: Sequence[Panel | None], scale: ScalarMappable
) -> None:
    """A row of pictures with their captions, and the colour bar of its maps."""
    for axes, panel in zip(row, panels, strict=True):
        axes.set_axis_off()
        if panel is not None:
            axes.imshow(panel.pixels, interpolation="nearest" if panel.cells else "bilinear")
            text = {"fontsize": SMALL, "color": GREY, "parse_math": False}
            axes.set_title(panel.caption, loc="left", y=-0.15, **text)
    low, high = scale.get_clim()
    ticks = [low, (low + high) / 2, high]
    bar = figure.colorbar(scale, ax=list(row), ticks=ticks, format=lambda v, _: plain(v), aspect=25)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, pad=1, labelsize=SMALL, color=GREY)


def _picture(figure: Figure, left: float, bottom: float, image: NDArray[np.uint8]) -> Axes:
    """Square axes without frame or ticks at (left, bottom) inches of `figure`, showing `image`."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, _IMAGE / width, _IMAGE / height))
    axes.imshow(image, interpolation="bilinear")
    axes.set_axis_off()
    return axes
