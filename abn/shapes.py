"""The data set `shapes`: ten shapes on cluttered textures with exact masks, rendered from a seed.

A picture is a stack of layers. Each draws from a random stream of its own and otherwise sees only
the `Scene`, so it can be left out or redrawn while all others stay the same to the bit. Lengths and
positions are shares of the image size, x right and y down; luminances (Rec. 601) are in [0, 1].
"""

import hashlib
import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from abn.paint import Bytes, Reals, cover, flat, textured

MASK = {"background": 0, "distractors": 2, "target": 1}  # in the order they are painted
GRAIN = 0.12  # amplitude of the texture of the target
CENTRE_GAP = 0.1  # least distance of the target from the image's centre, where blind maps peak
TILT = math.radians(15)


class Sample(NamedTuple):
    """One picture with its truth."""

    image: Bytes  # [S, S, 3] RGB
    label: int  # index into CLASSES
    mask: Bytes  # [S, S]: 0 background, 1 target, 2 distractor


class Scene(NamedTuple):
    """What the layers of one picture agree on."""

    centre: Reals  # [2], x and y of the target
    diameter: float  # of the circle around the target
    background: float  # mean luminance
    target: float  # mean luminance


class Patch(NamedTuple):
    """Something painted: its colour everywhere, and how much of each pixel it covers."""

    colour: Reals  # [3, S, S] or [3, 1, 1] RGB in [0, 1]
    coverage: Bytes  # [S, S]: 0 none .. 255 all


# Outlines: closed contours [N, 2] in the unit circle; a contour within another one is a hole.


def _polar(angles: Reals, radii: Reals | float = 1.0) -> Reals:
    """Points at `angles` (0 up, growing clockwise) and `radii`."""
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)


def _regular(corners: int, radii: Reals | float = 1.0) -> Reals:
    return _polar(np.arange(corners) * (2 * np.pi / corners), radii)


def _mirrored(*right: tuple[float, float]) -> Reals:
    """The outline whose right half is `right`, from top to bottom."""
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
CLASSES: tuple[str, ...] = tuple(OUTLINES)


# Layers


def _stream(seed: int, split: str, index: int, layer: str) -> np.random.Generator:
    key = hashlib.blake2b(repr((seed, split, index, layer)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _apart(rng: np.random.Generator, background: float, clutter: float) -> float:
    """A luminance for a shape, whose mean differs by 60/255 wherever it lies (to clutter 0.5)."""
    gap = 0.29 + 0.14 * clutter  # more than 60/255, because the mean of a texture's part strays
    below = max(0.0, background - gap - GRAIN / 2)
    above = max(0.0, 1 - GRAIN / 2 - background - gap)
    share = rng.random() * (below + above)
    return GRAIN / 2 + share if share < below else background + gap + share - below


def _scene(rng: np.random.Generator, clutter: float, diameter: tuple[float, float]) -> Scene:
    across = diameter[0] + (diameter[1] - diameter[0]) * rng.random()
    background = clutter / 2 + (1 - clutter) * rng.random()
    target = _apart(rng, background, clutter)
    while True:
        centre = 0.5 + (1 - across) * (rng.random(2) - 0.5)
        if math.dist(centre, (0.5, 0.5)) >= CENTRE_GAP:
            return Scene(centre, across, background, target)


def _target(rng: np.random.Generator, size: int, scene: Scene, label: int) -> Patch:
    angle = TILT * (2 * rng.random() - 1)
    outline = OUTLINES[CLASSES[label]]
    coverage = cover(size, outline, scene.centre, scene.diameter, angle)
    return Patch(textured(rng, size, scene.target, GRAIN), coverage)


def _scrap(rng: np.random.Generator) -> Reals:
    """The outline of something that is no class: a jagged blob or a scribbled line."""
    if rng.random() < 0.5:
        return _regular(9, 0.45 + 0.55 * rng.random(9))
    line = np.stack([np.linspace(-0.9, 0.9, 7), 1.2 * rng.random(7) - 0.6], 1)
    half = np.array([0, 0.18])
    return np.concatenate([line - half, (line + half)[::-1]])


def _distractor(rng: np.random.Generator, size: int, scene: Scene, clutter: float) -> Patch:
    """A scrap painted like a target, anywhere but on the target."""
    across, angle = 0.1 + 0.08 * rng.random(), 2 * math.pi * rng.random()
    outline, luminance = _scrap(rng), _apart(rng, scene.background, clutter)
    while True:
        centre = 0.5 + (1 - across) * (rng.random(2) - 0.5)
        if math.dist(centre, scene.centre) >= (across + scene.diameter) / 2:
            coverage = cover(size, [outline], centre, across, angle)
            return Patch(flat(rng, luminance), coverage)


def layers(
    seed: int,
    split: str,
    index: int,
    size: int,
    clutter: float,
    distractors: int,
    diameter: tuple[float, float],
) -> dict[str, list[Patch]]:
    """The patches of each layer of a picture, by the names in `MASK`; arguments as for `render`."""
    scene = _scene(_stream(seed, split, index, "scene"), clutter, diameter)
    ground, strew, target = (_stream(seed, split, index, layer) for layer in MASK)
    everywhere = np.full((size, size), 255, np.uint8)
    count = int((distractors + 1) * strew.random())
    return {
        "background": [Patch(textured(ground, size, scene.background, clutter), everywhere)],
        "distractors": [_distractor(strew, size, scene, clutter) for _ in range(count)],
        "target": [_target(target, size, scene, index % len(CLASSES))],
    }


def compose(layers: dict[str, list[Patch]], size: int) -> tuple[Bytes, Bytes]:
    """Image [S, S, 3] and mask [S, S] of these layers, painted in this order on mid-grey."""
    image, mask = np.full((3, size, size), 0.5, np.float32), np.zeros((size, size), np.uint8)
    for name, patches in layers.items():
        for colour, coverage in patches:
            image += (colour - image) * (coverage / np.float32(255))
            mask[coverage >= 128] = MASK[name]
    planes = np.rint(image * 255).astype(np.uint8)
    return np.ascontiguousarray(planes.transpose(1, 2, 0)), mask


def render(
    seed: int,
    split: str,
    index: int,
    size: int,
    *,
    clutter: float,
    distractors: int,
    diameter: tuple[float, float],
    without: Collection[str] = (),
) -> Sample:
    """Picture `index` of a split, a function of the arguments alone; labels go round the classes.

    `clutter` 0..1 is the amplitude of the background's texture (0 flat); `distractors` the most
    there may be, any number up to it equally likely; `diameter` the range of the target's, as a
    share of `size`, at most 0.7; `without` names layers to leave out, all else staying the same.
    """
    stack = layers(seed, split, index, size, clutter, distractors, diameter)
    image, mask = compose({k: v for k, v in stack.items() if k not in without}, size)
    return Sample(image, index % len(CLASSES), mask)
