"""Numbers over trainings: each mode's mean and spread, and modes compared seed by seed."""

import copy
from typing import Any

import pytest

from benchmarks import seeds


def row(mode: str, seed: int, top1: float, cpu: float, verdict: str) -> dict[str, Any]:
    return {
        "attention": mode,
        "seed": seed,
        "train": {"weights": "0" * 64, "cpu_seconds": cpu, "wall_seconds": 2 * cpu},
        "evaluate": {"top1": top1},
        "explain": {"verdict": verdict, "gate_live": "pass", "srg": top1 / 2},
    }


ROWS = [
    row("residual", 42, 0.9, 100.0, "does not explain"),
    row("look", 42, 0.8, 120.0, "explains"),
    row("residual", 43, 0.7, 100.0, "undecided"),
    row("look", 43, 0.8, 140.0, "explains"),
    row("look", 44, 1.0, 130.0, "partly explains"),
]


def test_each_mode_has_its_mean_and_spread() -> None:
    modes = seeds.summary(ROWS)["modes"]
    look = modes["look"]["numbers"]["evaluate.top1"]
    assert look["mean"] == pytest.approx(2.6 / 3) and look["trainings"] == 3
    assert look["sd"] == pytest.approx((0.04 / 3) ** 0.5)  # squares 1, 1, 4 of 1/15, over 2
    assert modes["residual"]["numbers"]["explain.srg"]["mean"] == pytest.approx(0.4)


def test_verdicts_and_outcomes_are_counted() -> None:
    modes = seeds.summary(ROWS)["modes"]
    assert modes["look"]["words"]["verdict"] == {"explains": 2, "partly explains": 1}
    assert modes["residual"]["words"]["verdict"] == {"does not explain": 1, "undecided": 1}
    assert modes["look"]["words"]["gate_live"] == {"pass": 3}


def test_modes_are_compared_on_the_seeds_that_both_have() -> None:
    (compared,) = seeds.summary(ROWS)["less_the_first"].values()
    top1 = compared["numbers"]["evaluate.top1"]  # -0.1 and +0.1
    assert top1["mean"] == pytest.approx(0) and top1["trainings"] == 2
    assert top1["sd"] == pytest.approx(0.02**0.5)
    assert compared["cpu_ratio"]["mean"] == pytest.approx(1.3)


def test_modes_without_a_seed_in_common_are_not_compared() -> None:
    compared = seeds.summary([ROWS[0], ROWS[4]])["less_the_first"]["look"]
    assert compared["numbers"] == {} and compared["cpu_ratio"]["mean"] is None


def test_a_number_that_only_one_mode_has_is_in_no_difference() -> None:
    only = row("look", 42, 0.8, 120.0, "explains")
    only["explain"]["leak_noise"] = 0.1
    found = seeds.summary([ROWS[0], only])
    assert found["modes"]["look"]["numbers"]["explain.leak_noise"]["mean"] == 0.1
    assert "explain.leak_noise" not in found["less_the_first"]["look"]["numbers"]


def test_the_tables_show_every_training_and_every_number() -> None:
    text = seeds.tables(ROWS)
    assert text.count("explains") >= 2 and "2 explains, 1 partly explains" in text
    assert "explain.srg" in text and "look less residual" in text
    assert "CPU time of a training, look: 1.3 +- 0.14 x" in text


def test_a_gate_that_only_one_mode_has_leaves_the_other_blank() -> None:
    rows = copy.deepcopy(ROWS)
    for row in rows:
        if row["attention"] == "look":
            row["explain"]["gate_leak"] = "pass"
    (line,) = (line for line in seeds.tables(rows).splitlines() if line.startswith("gate_leak"))
    assert line.split()[1:] == ["3", "pass"]
