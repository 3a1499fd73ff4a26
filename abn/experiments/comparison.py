"""Configurations compared: mean and standard deviation over seeds, and differences with intervals.

Trainings that differ only in their seed are one configuration. A difference is taken between
trainings of the same seed where both configurations have it, and of the same images where both were
measured on the same data; its interval is that of `abn.explain.statistics`. Where no seed is
shared, it is that of the two means.
"""

import itertools
import statistics
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from abn.experiments.snapshots import GATES, IMAGES, METRICS, STAGES, Snapshot
from abn.explain.stability import overlap
from abn.explain.statistics import LEVEL, estimate
from abn.project import paths

ABSENT = "-"
LABEL = 3  # params at most in the name of a configuration
VERDICT, PROCESSOR = "explain.verdict", "train.device"
STABLE = "explain.stable_between_seeds"
NAMED = 60  # characters of the trainings that a note names
ALL, NONE = "all seeds", "no seed"  # over which a difference is paired
PREDICTED = {"evaluate.top1": "prediction", "evaluate.attention_top1": "attention_prediction"}


class Summary(NamedTuple):
    """A metric over the seeds of a configuration."""

    mean: float
    sd: float | None  # of a sample; None for one seed
    seeds: int


class Difference(NamedTuple):
    """How much more of a metric a configuration has than the first, and the 95 % interval."""

    mean: float
    low: float | None
    high: float | None
    covers: str  # what may be drawn again: "images", "images and seeds", "seeds"; "" for none
    paired: str  # over what: ALL, "1 of 3 seeds", NONE; "" if the metric is not one of a training


@dataclass(frozen=True)
class Configuration:
    """Trainings that differ only in their seed, each seed once."""

    label: str
    trainings: tuple[Snapshot, ...]

    @property
    def seeds(self) -> dict[str, Snapshot]:
        return {each.seed: each for each in self.trainings}

    @property
    def params(self) -> dict[str, str]:
        """Those of all stages that any of the trainings has run."""
        return {name: value for each in self.trainings for name, value in each.params.items()}

    @property
    def digests(self) -> dict[str, str]:
        """The first digits of the MD5 of data and code, by path."""
        files = [each.data | each.code for each in self.trainings]
        return {name: md5[:6] for each in files for name, md5 in each.items()}

    @property
    def stages(self) -> set[str]:
        """Those that any of the trainings has run."""
        return {stage for each in self.trainings for stage in each.stages}

    @cached_property
    def metrics(self) -> dict[str, Summary]:
        """Every number that any of the trainings has."""
        names = dict.fromkeys(name for each in self.trainings for name in each.metrics)
        values = {name: [each.metrics.get(name) for each in self.trainings] for name in names}
        found = {name: _summary(known) for name in names if (known := _numbers(values[name]))}
        return found | ({STABLE: self.stable} if self.stable else {})

    @cached_property
    def stable(self) -> Summary | None:
        """How alike the attention maps of the seeds are: mean and sd over the pairs of seeds.

        Of each pair the mean IoU of the maps' top fifth of cells over the images that both have
        explained (`abn.explain.stability`). None without two seeds, or for older results.
        """
        values = [_overlap(one, other) for one, other in self._pairs]
        return _summary(values)._replace(seeds=len(self._explained)) if values else None

    @property
    def shared(self) -> int:
        """Images that `stable` is over: those of the pair of seeds that shares the fewest."""
        return min((len(one.keys() & other.keys()) for one, other in self._pairs), default=0)

    @cached_property
    def _explained(self) -> list[dict[object, str]]:
        return [cells for each in self.trainings if (cells := _top_cells(each))]

    @property
    def _pairs(self) -> list[tuple[dict[object, str], dict[object, str]]]:
        pairs = itertools.combinations(self._explained, 2)
        return [(one, other) for one, other in pairs if one.keys() & other.keys()]

    @property
    def verdicts(self) -> Counter[str]:
        """How many of the trainings have each verdict."""
        return Counter(
            str(each.metrics[VERDICT]) for each in self.trainings if VERDICT in each.metrics
        )

    def gates(self) -> dict[str, list[dict[str, object]]]:
        """The rows of the gates' tables, one for each training that has it, by gate."""
        rows: dict[str, list[dict[str, object]]] = {}
        for each in self.trainings:
            table = each.table(GATES)
            for row in [] if table is None else table.to_dict("records"):
                rows.setdefault(str(row["gate"]), []).append({str(k): v for k, v in row.items()})
        return rows


@dataclass(frozen=True)
class Comparison:
    """Configurations, the first of which is what the others are compared with."""

    configurations: tuple[Configuration, ...]
    differing: dict[str, list[str]]  # param, or source, to its value in each configuration
    notes: tuple[str, ...]

    def differences(self, configuration: Configuration) -> dict[str, Difference]:
        """By metric; none for the first."""
        first = self.configurations[0]
        if configuration is first:
            return {}
        shared = [name for name in configuration.metrics if name in first.metrics]
        return {name: difference(first, configuration, name) for name in shared}


def compare(snapshots: Sequence[Snapshot]) -> Comparison:
    """`snapshots` by configuration, in their order.

    Of a training that occurs twice the one with more results counts.
    """
    snapshots = _named(snapshots)
    groups: dict[object, dict[str, Snapshot]] = {}
    notes = [note for each in snapshots for note in each.notes] + _never_run(snapshots)
    for key, each in zip(_keys(snapshots), snapshots, strict=True):
        group = groups.setdefault(key, {})
        known = group.setdefault(each.seed, each)
        if known is not each:
            less, group[each.seed] = sorted((each, known), key=lambda one: len(one.files))
            notes.append(_twice(less, group[each.seed]))
    notes += _processors(snapshots)
    members = [tuple(group.values()) for group in groups.values()]
    found = [Configuration(group[0].name, group) for group in members]
    differing = _differing(found)
    labels = _labels([each.label for each in found], differing)
    configurations = [replace(one, label=label) for one, label in zip(found, labels, strict=True)]
    return Comparison(tuple(configurations), differing, tuple(notes))


def _named(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """`snapshots`, with the commit in the names of those that have one name on two commits."""
    times = Counter(each.name for each in snapshots)
    return [
        replace(each, name=f"{each.name} ({each.revision[:7]})") if times[each.name] > 1 else each
        for each in snapshots
    ]


def _twice(less: Snapshot, more: Snapshot) -> str:
    """The line on `less`, which does not count beside `more`."""
    both = less.metrics.keys() & more.metrics.keys()
    same = all(less.metrics[name] == more.metrics[name] for name in both)
    other = "" if same else " but other results, perhaps of another processor"
    return f"{less.name}: the configuration and seed of {more.name}{other}; counted once"


def _keys(snapshots: Sequence[Snapshot]) -> list[object]:
    """What is equal in the trainings of one configuration, in whatever order they come.

    The train stage is; then, stage by stage, what those read that are alike so far. A stage that
    never ran in a training is as in the others, if these agree on it; if not, nobody knows which of
    them the training would be like, so it is a configuration of its own.
    """
    keys: list[tuple[object, ...]] = [()] * len(snapshots)
    for stage in STAGES[::-1]:
        read = [each.read_by(stage) if stage in each.stages else None for each in snapshots]
        kinds: dict[object, set[object]] = {}
        for key, one in zip(keys, read, strict=True):
            kinds.setdefault(key, set()).update(() if one is None else (one,))
        keys = [
            (*key, one if len(kinds[key]) > 1 else None)
            for key, one in zip(keys, read, strict=True)
        ]
    return list(keys)


def _never_run(snapshots: Sequence[Snapshot]) -> list[str]:
    """A line for each training that lacks a stage which others have run."""
    ran = {stage for each in snapshots for stage in each.stages}
    stages = [stage for stage in METRICS if stage in ran]
    pairs = [(each, stage) for each in snapshots for stage in stages if stage not in each.stages]
    return [f"{each.name}: {stage} was never run" for each, stage in pairs]


def _processors(snapshots: Sequence[Snapshot]) -> list[str]:
    """A line if not all were trained on the same processor with as many threads, where known."""
    on: dict[str, list[str]] = {}
    for each in snapshots:
        if processor := each.metrics.get(PROCESSOR):
            on.setdefault(str(processor), []).append(each.name)
    where = [f"{name} ({textwrap.shorten(', '.join(of), NAMED)})" for name, of in on.items()]
    different = "trained on different processors or thread counts, so other bits of the same seed: "
    return [different + "; ".join(where)] if len(on) > 1 else []


def difference(first: Configuration, other: Configuration, metric: str) -> Difference:
    """`metric` of `other` less that of `first`, both of which have it.

    Over pairs of trainings of the same seed that have it; without such a pair, of the two means.
    """
    pairs = [(first.seeds[seed], each) for seed, each in other.seeds.items() if seed in first.seeds]
    pairs = [pair for pair in pairs if all(_numbers([each.metrics.get(metric)]) for each in pair)]
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
    sides = [_numbers([t.metrics.get(metric) for t in c.trainings]) for c in (first, other)]
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


def _top_cells(snapshot: Snapshot) -> dict[object, str]:
    """The attention map's top cells, by the index of the image; empty where not recorded."""
    table = snapshot.table(IMAGES)
    if table is None or "top_cells" not in table:
        return {}
    return dict(zip(table["index"].tolist(), table["top_cells"], strict=True))


def _overlap(one: dict[object, str], other: dict[object, str]) -> float:
    shared = [index for index in one if index in other]
    return overlap([one[index] for index in shared], [other[index] for index in shared])


def _summary(values: Sequence[float]) -> Summary:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), sd, len(values))


def _numbers(values: Sequence[object]) -> list[float]:
    return [float(each) for each in values if isinstance(each, int | float) and np.isfinite(each)]


def _differing(configurations: Sequence[Configuration]) -> dict[str, list[str]]:
    """What is not the same in every configuration: params, then data, then sources.

    A configuration that never ran a stage does not differ in what only that stage reads.
    """
    read: dict[str, set[str]] = {}
    for each in (training for one in configurations for training in one.trainings):
        for stage, some in each.stages.items():
            read.setdefault(stage, set()).update(some)
    known = [
        {name: ABSENT for stage in each.stages for name in read[stage]} | each.params | each.digests
        for each in configurations
    ]
    names = dict.fromkeys(name for each in configurations for name in sorted(each.params))
    names |= dict.fromkeys(name for each in configurations for name in each.digests)
    return {
        name: [each.get(name, ABSENT) for each in known]
        for name in names
        if len({each[name] for each in known if name in each}) > 1
    }


def _labels(names: Sequence[str], differing: dict[str, list[str]]) -> list[str]:
    """A name for each configuration: what is special about it, else its first training."""
    params = {name: values for name, values in differing.items() if "/" not in name}
    words = [
        " ".join(f"{name}={values[i]}" for name, values in params.items())
        for i in range(len(names))
    ]
    if 1 <= len(params) <= LABEL and len(set(words)) == len(names):
        return words
    return list(names)
