"""The verdict follows from the intervals, and from nothing that was not measured."""

from collections.abc import Callable

import pytest

from abn.config.params import Gates, Params
from abn.explain.statistics import Interval
from abn.explain.verdict import BY_DESIGN, FAIL, PASS, UNKNOWN, gates, verdict

GOOD: dict[str, Interval | None] = {
    "live": (1.4, 1.3, 1.5),
    "causal": (0.1, 0.05, 0.2),
    "faithful": (0.3, 0.2, 0.4),
    "faithful_centre": (0.1, 0.05, 0.2),
    "local": (0.1, 0.05, 0.2),
    "stable": (0.7, 0.6, 0.8),
    "sane": (0.1, 0.0, 0.2),
}


@pytest.fixture
def limits(params: Params) -> Gates:
    return params.explain.gates


def outcomes(measured: dict[str, Interval | None], limits: Gates) -> dict[str, str]:
    return {gate.gate: gate.outcome for gate in gates(measured, limits)}


def test_a_gate_passes_when_its_whole_interval_is_beyond_the_threshold(limits: Gates) -> None:
    assert outcomes(GOOD | {"causal": (0.5, 0.03, 0.9)}, limits)["causal"] == PASS
    assert outcomes(GOOD | {"causal": (0.5, 0.02, 0.9)}, limits)["causal"] == FAIL
    assert outcomes(GOOD | {"sane": (0.3, 0.1, 0.49)}, limits)["sane"] == PASS
    assert outcomes(GOOD | {"sane": (0.3, 0.1, 0.5)}, limits)["sane"] == FAIL


def test_the_thresholds_are_parameters(limits: Gates, changed: Callable[..., Gates]) -> None:
    assert outcomes(GOOD, changed(limits, stable=0.65))["stable"] == FAIL
    assert outcomes(GOOD, changed(limits, faithful=0.1))["faithful_centre"] == FAIL


def test_a_gate_shows_its_number_and_one_without_shows_none(limits: Gates) -> None:
    live, *_, agnostic = gates(GOOD, limits)
    assert (live.threshold, live.value, live.low, live.high) == (1.1, 1.4, 1.3, 1.5)
    assert agnostic.outcome == BY_DESIGN and agnostic.value is None
    unknown = gates({}, limits)[0]
    assert unknown.outcome == UNKNOWN and unknown.value is None and unknown.threshold == 1.1


def test_only_a_map_that_passes_everything_measured_explains(limits: Gates) -> None:
    assert verdict(gates(GOOD, limits)) == "explains"
    assert verdict(gates(GOOD | {"stable": None, "local": None}, limits)) == "explains"
    for name in ("faithful_centre", "local", "stable", "sane"):
        worse = (9.0, 0.9, 9.0) if name == "sane" else (0.0, -1.0, 9.0)
        assert verdict(gates(GOOD | {name: worse}, limits)) == "partly explains"


@pytest.mark.parametrize("name", ["live", "causal", "faithful"])
def test_a_map_that_is_dead_moves_nothing_or_ranks_like_chance_does_not_explain(
    limits: Gates, name: str
) -> None:
    assert verdict(gates(GOOD | {name: (1.0, -1.0, 1.0)}, limits)) == "does not explain"


def test_without_what_is_needed_no_map_explains(limits: Gates) -> None:
    for name in ("faithful_centre", "sane"):
        assert verdict(gates(GOOD | {name: None}, limits)) == "partly explains"
    for name in ("live", "causal", "faithful"):
        assert verdict(gates(GOOD | {name: None}, limits)) == "not measured"
