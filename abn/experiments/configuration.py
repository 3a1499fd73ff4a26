"""A configuration: trainings that differ only in their seed, and what they have in common."""

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from abn.experiments.snapshots import GATES, IMAGES, Snapshot
from abn.explain.stability import overlap

VERDICT = "explain.verdict"
STABLE = "explain.stable_between_seeds"


class Summary(NamedTuple):
    """A metric over the seeds of a configuration."""

    mean: float
    sd: float | None  # of a sample; None for one seed
    seeds: int


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
        found = {name: _summary(known) for name in names if (known := numbers(values[name]))}
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


def numbers(values: Sequence[object]) -> list[float]:
    """Those of `values` that are finite numbers."""
    return [float(each) for each in values if isinstance(each, int | float) and np.isfinite(each)]
