"""The data set `shapes`: ten shapes on textures and strokes with exact masks, rendered from a seed.

A picture is a stack of layers. Each has its own random stream and otherwise depends only on the
`Scene`, so it can be left out or redrawn while all others stay the same to the bit. Lengths and
positions are shares of the image size, x right and y down; luminances (Rec. 601) are in [0, 1].
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from abn.config.params import Shapes
from abn.data.packed import Sample
from abn.datasets.outlines import OUTLINES, scrap, strokes
from abn.datasets.paint import Bytes, Reals, cover, flat, textured

CLASSES: tuple[str, ...] = tuple(OUTLINES)
MASK = {"background": 0, "distractors": 2, "target": 1, "patch": 3}  # in the order of painting
GRAIN = 0.12  # amplitude of the texture of the target
STROKES = 8  # on the background at clutter 1
REACH = 0.45  # range of the luminances of shapes, on each side of the background
CENTRE_GAP = 0.1  # least distance of the target from the image's centre, where blind maps peak
MIDDLE = np.array([0.5, 0.5])
TILT = math.radians(15)
PATCH = 0.2  # side of the patch
PATCH_GAP = 0.03  # least distance of the patch from the circle around the target

# RGB of the patch by class: no two are nearer than 62 in CIE Lab.
COLOURS = np.frombuffer(
    bytes.fromhex("ff0000 00ff00 0000ff ffff00 ff00d2 00ffd2 820028 826900 006982 001482"), np.uint8
).reshape(10, 3)


def names(split: str, count: int) -> list[str]:
    """What the first `count` pictures of a split are called: val/00012."""
    return [f"{split}/{index:05}" for index in range(count)]


class Scene(NamedTuple):
    """What all layers of one picture share."""

    centre: Reals  # [2], x and y of the target
    diameter: float  # of the circle around the target
    background: float  # mean luminance
    target: float  # mean luminance


class Piece(NamedTuple):
    """Something painted: its colour everywhere, and how much of each pixel it covers."""

    colour: Reals  # [3, S, S] or [3, 1, 1] RGB in [0, 1]
    coverage: Bytes  # [S, S]: 0 none .. 255 all


def _stream(seed: int, split: str, index: int, layer: str) -> np.random.Generator:
    key = hashlib.blake2b(repr((seed, split, index, layer)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _apart(rng: np.random.Generator, background: float, clutter: float) -> float:
    """A luminance for a shape, at least 0.25 from the background's mean.

    What lies right behind the shape strays from that mean, most where strokes are: over the shape
    the two means still differ by 40/255 or more (5,000 pictures each at clutter 0.35 and 0.5).
    """
    gap = 0.25 + 0.14 * clutter
    below = min(REACH, max(0.0, background - gap - GRAIN / 2))
    above = min(REACH, max(0.0, 1 - GRAIN / 2 - background - gap))
    away = rng.random() * (below + above) - below
    return background + away + math.copysign(gap, away)


def _scene(rng: np.random.Generator, clutter: float, diameter: tuple[float, float]) -> Scene:
    across = diameter[0] + (diameter[1] - diameter[0]) * rng.random()
    background = clutter / 2 + (1 - clutter) * rng.random()
    target = _apart(rng, background, clutter)
    while True:
        centre = 0.5 + (1 - across) * (rng.random(2) - 0.5)
        if math.dist(centre, (0.5, 0.5)) >= CENTRE_GAP:
            return Scene(centre, across, background, target)


def _background(rng: np.random.Generator, size: int, scene: Scene, clutter: float) -> list[Piece]:
    """A texture, and strokes with edges as strong as a shape's: edges alone give no shape away."""
    everywhere = np.full((size, size), 255, np.uint8)
    pieces = [Piece(textured(rng, size, scene.background, clutter), everywhere)]
    for outline in strokes(rng, round(STROKES * clutter)):
        colour = flat(rng, _apart(rng, scene.background, clutter))
        pieces.append(Piece(colour, cover(size, [outline], MIDDLE, 1, 0)))
    return pieces


def _target(rng: np.random.Generator, size: int, scene: Scene, label: int) -> Piece:
    angle = TILT * (2 * rng.random() - 1)
    outline = OUTLINES[CLASSES[label]]
    coverage = cover(size, outline, scene.centre, scene.diameter, angle)
    return Piece(textured(rng, size, scene.target, GRAIN), coverage)


def _distractor(rng: np.random.Generator, size: int, scene: Scene, clutter: float) -> Piece:
    """A scrap painted like a target, anywhere but on the target."""
    across, angle = 0.1 + 0.08 * rng.random(), 2 * math.pi * rng.random()
    outline, luminance = scrap(rng), _apart(rng, scene.background, clutter)
    while True:
        centre = 0.5 + (1 - across) * (rng.random(2) - 0.5)
        if math.dist(centre, scene.centre) >= (across + scene.diameter) / 2:
            coverage = cover(size, outline, centre, across, angle)
            return Piece(flat(rng, luminance), coverage)


def _patch(
    rng: np.random.Generator, size: int, scene: Scene, own: int, shortcut: float, colour: int | None
) -> Piece:
    """A square at the border and off the target; its colour is that of class `colour`, or drawn."""
    is_own, offset = rng.random() < shortcut, 1 + int(9 * rng.random())
    drawn = own if is_own else (own + offset) % len(CLASSES)
    across = PATCH * math.sqrt(2)
    while True:
        edge, along = int(4 * rng.random()), 2 * rng.random() - 1
        place = ((along, -1), (1, along), (along, 1), (-1, along))[edge]
        centre = 0.5 + (1 - PATCH) / 2 * np.array(place)
        if math.dist(centre, scene.centre) >= (across + scene.diameter) / 2 + PATCH_GAP:
            coverage = cover(size, OUTLINES["square"], centre, across, 0)
            shade = COLOURS[drawn if colour is None else colour] / np.float32(255)
            return Piece(shade[:, None, None], coverage)


def layers(
    seed: int,
    split: str,
    index: int,
    size: int,
    look: Shapes,
    redrawn: Mapping[str, int] | None = None,
    colour: int | None = None,
) -> dict[str, list[Piece]]:
    """The pieces of each layer of a picture, by the names in `MASK`; arguments as for `render`."""
    source = dict.fromkeys(MASK, index) | dict(redrawn or {})
    ground, strew, target, patch = (_stream(seed, split, source[layer], layer) for layer in MASK)
    scene = _scene(_stream(seed, split, index, "scene"), look.clutter, look.diameter)
    label = index % len(CLASSES)
    count = int((look.distractors + 1) * strew.random())
    stack = {
        "background": _background(ground, size, scene, look.clutter),
        "distractors": [_distractor(strew, size, scene, look.clutter) for _ in range(count)],
        "target": [_target(target, size, scene, label)],
    }
    if look.shortcut is not None:
        stack["patch"] = [_patch(patch, size, scene, label, look.shortcut, colour)]
    return stack


def compose(layers: dict[str, list[Piece]], size: int) -> tuple[Bytes, Bytes]:
    """Image [S, S, 3] and mask [S, S] of these layers, painted in this order on mid-grey."""
    image, mask = np.full((3, size, size), 0.5, np.float32), np.zeros((size, size), np.uint8)
    for name, pieces in layers.items():
        for colour, coverage in pieces:
            image += (colour - image) * (coverage / np.float32(255))
            mask[coverage >= 128] = MASK[name]
    planes = np.rint(image * 255).astype(np.uint8)
    return np.ascontiguousarray(planes.transpose(1, 2, 0)), mask


def render(
    seed: int,
    split: str,
    index: int,
    size: int,
    look: Shapes,
    *,
    without: Collection[str] = (),
    redrawn: Mapping[str, int] | None = None,
    colour: int | None = None,
) -> Sample:
    """Picture `index` of a split, a function of the arguments alone; labels go round the classes.

    Its mask has the values of `MASK`. The rest asks for the same picture with a change, all else
    staying the same to the bit: `without` names layers to leave out, `redrawn` gives the index of
    another picture from whose stream a layer is drawn, and the patch takes the colour of the class
    `colour`.
    """
    stack = layers(seed, split, index, size, look, redrawn, colour)
    image, mask = compose({k: v for k, v in stack.items() if k not in without}, size)
    return Sample(image, index % len(CLASSES), mask=mask)
