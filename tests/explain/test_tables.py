"""The table of maps against answers known by arithmetic."""

from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from abn.explain import chance, tables
from abn.explain.verdict import Gate

NAN = float("nan")


class Grids:
    """A case whose maps are all on one grid, unless their name says another."""

    def control(self, name: str, kind: str) -> str | None:
        ending = "_2x2" if name == "gradcam" else ""
        return kind + ending


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chance, "level", lambda case, name, score: 0.5)


def table(scores: dict[str, dict[str, Tensor]]) -> pd.DataFrame:
    case: Any = Grids()
    kinds = ("random", "centre", "oracle", "random_2x2", "centre_2x2", "oracle_2x2")
    return tables.maps_table(case, {kind: {} for kind in kinds} | scores)


def test_the_table_holds_every_map_against_the_controls_and_the_oracle() -> None:
    scores = {
        "attention": {"auroc": torch.tensor([0.5, 0.75]), "deletion": torch.tensor([0.1, 0.1])},
        "random": {"auroc": torch.tensor([0.25, 0.75]), "deletion": torch.tensor([0.5, 0.5])},
        "centre": {"auroc": torch.tensor([1.0, 1.0])},
        "oracle": {"auroc": torch.tensor([1.0, 1.0])},
    }
    rows = table(scores).set_index(["map", "score"])
    row = rows.loc["attention", "auroc"]
    assert row[["mean", "images", "beats_random", "beats_centre"]].tolist() == [0.625, 2, 0.75, 0]
    assert row["of_oracle"] == 0.625 and row["chance"] == 0.5
    assert rows.loc["attention", "deletion"]["beats_random"] == 1  # less is better
    assert rows["beats_random"].isna()["random", "auroc"]
    assert rows["of_oracle"].isna()["attention", "deletion"]


def test_an_interval_takes_twenty_images_and_that_of_a_share_is_exact() -> None:
    values = torch.zeros(40)
    few = torch.cat([values[:19], torch.full((21,), NAN)])
    rows = table({"attention": {"srg": values + 1, "pointing": values, "flip": few}})
    rows = rows.set_index("score")
    assert rows.loc["srg"][["low", "high"]].tolist() == [1, 1]
    assert rows.loc["pointing"]["low"] == 0
    assert rows.loc["pointing"]["high"] == pytest.approx(1 - 0.025 ** (1 / 40))
    assert rows.loc["flip"][["mean", "images"]].tolist() == [0, 19]
    assert rows.loc["flip"][["low", "high"]].isna().all()


def test_draws_of_random_weights_are_averaged_and_widen_the_interval() -> None:
    draws = torch.tensor([0.1, 0.3]).unsqueeze(1).expand(2, 30)
    row = table({"attention": {"randomised_all": draws}}).iloc[0]
    assert (row["mean"], row["images"]) == (pytest.approx(0.2), 30)
    assert row["low"] < 0 < 0.4 < row["high"]  # two draws, however many images


def test_a_map_is_held_against_the_controls_on_its_own_grid() -> None:
    scores = {
        "gradcam": {"srg": torch.tensor([0.2, 0.2])},
        "centre": {"srg": torch.tensor([0.9, 0.9])},
        "centre_2x2": {"srg": torch.tensor([0.1, 0.1])},
        "oracle": {"srg": torch.tensor([1.0, 1.0])},
        "oracle_2x2": {"srg": torch.tensor([0.4, 0.4])},
    }
    row = table(scores).set_index("map").loc["gradcam"]
    assert (row["beats_centre"], row["of_oracle"]) == (1, 0.5)


def test_a_map_of_fewer_images_is_compared_on_those_alone() -> None:
    scores = {
        "rise": {"auroc": torch.tensor([NAN, 0.5])},
        "random": {"auroc": torch.tensor([0.9, 0.4])},
        "oracle": {"auroc": torch.tensor([0.1, 1.0])},
        "sobel": {"iou": torch.tensor([NAN, NAN])},
    }
    rows = table(scores).set_index("map")
    row = rows.loc["rise"]
    assert (row["images"], row["beats_random"], row["of_oracle"]) == (1, 1, 0.5)
    assert "sobel" not in rows.index


def test_where_the_oracle_gains_nothing_there_is_no_share_of_it() -> None:
    for best in (0.0, -0.5, NAN):
        scores = {
            "attention": {"srg": torch.tensor([0.1, 0.2])},
            "oracle": {"srg": torch.full((2,), best)},
        }
        row = table(scores).set_index("map").loc["attention"]
        assert row["of_oracle"] is None or row["of_oracle"] != row["of_oracle"]


def test_the_gates_of_every_map_are_in_one_table() -> None:
    gates = {
        "attention": [Gate("live", "?", "gain", 1.1, 1.4, 1.3, 1.5, "pass", 200)],
        "att_cam": [Gate("faithful", "?", "SRG", 0.0, 0.01, -0.1, 0.1, "undecided", 40, 900, "?")],
    }
    rows = tables.gates_table(gates)
    assert rows[["map", "gate", "outcome"]].values.tolist() == [
        ["attention", "live", "pass"],
        ["att_cam", "faithful", "undecided"],
    ]
    assert rows["images_needed"].tolist()[1] == 900 and "question" not in rows
