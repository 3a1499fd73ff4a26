"""The rehearsal of a shortcut: alarms, and what may be concluded over the seeds."""

from typing import Any

import pytest
import torch

from benchmarks import shortcut

ONES, NONE = torch.ones(40), torch.full((40,), torch.nan)
LOOKS = {"target": ONES, "patch": 3 * ONES}
AVOIDS = {"target": ONES, "patch": 0 * ONES}
SELDOM = {"target": ONES, "patch": torch.arange(40) / 35.0}  # above 1 on four pictures
FLAT = {"target": NONE, "patch": NONE}
SIDES = ("reliant", "control")


def round_of(
    mode: str,
    seed: int,
    hits: float,
    accuracies: tuple[float, float] = (0.9, 0.5),
    tested: bool = True,
) -> dict[str, Any]:
    """A round without false alarms."""
    scores = {"hits": hits, "false_alarms": 0.0, "youden": hits, "auroc": 0.5}
    return {
        "attention": mode,
        "seed": seed,
        "tested": tested,
        "networks": {
            side: {"accuracy_aligned": accuracy, "weights": "0" * 64}
            for side, accuracy in zip(SIDES, accuracies, strict=True)
        },
        "maps": {"attention": scores | {"density": {}}},
    }


def would_have_warned(*hits: float) -> str:
    rounds = [round_of("look", seed, each) for seed, each in enumerate(hits)]
    return shortcut.summary(rounds, 0.1)["modes"]["look"]["maps"]["attention"]["would_have_warned"]


def test_an_alarm_is_a_map_denser_on_the_patch_than_on_the_target() -> None:
    found = shortcut.alarms(LOOKS, SELDOM)
    assert found["hits"] == 1 and found["false_alarms"] == pytest.approx(0.1)
    assert found["youden"] == pytest.approx(0.9) and found["auroc"] == 1
    assert found["density"]["reliant"] == {"target": 1, "patch": 3}


def test_maps_alike_on_both_networks_tell_nothing() -> None:
    found = shortcut.alarms(LOOKS, LOOKS)
    assert found["hits"] == found["false_alarms"] == 1
    assert found["youden"] == 0 and found["auroc"] == 0.5


def test_a_flat_map_raises_no_alarm() -> None:
    found = shortcut.alarms(FLAT, LOOKS)
    assert found["hits"] == 0 and found["youden"] == -1 and found["auroc"] == 0
    assert found["density"]["reliant"]["patch"] is None
    assert shortcut.alarms(FLAT, AVOIDS)["auroc"] == 1  # its density is taken for chance


def test_a_warning_takes_an_interval_over_the_seeds() -> None:
    assert would_have_warned(0.8, 0.82, 0.78, 0.8, 0.8) == shortcut.WARNED
    assert would_have_warned(0.3, 0.32, 0.28, 0.3, 0.3) == shortcut.SILENT
    assert would_have_warned(0.0, 0.02, 0.01, 0.0, 0.01) == shortcut.BLIND
    assert would_have_warned(0.9, 0.0, 0.9, 0.0) == shortcut.UNDECIDED
    assert would_have_warned(0.9) == shortcut.UNDECIDED  # one seed


def test_rounds_in_which_no_network_relies_on_the_patch_test_nothing() -> None:
    rounds = [round_of("look", seed, 0.8, tested=False) for seed in range(3)]
    found = shortcut.summary(rounds, 0.1)["modes"]["look"]
    assert found["tested"] == [] and found["seeds"] == [0, 1, 2]
    assert found["maps"]["attention"]["would_have_warned"] == shortcut.NEITHER
    assert found["networks"]["reliant"]["accuracy_aligned"]["mean"] == pytest.approx(0.9)


def test_modes_are_compared_seed_by_seed_where_accuracies_are_equal() -> None:
    rounds = [
        round_of("residual", 0, 0.4),
        round_of("look", 0, 0.8, (0.85, 0.55)),
        round_of("residual", 1, 0.5),
        round_of("look", 1, 0.7, (0.95, 0.45)),
        round_of("residual", 2, 0.5),
        round_of("look", 2, 0.5, (0.9, 0.2)),  # its control network is worse
        round_of("residual", 3, 0.5, tested=False),
        round_of("look", 3, 0.9),
        round_of("look", 4, 0.9),  # no residual
    ]
    found = shortcut.summary(rounds, margin=0.1)["less_residual"]["look"]
    assert found["all"]["seeds"] == [0, 1, 2] and found["equal"]["seeds"] == [0, 1]
    assert found["gaps"] == {
        "0": pytest.approx(0.05),
        "1": pytest.approx(0.05),
        "2": pytest.approx(0.3),
    }
    every, equal = (found[which]["maps"]["attention"]["youden"] for which in ("all", "equal"))
    assert every["mean"] == pytest.approx(0.2)  # of 0.4, 0.2 and 0
    assert equal["mean"] == pytest.approx(0.3) and equal["trainings"] == 2
    reach = 12.7062 * 0.1  # t with 1 degree of freedom, times the standard error
    assert equal["low"] == pytest.approx(0.3 - reach, abs=1e-4)


def test_the_tables_have_a_row_a_map_and_say_which_seeds_count() -> None:
    rounds = [
        round_of(mode, seed, 0.8 + seed / 100) for seed in (0, 1) for mode in ("residual", "look")
    ]
    text = shortcut.tables(shortcut.summary(rounds, 0.1))
    assert "look: alarms over seeds [0, 1]" in text and "equal pairs: seeds [0, 1]" in text
    assert "0.9 +- 0" in text and "would_have_warned" in text
