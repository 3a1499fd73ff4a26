"""The table of maps against answers known by arithmetic."""

import torch

from abn.explain import tables


def test_the_table_holds_every_map_against_the_controls_and_the_ceiling():
    scores = {
        "attention": {"auroc": torch.tensor([0.5, 0.75]), "deletion": torch.tensor([0.1, 0.1])},
        "random": {"auroc": torch.tensor([0.25, 0.75]), "deletion": torch.tensor([0.5, 0.5])},
        "centre": {"auroc": torch.tensor([1.0, 1.0])},
        "oracle": {"auroc": torch.tensor([1.0, 1.0])},
    }
    table = tables.maps_table(scores, seed=0).set_index(["map", "score"])
    row = table.loc["attention", "auroc"]
    assert row[["mean", "images", "beats_random", "beats_centre"]].tolist() == [0.625, 2, 0.75, 0]
    assert row["low"] <= row["mean"] <= row["high"] and row["of_ceiling"] == 0.625
    assert table.loc["attention", "deletion"]["beats_random"] == 1  # less is better
    assert table["beats_random"].isna()["random", "auroc"]
    assert table["of_ceiling"].isna()["attention", "deletion"]


def test_a_map_of_fewer_images_is_compared_on_those_alone():
    nan = float("nan")
    scores = {
        "rise": {"auroc": torch.tensor([nan, 0.5])},
        "random": {"auroc": torch.tensor([0.9, 0.4])},
        "oracle": {"auroc": torch.tensor([0.1, 1.0])},
        "sobel": {"iou": torch.tensor([nan, nan])},
    }
    table = tables.maps_table(scores, seed=0).set_index("map")
    row = table.loc["rise"]
    assert (row["images"], row["beats_random"], row["of_ceiling"]) == (1, 1, 0.5)
    assert "sobel" not in table.index


def test_where_the_oracle_gains_nothing_there_is_no_ceiling() -> None:
    for best in (0.0, -0.5, float("nan")):
        scores = {
            "attention": {"srg": torch.tensor([0.1, 0.2])},
            "oracle": {"srg": torch.full((2,), best)},
        }
        row = tables.maps_table(scores, seed=0).set_index("map").loc["attention"]
        assert row["of_ceiling"] is None or row["of_ceiling"] != row["of_ceiling"]
