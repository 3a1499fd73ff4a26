"""What a score is worth by chance: its mean for a map that knows nothing, where that is known."""

import math

from abn.explain import leak
from abn.explain.case import Case
from abn.explain.localisation import TOLERANCE, dilated
from abn.explain.stability import SHARE

FIXED = {
    "srg": 0.0,
    "srg_colour": 0.0,
    "auroc": 0.5,
    "lift": 1.0,
    "grid_pointing": 0.25,
    "class_follow": 0.25,
    "flip": 0.0,
    "shift": 0.0,
    "stability_ranks": 0.0,
    "agreement": 0.0,
}
ON_OBJECT = ("rank_accuracy", "pointing", "energy", "energy_raw")


def level(case: Case, name: str, score: str) -> float | None:
    """The chance level of a score of the map `name` of the case; None where there is none."""
    maps = case.maps.get(name, case.maps["attention"])  # RISE is on the attention's grid
    cells = maps[0].numel()
    if score.startswith("randomised"):
        return rank_correlation(cells)
    if score.startswith("density"):
        return 1.0
    if score.startswith("leak"):
        said = case.once(leak.answers)[score.removeprefix("leak_")]
        return leak.chance(said, case.samples.predicted)
    if score == "stability":
        return overlap(cells)
    return FIXED[score] if score in FIXED else _on_object(case, score)


def rank_correlation(cells: int) -> float:
    """The mean |rank correlation| of two random orders of P cells, whose variance is 1 / (P - 1).

    sqrt(2 / (pi (P - 1))), as of a normal variable: 0.21 for 16 cells.
    """
    return math.sqrt(2 / math.pi / (cells - 1)) if cells > 1 else 1.0


def overlap(cells: int) -> float:
    """The mean IoU of the top fifths of two random orders: hypergeometric, 0.16 for 16 cells."""
    top = -(-cells // SHARE)
    ways = math.comb(cells, top)
    shared = range(max(0, 2 * top - cells), top + 1)
    chances = [math.comb(top, s) * math.comb(cells - top, top - s) / ways for s in shared]
    return sum(chance * s / (2 * top - s) for chance, s in zip(chances, shared, strict=True))


def _on_object(case: Case, score: str) -> float | None:
    """The share of the picture that the object covers: where a random pixel lies in it."""
    objects = case.samples.objects
    if objects is None or not score.startswith(ON_OBJECT):
        return None
    objects = objects[case.samples.located]
    if score == "pointing_tolerant":
        objects = dilated(objects, round(TOLERANCE * objects.shape[-1]))
    return float(objects.double().mean())
