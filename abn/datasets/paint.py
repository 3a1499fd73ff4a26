"""Outlines filled without steps and textured colours of a known luminance, for the set `shapes`.

Luminances (Rec. 601) and colours are in [0, 1]. So that the bits do not depend on the processor,
fields are computed element by element, images scaled as bytes and corners rounded to 1/64 pixel.
"""

import colorsys
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Reals = NDArray[np.floating[Any]]

OVERSAMPLING = 4
FRACTION_BITS = 4  # of a corner's position among the finer pixels


def cover(size: int, outline: list[Reals], centre: Reals, diameter: float, angle: float) -> Bytes:
    """How much of each pixel an outline covers: [size, size], 0 none .. 255 all.

    The outline is contours [N, 2] in the unit circle, turned clockwise by `angle` (radians) and put
    where `centre` and `diameter`, shares of the size, say; a contour within another is a hole.
    """
    scale = OVERSAMPLING * size
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    placed = [(points @ turn * (diameter / 2) + centre) * scale - 0.5 for points in outline]
    corners = [np.rint(points * 2**FRACTION_BITS).astype(np.int32) for points in placed]
    fine = np.zeros((scale, scale), np.uint8)
    cv2.fillPoly(fine, corners, 255, shift=FRACTION_BITS)
    return np.asarray(cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _noise(rng: np.random.Generator, size: int) -> Reals:
    """Four octaves of value noise, interpolated on bytes because that is exact."""
    field = np.zeros((size, size), np.float32)
    for cells, weight in ((4, 0.1), (8, 0.1), (16, 0.3), (32, 0.5)):
        grid = (rng.random((cells, cells)) * 256).astype(np.uint8)
        octave = cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR_EXACT)
        field += octave * np.float32(weight / 255)
    return field


def _wave(phase: Reals) -> Reals:
    """Stripes of period 1 with soft edges."""
    folded = np.abs(2 * (phase - np.floor(phase)) - 1)
    return np.minimum(np.maximum(3 * folded - 1, 0), 1)


def _pattern(rng: np.random.Generator, x: Reals, y: Reals) -> Reals:
    """Stripes, a checkerboard or dots, turned and shifted."""
    kind, angle, share, *shift = rng.random(5).tolist()
    frequency = 7 + 7 * share
    cos, sin = (frequency * f(math.pi * angle) for f in (math.cos, math.sin))
    u = _wave(x * cos + y * sin + shift[0])
    v = _wave(y * cos - x * sin + shift[1])
    return (u, u + v - 2 * u * v, np.sqrt(u * v))[int(3 * kind)]


def _texture(rng: np.random.Generator, size: int) -> Reals:
    """A field [S, S] in [0, 1], its mean near 0.5: noise, a gradient and a pattern."""
    along = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    x, y = along[None, :], along[:, None]
    angle = 2 * math.pi * rng.random()
    gradient = (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2) + 0.5
    return 0.4 * _noise(rng, size) + 0.2 * gradient + 0.4 * _pattern(rng, x, y)


def _colour(hue: float, saturation: float, luminance: float) -> Reals:
    """RGB [3, 1, 1] of exactly this luminance; saturation 1 is the purest that has it."""
    pure = np.array(colorsys.hsv_to_rgb(hue % 1, 1, 1))
    shift = pure - (0.299 * pure[0] + 0.587 * pure[1] + 0.114 * pure[2])
    room = min((1 - luminance) / max(shift), luminance / -min(shift))
    return (luminance + saturation * room * shift).astype(np.float32)[:, None, None]


def flat(rng: np.random.Generator, luminance: float) -> Reals:
    """A random colour [3, 1, 1] of this luminance."""
    hue, saturation = rng.random(2).tolist()
    return _colour(hue, saturation, luminance)


def textured(rng: np.random.Generator, size: int, luminance: float, amplitude: float) -> Reals:
    """A random colour [3, S, S] of this mean luminance, give or take half the amplitude."""
    hue, saturation, turn = rng.random(3).tolist()
    low = _colour(hue, saturation, luminance - amplitude / 2)
    high = _colour(hue + amplitude * (turn - 0.5), saturation, luminance + amplitude / 2)
    return low + _texture(rng, size) * (high - low)
