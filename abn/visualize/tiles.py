"""What is shown of an image: its prediction, a map, and pictures of both with their captions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from abn.explain.case import FLAT
from abn.explain.faithfulness import gain
from abn.visualize.names import apart, mark, shown
from abn.visualize.overlay import Style, blend, overlay
from abn.visualize.tables import MAPS, number, percent

UNIT, SIGNED = "viridis", "RdBu_r"  # colour maps: of a map's values, of evidence for a class
DASH = "\N{EN DASH}"
ATTENTION = "attention"  # the name of the network's own map, as in plots/explain_maps.csv

Pixels = NDArray[np.uint8]  # [H, W, 3] RGB
Map = NDArray[np.float32]  # [h, w]
Scale = tuple[float, float]  # the values that the first and the last colour stand for


class Heat(NamedTuple):
    """A map as it is drawn."""

    name: str  # as in plots/explain_maps.csv
    values: Map
    scale: Scale  # the same for all pictures that are drawn together

    @property
    def span(self) -> tuple[float, float]:
        """Its lowest and its highest value."""
        return float(self.values.min()), float(self.values.max())


class Look(NamedTuple):
    """What belongs to the map of a network that looks, then decides."""

    seen: Pixels  # the image under the map
    named: str  # the class whose map it is: the attention branch's prediction
    logits: float  # the highest less the lowest cell of that class map, before it is scaled to M


class Tile(NamedTuple):
    """An image, the attention map of the network, and its prediction."""

    image: Pixels
    attention: Map  # in [0, 1], as the network gave it
    truth: str
    prediction: str
    confidence: float  # of the prediction, 0 to 1
    other: Heat | None = None  # what is drawn in the attention map's place
    look: Look | None = None  # None: a residual network
    scale: Scale = (0, 1)  # of the attention map

    @property
    def correct(self) -> bool:
        return self.truth == self.prediction

    @property
    def pair(self) -> str:
        """Truth and prediction, marked as `names.mark` does."""
        return f"{mark(self.truth)} → {mark(self.prediction)}"

    @property
    def heat(self) -> Heat:
        """The map that is drawn."""
        return self.other or Heat(ATTENTION, self.attention, self.scale)

    @property
    def gain_ratio(self) -> float:
        """The attention map's largest gain over the smallest, as `faithfulness.gain` has it."""
        return float(gain(torch.from_numpy(self.attention)[None], self.look is not None)["ratio"])

    @property
    def flat(self) -> bool:
        """Whether the map that is drawn weighs all places about the same."""
        low, high = self.heat.span
        return low == high if self.other else self.gain_ratio < FLAT

    @property
    def strength(self) -> str:
        """How far the attention map is from flat: below 1.1, or near 0 logits, it is flat."""
        if self.look is None:
            return f"gain ratio {number(self.gain_ratio)}"
        return f"class map range {number(self.look.logits, 1)} logits"

    @property
    def range(self) -> str:
        """The range of the map that is drawn, in words: its colours may be stretched over it."""
        low, high = self.heat.span
        if self.other:
            return f"{map_name(self.other.name)} {number(low, 1)} to {number(high, 1)}"
        if self.look is None:
            return f"attention {low:.2f}{DASH}{high:.2f}"
        return f"M {low:.2f}{DASH}{high:.2f}, {self.strength}"

    def overlay(self, style: Style) -> Pixels:
        """The image under the map that is drawn."""
        if style.colours == "jet":
            return overlay(self.image, self.heat.values, style.alpha)
        return blend(self.image, self.heat.values, style.alpha, self.blend_scale)

    @property
    def blend_scale(self) -> Scale:
        """What the colours of a blend stand for: of the attention, the same in every picture.

        Another map has no natural unit, so it runs from its own lowest cell to its highest.
        """
        return self.heat.span if self.other else self.heat.scale


class Enough(NamedTuple):
    """The smallest part of an image, by a map's ranking, that keeps the decision."""

    pixels: Pixels  # the image, hidden but for that part
    share: float  # of the image, 0 to 1
    name: str  # of the map, as in plots/explain_maps.csv


class WhatIf(NamedTuple):
    """What a network that looks, then decides, says when it looks for the true class: do(c').

    Only where it had looked for another one.
    """

    seen: Pixels  # the image under the true class's map
    prediction: str
    confidence: float  # of that prediction, 0 to 1
    before: float  # probability of the true class under the network's own map
    after: float  # and under the map of the true class
    corrects: bool  # whether that prediction is right


class GalleryItem(NamedTuple):
    """An image of the gallery and what is known about it."""

    name: str  # of its file, without suffix
    role: str  # why it is in the gallery: "best", "median", "worst" or "error"
    tile: Tile
    srg: float | None  # of the map that is drawn; None: not among the images that were scored
    evidence: tuple[Map, Map] | None
    """Of an error: the attention branch's maps [h, w] of the class predicted and of the true one;
    a map's mean is the branch's logit."""
    enough: Enough | None = None
    what_if: WhatIf | None = None  # of an error
    file: str = ""  # the image's name where it came from

    @property
    def scale(self) -> float:
        """Both maps of `evidence` are drawn from minus this value to plus this value."""
        return float(max(np.abs(values).max() for values in self.evidence or ())) or 1.0


class Panel(NamedTuple):
    """A picture of a gallery item, in its PNG and in the report."""

    pixels: Pixels
    text: str  # below it; the names of classes in it are marked, see `names.mark`
    alt: str  # the picture in words
    cells: bool = False  # pixels are cells of a map: do not smooth them

    @property
    def caption(self) -> str:
        return shown(self.text)


class Row(NamedTuple):
    """Three places side by side, some empty, and the colours of the maps' cells among them."""

    panels: Sequence[Panel | None]
    palette: str = ""  # "": the row shows no cells
    scale: Scale = (0, 1)


def rows(item: GalleryItem, style: Style) -> list[Row]:
    """All pictures of a gallery item."""
    drawn = [Row(map_panels(item.tile, style), UNIT, item.tile.heat.scale)]
    if panels := decision_panels(item):
        drawn.append(Row([*panels, None, None][:3]))
    if item.evidence is not None:
        drawn.append(Row([None, *evidence_panels(item)], SIGNED, (-item.scale, item.scale)))
    return drawn


def map_panels(tile: Tile, style: Style) -> list[Panel]:
    """The image, its overlay, and the cells of its map on the scale of all pictures."""
    name, values, scale = tile.heat
    low, high = tile.heat.span
    height, width = values.shape
    what = "attention map" if name == ATTENTION else f"{map_name(name)} map"
    span = f"{low:.2f}{DASH}{high:.2f}" if name == ATTENTION else ""
    return [
        Panel(tile.image, "image", f"An image of class {apart(tile.truth)}"),
        Panel(tile.overlay(style), "overlay", f"The same image with its {what} laid over it"),
        Panel(
            colours(values, UNIT, *scale),
            f"map {span}" if span else tile.range,
            f"The {what}, {height} x {width} cells from {low:.2f} to {high:.2f}",
            cells=True,
        ),
    ]


def decision_panels(item: GalleryItem) -> list[Panel]:
    """What the network saw, what was enough, and what it says looking for the true class."""
    panels, tile = [], item.tile
    if look := tile.look:
        alt = f"The image as the network saw it, looking for {apart(look.named)}"
        panels.append(Panel(look.seen, f"what it saw, for {mark(look.named)}", alt))
    if enough := item.enough:
        by = "" if enough.name == tile.heat.name else f" ({map_name(enough.name)})"
        share = percent(enough.share, 0 if enough.share >= 0.01 else 1)
        alt = f"The image with all hidden but {share}, by the ranking of {map_name(enough.name)}"
        text = "all of it is needed" if enough.share == 1 else f"these {share} are enough"
        panels.append(Panel(enough.pixels, f"{text}{by}", alt))
    if what_if := item.what_if:
        answer = f"{mark(what_if.prediction)}, {percent(what_if.confidence, 0)}"
        alt = f"The image under the map of {mark(tile.truth)}; the network then says {answer}"
        panels.append(Panel(what_if.seen, f"for {mark(tile.truth)}: {answer}", shown(alt)))
    return panels


def evidence_panels(item: GalleryItem) -> list[Panel]:
    """Of an error: Att-CAM of the class predicted and of the true one, on one scale."""
    panels = []
    roles = ("predicted", item.tile.prediction), ("true", item.tile.truth)
    for (role, name), values in zip(roles, item.evidence or (), strict=False):
        logit = number(float(values.mean()), 1)
        alt = f"Att-CAM of the {role} class {apart(name)}, mean {logit}, "
        alt += f"on a scale of ±{item.scale:.1f}"
        pixels = colours(values, SIGNED, -item.scale, item.scale)
        panels.append(Panel(pixels, f"{mark(name)}: {logit}", alt, cells=True))
    return panels


def colours(values: Map, palette: str, low: float, high: float) -> NDArray[Any]:
    """A map [h, w] as uint8 [h, w, 3] RGB: `palette` runs from `low` to `high`.

    The same colour is the same value in every picture, unlike in an overlay.
    """
    scaled = Normalize(low, high, clip=True)(values)
    return np.asarray(matplotlib.colormaps[palette](scaled, bytes=True)[..., :3])


def map_name(name: str) -> str:
    """A map's name for people."""
    return MAPS.get(name, name)
