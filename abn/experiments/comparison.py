"""Configurations compared with the first of them: what differs, and by how much."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from abn.experiments.configuration import Configuration
from abn.experiments.difference import Difference, difference
from abn.experiments.snapshots import METRICS, STAGES, Snapshot

ABSENT = "-"
LABEL = 3  # params at most in the name of a configuration
PROCESSOR = "train.device"
NAMED = 60  # characters of the trainings that a note names


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
