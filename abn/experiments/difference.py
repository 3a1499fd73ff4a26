"""How much more of a metric one configuration has than another, and its 95 % interval.

It is taken between trainings of the same seed where both have it, and of the same images where both
were measured on the same data; the interval is that of `abn.explain.statistics`. Where no seed is
shared, it is that of the two means.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy import special
from torch import Tensor

from abn.experiments.configuration import Configuration, numbers
from abn.experiments.snapshots import IMAGES, Snapshot
from abn.explain.statistics import LEVEL, estimate
from abn.project import paths

ALL, NONE = "all seeds", "no seed"  # over which a difference is paired
PREDICTED = {"evaluate.top1": "prediction", "evaluate.attention_top1": "attention_prediction"}


class Difference(NamedTuple):
    """How much more of a metric a configuration has than the first, and the 95 % interval."""

    mean: float
    low: float | None
    high: float | None
    covers: str  # what may be drawn again: "images", "images and seeds", "seeds"; "" for none
    paired: str  # over what: ALL, "1 of 3 seeds", NONE; "" if the metric is not one of a training


def difference(first: Configuration, other: Configuration, metric: str) -> Difference:
    """`metric` of `other` less that of `first`, both of which have it.

    Over pairs of trainings of the same seed that have it; without such a pair, of the two means.
    """
    pairs = [(first.seeds[seed], each) for seed, each in other.seeds.items() if seed in first.seeds]
    pairs = [pair for pair in pairs if all(numbers([each.metrics.get(metric)]) for each in pair)]
    if not pairs:
        return _unpaired(first, other, metric)
    seeds = [len(first.seeds), len(other.seeds)]
    alike = seeds == [len(pairs)] * 2
    paired = ALL if alike else f"{len(pairs)} of {max(seeds)} seeds"
    return _paired(pairs, metric)._replace(paired=paired)


def _paired(pairs: Sequence[tuple[Snapshot, Snapshot]], metric: str) -> Difference:
    """Over images where they allow it, else over the pairs of seeds."""
    changes = [b.metrics[metric] - a.metrics[metric] for a, b in pairs]
    images = [_image_changes(a, b, metric) for a, b in pairs]
    known = [each for each in images if each is not None]
    if len(known) == len(pairs) and len({len(each) for each in known}) == 1:
        found = estimate(torch.stack(known))
        if found and found.low < found.high:  # all images alike say nothing of others
            covers = "images and seeds" if len(pairs) > 1 else "images"
            return Difference(found.mean, found.low, found.high, covers, ALL)
    return _over_seeds(changes)


def _over_seeds(changes: Sequence[float]) -> Difference:
    """The mean of `changes`, one for each pair of seeds, with Student's interval."""
    mean = statistics.fmean(changes)
    if len(changes) < 2 or len(set(changes)) == 1:
        return Difference(mean, None, None, "", ALL)
    student = float(special.stdtrit(len(changes) - 1, (1 + LEVEL) / 2))
    reach = student * statistics.stdev(changes) / len(changes) ** 0.5
    return Difference(mean, mean - reach, mean + reach, "seeds", ALL)


def _unpaired(first: Configuration, other: Configuration, metric: str) -> Difference:
    """The difference of the means over all trainings, with Welch's interval."""
    sides = [numbers([t.metrics.get(metric) for t in c.trainings]) for c in (first, other)]
    mean = other.metrics[metric].mean - first.metrics[metric].mean
    reach, paired = _welch(*sides), NONE if all(sides) else ""
    if reach is None:
        return Difference(mean, None, None, "", paired)
    return Difference(mean, mean - reach, mean + reach, "seeds", paired)


def _welch(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Half of Welch's interval of the difference of two means; None without a spread to go by."""
    if min(len(a), len(b)) < 2:
        return None
    terms = [statistics.variance(each) / len(each) for each in (a, b)]
    if not (total := sum(terms)):
        return None
    freedom = total**2 / (terms[0] ** 2 / (len(a) - 1) + terms[1] ** 2 / (len(b) - 1))
    return float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * total**0.5


def _image_changes(first: Snapshot, other: Snapshot, metric: str) -> Tensor | None:
    """`metric` of each image in `other` less that in `first` [N]; None on different data."""
    if first.data != other.data:
        return None
    columns = [_of_images(each, metric) for each in (first, other)]
    if any(column is None for column in columns):
        return None
    a, b = (column for column in columns if column is not None)
    names = [name for name in a if name in b]
    return torch.tensor([b[name] - a[name] for name in names], dtype=torch.float64)


def _of_images(snapshot: Snapshot, metric: str) -> dict[object, float] | None:
    """The value of `metric` for each image that has one; None where it has none."""
    name = metric.partition(".")[2]
    if metric in PREDICTED:
        table, values = snapshot.table(paths.PREDICTIONS), PREDICTED[metric]
        return (
            None if table is None else dict(enumerate(map(float, table["label"] == table[values])))
        )
    table = snapshot.table(IMAGES)
    if not metric.startswith("explain.srg") or table is None or name not in table:
        return None
    known = table.dropna(subset=name)
    return dict(zip(known["index"].tolist(), map(float, known[name].to_numpy()), strict=True))
