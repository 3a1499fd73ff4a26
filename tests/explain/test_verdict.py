"""The verdict follows from the intervals, and from nothing that was not measured."""

import itertools
from collections.abc import Callable

import pytest
import torch

from abn.config.params import Gates, Params
from abn.explain.statistics import Estimate, estimate, share_bounds
from abn.explain.verdict import (
    FAIL,
    PASS,
    QUESTIONS,
    UNDECIDED,
    UNKNOWN,
    Gate,
    gate,
    limits,
    undecided,
    units_needed,
    verdict,
)

ABOVE, BELOW, AROUND = (0.9, 0.8, 1.0), (0.1, 0.0, 0.2), (0.5, 0.3, 0.7)


@pytest.fixture
def thresholds(params: Params) -> Gates:
    return params.explain.gates


def found(mean: float, low: float, high: float, units: int = 50) -> Estimate:
    return Estimate(mean, low, high, units)


def test_an_interval_beyond_passes_one_short_fails_and_one_across_decides_nothing(
    thresholds: Gates,
) -> None:
    stable, sane = (limits(thresholds)[name] for name in ("stable", "sane"))  # both at 0.5
    assert [stable.outcome(found(*x)) for x in (ABOVE, BELOW, AROUND)] == [PASS, FAIL, UNDECIDED]
    assert [sane.outcome(found(*x)) for x in (ABOVE, BELOW, AROUND)] == [FAIL, PASS, UNDECIDED]
    assert stable.outcome(found(0.7, 0.5, 0.9)) == UNDECIDED  # it touches the threshold
    assert sane.outcome(found(0.3, 0.1, 0.5)) == UNDECIDED


def test_the_thresholds_are_parameters(thresholds: Gates, changed: Callable[..., Gates]) -> None:
    stricter = limits(changed(thresholds, stable=0.85, faithful=0.95))
    assert stricter["stable"].outcome(found(*ABOVE)) == UNDECIDED
    for name in ("faithful", "faithful_centre", "faithful_edges"):
        assert limits(thresholds)[name].outcome(found(*ABOVE)) == PASS
        assert stricter[name].outcome(found(0.9, 0.89, 0.94)) == FAIL


def test_no_flip_in_forty_is_undecided_and_none_in_two_hundred_fails(thresholds: Gates) -> None:
    causal = limits(thresholds)["causal"]
    few = gate("causal", estimate(torch.zeros(40), share=True), causal)
    assert few.outcome == UNDECIDED and (few.value, few.units) == (0, 40)
    assert few.images_needed == 190  # 183: 1 - 0.025 ** (1 / n) < 0.02, in two digits
    assert few.note == "about 190 images would decide"
    many = gate("causal", estimate(torch.zeros(200), share=True), causal, "a note")
    assert many.outcome == FAIL and many.images_needed is None and many.note == "a note"


def test_the_images_needed_follow_from_the_width_and_the_distance(thresholds: Gates) -> None:
    stable = limits(thresholds)["stable"]
    # The lower half is 0.2 and has to become 0.1: four times the images, and one more.
    assert units_needed(found(0.6, 0.4, 0.7, units=20), stable) == 81
    assert units_needed(found(0.5, 0.4, 0.7), stable) is None
    close = gate("stable", found(0.5, 0.4, 0.6), stable)
    assert close.outcome == UNDECIDED and close.images_needed is None
    assert close.note == "too close to the threshold to decide"


def test_what_was_not_measured_says_what_it_takes(thresholds: Gates) -> None:
    unknown = gate("class_specific", None, limits(thresholds)["class_specific"])
    assert unknown.outcome == UNKNOWN and unknown.value is None and unknown.threshold == 0.25
    assert unknown.note == "needs at least 20 mosaics"


def leaking(named: int, images: int, thresholds: Gates) -> str:
    low, high = share_bounds(torch.tensor(named / images), images)
    share = Estimate(named / images, float(low), float(high), images, share=True)
    return limits(thresholds, leak_chance=0.1)["leak"].outcome(share)


def test_a_leak_passes_at_chance_fails_above_the_threshold_and_is_undecided_between(
    thresholds: Gates,
) -> None:
    assert leaking(20, 200, thresholds) == PASS  # 0.062 to 0.150
    assert leaking(28, 200, thresholds) == PASS  # to 0.196, below twice chance
    assert leaking(30, 200, thresholds) == UNDECIDED  # to 0.207
    assert leaking(45, 200, thresholds) == FAIL  # from 0.169
    assert leaking(320, 2000, thresholds) == UNDECIDED  # 0.144 to 0.177: 0.16 is above 0.15
    assert leaking(280, 2000, thresholds) == PASS  # 0.14


def concluded(**outcomes: str) -> str:
    return verdict([Gate(name, "?", "?", outcome=outcome) for name, outcome in outcomes.items()])


def expected(fatal: set[str], needed: set[str], other: set[str]) -> str:
    """The docstring's table, in other words: what could the undecided gates still change?"""
    if FAIL in fatal:
        return "does not explain"
    if UNKNOWN in fatal:
        return UNKNOWN
    if fatal == {PASS} and (FAIL in needed | other or UNKNOWN in needed):
        return "partly explains"
    if UNDECIDED in fatal | needed:
        return "undecided"
    return "explains"


def test_every_case_of_the_verdict() -> None:
    """All outcomes of three fatal, two other needed and two optional gates: 16,384 cases."""
    names = "live", "causal", "faithful", "sane", "leak", "local", "stable"
    for case in itertools.product((PASS, FAIL, UNDECIDED, UNKNOWN), repeat=len(names)):
        outcomes = dict(zip(names, case, strict=True))
        want = expected(set(case[:3]), set(case[3:5]), set(case[5:]))
        assert concluded(**outcomes) == want, outcomes


def test_each_needed_gate_is_needed_and_the_others_are_not() -> None:
    good = dict.fromkeys(QUESTIONS, PASS)
    assert concluded(**good) == "explains"
    for name in ("faithful_centre", "faithful_edges", "sane", "leak"):
        assert concluded(**good | {name: UNDECIDED}) == "undecided"
        assert concluded(**good | {name: UNKNOWN}) == concluded(**good | {name: FAIL})
        assert concluded(**good | {name: FAIL}) == "partly explains"
    for name in ("live", "causal", "faithful"):
        assert concluded(**good | {name: FAIL}) == "does not explain"
        assert concluded(**good | {name: UNKNOWN}) == UNKNOWN
        assert concluded(**good | {name: UNDECIDED}) == "undecided"
    for name in ("local", "stable", "class_specific"):
        for outcome in (UNDECIDED, UNKNOWN, "by design"):
            assert concluded(**good | {name: outcome}) == "explains"
        assert concluded(**good | {name: FAIL}) == "partly explains"


def test_a_map_is_judged_by_the_gates_that_apply_to_it() -> None:
    own = dict.fromkeys(("faithful", "faithful_centre", "faithful_edges", "sane"), PASS)
    assert concluded(**own) == "explains"  # it does not act, so that causal is not asked
    assert concluded(**own | {"faithful": FAIL}) == "does not explain"


def test_what_more_images_could_decide_is_named() -> None:
    gates = [
        Gate("live", "?", "?", outcome=PASS),
        Gate("stable", "?", "?", outcome=UNDECIDED),
        Gate("local", "?", "?", outcome=UNKNOWN),
    ]
    assert undecided(gates) == ["stable"]
