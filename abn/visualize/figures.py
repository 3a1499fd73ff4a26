"""The PNG figures: a sheet of overlays, and one figure for each image of the gallery."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray

from abn.runtime import files
from abn.visualize.names import cut, cut_left
from abn.visualize.overlay import Style
from abn.visualize.tables import number, plain
from abn.visualize.tiles import GalleryItem, Pixels, Row, Tile, rows

GREEN, RED, INK, GREY = "#116329", "#b3191e", "#1f2328", "#59636e"  # contrast on white above 5:1
LARGE, SMALL = 8.0, 6.5  # points

# Inches. In the sheet a tile is two or three pictures, with a line above and a line below.
_IMAGE, _SEAM = 1.5, 0.05
_ABOVE, _BELOW = 0.19, 0.17
_GAP_X, _GAP_Y, _BORDER, _NOTE = 0.32, 0.08, 0.18, 0.2
_TILE_HEIGHT = _ABOVE + _IMAGE + _BELOW
_ITEM, _PANEL = 4.5, 1.25  # width of a gallery item, and of a picture in it, at least

_EVIDENCE = """What the attention
branch counts for (red)
and against (blue) each
class. Below each map is
its mean, the logit."""


def sheet(tiles: Sequence[Tile], style: Style, dpi: int) -> Figure:
    """A figure of all `tiles` (>= 1): the image, its overlay, and where it has one, what was seen.

    Prediction above, the map's range below.
    """
    pictures = 2 if tiles[0].look is None else 3
    (width, height), corners = _layout(len(tiles), pictures)
    figure = Figure((width, height), dpi, facecolor="white")
    for tile, (left, top) in zip(tiles, corners, strict=True):
        _tile(figure, left, top - _ABOVE - _IMAGE, tile, style)
    note: dict[str, Any] = {"ha": "center", "color": GREY, "fontsize": SMALL}
    text = _key(tiles[0], style)
    if _width(figure, text, SMALL) <= width - 2 * _SEAM:
        figure.text(0.5, _BORDER / height, text, **note)
    else:  # a sheet of one column: two lines, nearer to the edge
        middle = text.rfind(" ", 0, len(text) * 3 // 5)
        two = f"{text[:middle]}\n{text[middle + 1 :]}"
        figure.text(0.5, _BORDER / 3 / height, two, **note)
    return figure


def tiles_of(picture: Pixels, count: int, pictures: int) -> list[Pixels]:
    """The `count` tiles of a `picture` of a sheet, each with the text above and below it.

    Empty where the picture's size is not that of `count` tiles of `pictures` each.
    """
    (width, height), corners = _layout(count, pictures)
    dpi = picture.shape[1] / width
    if abs(picture.shape[0] - dpi * height) > 2:
        return []
    size = pictures * (_IMAGE + _SEAM) - _SEAM, _TILE_HEIGHT
    found = []
    for left, top in corners:
        box = left, left + size[0], height - top, height - top + size[1]
        first, last, above, below = (round(dpi * end) for end in box)
        found.append(picture[above:below, first:last])
    return found


def _layout(count: int, pictures: int) -> tuple[tuple[float, float], list[tuple[float, float]]]:
    """Width and height of a sheet, and the left upper corner of each tile from below; in inches."""
    tile_width = pictures * (_IMAGE + _SEAM) - _SEAM
    across = columns(count, pictures)
    down = -(-count // across)
    width = 2 * _BORDER + across * (tile_width + _GAP_X) - _GAP_X
    height = 2 * _BORDER + down * (_TILE_HEIGHT + _GAP_Y) - _GAP_Y + _NOTE
    corners = []
    for place in range(count):
        row, column = divmod(place, across)
        left = _BORDER + column * (tile_width + _GAP_X)
        corners.append((left, height - _BORDER - row * (_TILE_HEIGHT + _GAP_Y)))
    return (width, height), corners


def columns(count: int, pictures: int = 2) -> int:
    """Tiles per row that bring `count` (>= 1) tiles, each `pictures` wide, nearest to a square."""

    def skew(across: int) -> float:
        width, height = pictures * across, -(-count // across)
        return max(width / height, height / width)

    # The wider of two equals: the lines of text make the rows higher than their images.
    return min(range(count, 0, -1), key=skew)


def item_figure(item: GalleryItem, style: Style, dpi: int) -> Figure:
    """Rows of pictures: the maps, what the decision needs, and for an error the evidence."""
    drawn = rows(item, style)
    figure = Figure((_ITEM, 0.52 + 1.5 * len(drawn)), dpi, facecolor="white", layout="constrained")
    heading: dict[str, Any] = {"ha": "left", "fontsize": LARGE, "parse_math": False}
    figure.suptitle(_heading(figure, item), x=0.01, color=_mark(item.tile)[0], **heading)
    grid = figure.subplots(len(drawn), 3, squeeze=False)
    for axes, row in zip(grid, drawn, strict=True):
        _row(figure, axes, row)
    if item.tile.flat:
        _stamp(grid[0, 1])
    if item.evidence is not None:
        note: dict[str, Any] = {"va": "top", "fontsize": SMALL, "color": GREY, "in_layout": False}
        grid[-1, 0].text(0, 1, _EVIDENCE, **note)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write `figure` to `path` as PNG; the same figure gives the same bytes."""
    with files.replacing(path) as part:
        figure.savefig(part, format="png", dpi="figure", metadata={"Software": None})


def _key(tile: Tile, style: Style) -> str:
    """What the sheet's colours stand for."""
    low, high = ("blue", "red") if style.colours == "jet" else ("violet", "yellow")
    note = f"Colours run from each map's lowest value ({low}) to its highest ({high})"
    if style.colours == "viridis" and tile.other is None:
        first, last = tile.scale
        note = f"Colours run from {first:.2f} ({low}) to {last:.2f} ({high}) in every picture"
    return note if tile.look is None else f"{note}. Right: what the network decided on"


def _tile(figure: Figure, left: float, bottom: float, tile: Tile, style: Style) -> None:
    """Draw one tile with the lower left corner of its image at (left, bottom) inches.

    Above are classes and confidence, with a mark, so that right and wrong do not differ by colour
    alone; below is the map's range, which the stretched colours hide.
    """
    pictures = [tile.image, tile.overlay(style), *([tile.look.seen] if tile.look else [])]
    places = (left + i * (_IMAGE + _SEAM) for i in range(len(pictures)))
    drawn = [_picture(figure, x, bottom, p) for x, p in zip(places, pictures, strict=True)]
    original, heat, last = drawn[0], drawn[1], drawn[-1]
    colour, mark = _mark(tile)
    title: dict[str, Any] = {"color": colour, "fontsize": LARGE, "pad": 4, "parse_math": False}
    sure = f"{tile.confidence:.0%} {mark}"
    room = len(pictures) * (_IMAGE + _SEAM) - _SEAM - _width(figure, sure, LARGE) - 2 * _SEAM
    original.set_title(_fitted(figure, tile.pair, LARGE, room), loc="left", **title)
    last.set_title(sure, loc="right", **title)
    place: dict[str, Any] = {"transform": last.transAxes, "ha": "right", "va": "top"}
    last.text(1, -0.03, tile.range, color=GREY, fontsize=SMALL, **place)
    if tile.flat:
        _stamp(heat)


def _fitted(figure: Figure, text: str, size: float, room: float) -> str:
    """`text` at `size` points, its marked names cut so that it is at most `room` inches wide."""
    return cut(text, lambda candidate: _width(figure, candidate, size) <= room)


def _width(figure: Figure, text: str, size: float) -> float:
    """How wide `figure` shows a line of text at `size` points, inches."""
    font, ruler = FontProperties(size=size), _ruler(figure.dpi)
    return float(ruler.get_text_width_height_descent(text, font, False)[0]) / figure.dpi


@cache
def _ruler(dpi: float) -> RendererAgg:
    """What measures text: letters snap to pixels, so their width depends on `dpi`."""
    return RendererAgg(1, 1, dpi)


def _mark(tile: Tile) -> tuple[str, str]:
    return (GREEN, "✓") if tile.correct else (RED, "✗")


def _stamp(axes: Axes) -> None:
    """Write "flat map" across `axes`."""
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": LARGE, "weight": "bold"}
    box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": INK}
    axes.text(0.5, 0.5, "flat map", color=INK, bbox=box, transform=axes.transAxes, **style)


def _heading(figure: Figure, item: GalleryItem) -> str:
    """Class, prediction and confidence; why it is in the gallery, and its scores; its file."""
    tile = item.tile
    srg = "not scored" if item.srg is None else f"SRG {number(item.srg)}"
    why = "confident error" if item.role == "error" else f"{item.role} of its class by SRG"
    outcome = f"{tile.pair}  {tile.confidence:.0%} {_mark(tile)[1]}"
    room = 0.96 * _ITEM
    file = cut_left(item.file, lambda text: _width(figure, text, LARGE) <= room)
    outcome = _fitted(figure, outcome, LARGE, room)
    return f"{outcome}\n{why} · {srg} · {tile.strength}\n{file}".rstrip()


def _row(figure: Figure, places: NDArray[Any], row: Row) -> None:
    """A row of pictures with their captions, and the colour bar of its cells if it has any."""
    for axes, panel in zip(places, row.panels, strict=True):
        axes.set_axis_off()
        if panel is not None:
            axes.imshow(panel.pixels, interpolation="nearest" if panel.cells else "bilinear")
            text = {"fontsize": SMALL, "color": GREY, "parse_math": False}
            axes.set_title(_fitted(figure, panel.text, SMALL, _PANEL), loc="left", y=-0.15, **text)
    if row.palette:
        _colour_bar(figure, places, row)


def _colour_bar(figure: Figure, places: NDArray[Any], row: Row) -> None:
    """What the colours of the cells in `row` stand for, at its right."""
    low, high = row.scale
    colours = ScalarMappable(Normalize(low, high), row.palette)
    ticks = [low, (low + high) / 2, high]
    bar = figure.colorbar(
        colours, ax=list(places), ticks=ticks, format=lambda v, _: plain(v), aspect=25
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, pad=1, labelsize=SMALL, color=GREY)


def _picture(figure: Figure, left: float, bottom: float, image: Pixels) -> Axes:
    """Square axes without frame or ticks at (left, bottom) inches of `figure`, showing `image`."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, _IMAGE / width, _IMAGE / height))
    axes.imshow(image, interpolation="bilinear")
    axes.set_axis_off()
    return axes
