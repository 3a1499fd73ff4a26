"""The outlines that the set `shapes` knows: one for each of its ten classes, and clutter of none.

An outline is closed contours [N, 2] in the unit circle, x right and y down; a contour within
another one is a hole. Strokes, which may lie anywhere in a picture, are the exception: in units of
half its side, from its middle.
"""

import math

import numpy as np

from abn.datasets.paint import Reals


def _polar(angles: Reals, radii: Reals | float = 1.0) -> Reals:
    """Points at `angles` (0 up, growing clockwise) and `radii`."""
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)


def _regular(corners: int, radii: Reals | float = 1.0) -> Reals:
    return _polar(np.arange(corners) * (2 * np.pi / corners), radii)


def _mirrored(*right: tuple[float, float]) -> Reals:
    """The contour whose right half is `right`, from top to bottom."""
    return np.array([*right, *((-x, y) for x, y in reversed(right))])


def _crescent() -> Reals:
    """The unit circle less one of radius 0.8 that cuts it 0.8 rad either side of the left."""
    tip, bite = 0.8, math.asin(math.sin(0.8) / 0.8)
    outer = _polar(np.linspace(tip, 2 * np.pi - tip, 48))
    inner = _polar(np.linspace(2 * np.pi - bite, bite, 48), 0.8)
    return np.concatenate([outer, inner - inner[0] + outer[-1]])[:, ::-1]


def _heart() -> Reals:
    t = np.arange(64) * (2 * np.pi / 64)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y - 2], 1) / 17.9


JOINTS = 12  # points along a stroke
STROKE = 0.05  # its width, as a share of its length

OUTLINES: dict[str, list[Reals]] = {
    "disc": [_regular(64)],
    "ring": [_regular(64), 0.6 * _regular(64)],
    "triangle": [_regular(3)],
    "square": [_mirrored((0.707, -0.707), (0.707, 0.707))],
    "pentagon": [_regular(5)],
    "star": [_regular(10, np.tile([1, 0.42], 5))],
    "plus": [
        _mirrored((0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3), (0.3, 0.95))
    ],
    "crescent": [_crescent()],
    "heart": [_heart()],
    "arrow": [_mirrored((0, -1), (0.75, -0.1), (0.25, -0.1), (0.25, 0.95))],
}


def scrap(rng: np.random.Generator) -> list[Reals]:
    """The outline of something that is no class: a jagged blob or a scribbled line."""
    if rng.random() < 0.5:
        return [_regular(9, 0.45 + 0.55 * rng.random(9))]
    line = np.stack([np.linspace(-0.9, 0.9, 7), 1.2 * rng.random(7) - 0.6], 1)
    half = np.array([0, 0.18])
    return [np.concatenate([line - half, (line + half)[::-1]])]


def strokes(rng: np.random.Generator, count: int) -> list[Reals]:
    """The outlines of `count` thin strokes: arcs and corners, as the edges of shapes have them.

    Lengths are 0.7 to 1.3, in halves of the picture's side; the middles lie anywhere in it.
    """
    kind, bend, turn, length, *middle = rng.random((6, count, 1))
    along = np.linspace(-1, 1, JOINTS)
    bent = np.where(kind < 0.4, (0.5 + bend) * np.sign(along), 2.5 * bend * along)
    heading = 2 * np.pi * turn + bent
    steps = np.stack([np.cos(heading), np.sin(heading)], 2) * (0.7 + 0.6 * length[:, :, None])
    spine = np.cumsum(steps, 1) / JOINTS
    spine += 2 * np.stack(middle, 2) - 1 - spine.mean(1, keepdims=True)
    half = steps[:, :, ::-1] * [-STROKE / 2, STROKE / 2]
    return list(np.concatenate([spine - half, (spine + half)[:, ::-1]], 1))
