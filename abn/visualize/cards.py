"""Exhibits as the report shows them: small pictures inside the page, their words as text."""

import base64
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from abn.visualize import overlays, panels
from abn.visualize.panels import Exhibit
from abn.visualize.scoreboard import number

QUALITY = 85  # of the JPEGs


class Card(NamedTuple):
    """An exhibit, ready for the page."""

    exhibit: Exhibit
    gain_ratio: float
    flat: bool
    pictures: list[tuple[str, str, str]]  # data URI, what it shows, caption


def card(exhibit: Exhibit, alpha: float) -> Card:
    """`exhibit` with its pictures; `alpha` is the overlay's."""
    tile, attention = exhibit.tile, exhibit.tile.attention
    laid = overlays.overlay(tile.image, attention, alpha)
    low, high = float(attention.min()), float(attention.max())
    height, width = attention.shape
    raw = panels.colours(attention, panels.UNIT, 0, 1)
    said = f"{height} x {width} cells from {low:.2f} to {high:.2f}"
    pictures = [
        (_uri("jpeg", tile.image), f"An image of class {tile.truth}", "image"),
        (_uri("jpeg", laid), "The same with its attention map laid over it", "overlay"),
        (_uri("png", raw), f"The attention map, {said}", f"map {low:.2f}\N{EN DASH}{high:.2f}"),
    ]
    for role, name, values in zip(
        ("predicted", "true"), (tile.prediction, tile.truth), exhibit.evidence or (), strict=False
    ):
        most = panels.strongest(exhibit.evidence or (values, values))
        drawn = _uri("png", panels.colours(values, panels.SIGNED, -most, most))
        logit = number(float(values.mean()), 1)
        alt = f"Att-CAM of the {role} class {name}, its mean {logit}, on a scale of ±{most:.1f}"
        pictures.append((drawn, alt, f"{role}: {name}, {logit}"))
    return Card(exhibit, overlays.gain_ratio(attention), overlays.is_flat(attention), pictures)


def ramp(palette: str) -> str:
    """`palette` as a gradient of CSS, lowest colour left."""
    stops = ", ".join(to_hex(colormaps[palette](i / 8)) for i in range(9))
    return f"linear-gradient(to right, {stops})"


def _uri(kind: str, image: NDArray[np.uint8]) -> str:
    """`image` [H, W, 3] RGB as a data URI, `kind` jpeg or png."""
    options = {"jpeg": [cv2.IMWRITE_JPEG_QUALITY, QUALITY], "png": []}
    _, encoded = cv2.imencode(f".{kind}", image[..., ::-1], options[kind])
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
