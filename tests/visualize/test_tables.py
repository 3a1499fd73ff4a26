"""Numbers as text, and the long table of scores turned into tables of maps by scores."""

import pandas as pd

from abn.visualize.tables import MISSING, number, percent, plain, score_table, score_tables

NBSP, MINUS = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}"


def scored(*rows: tuple[str, str, float | None]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["map", "score", "mean"])
    return table.assign(
        low=table["mean"] - 0.1,
        high=table["mean"] + 0.1,
        images=9,
        beats_random=0.75,
        beats_centre=None,
        of_oracle=0.5,
    )


def test_numbers_are_rounded_with_a_true_minus_and_no_negative_zero() -> None:
    assert [number(v) for v in (1, -0.126, -0.001, 0.0)] == ["1.00", f"{MINUS}0.13", "0.00", "0.00"]
    assert percent(0.1234) == f"12.3{NBSP}%"
    assert [plain(v) for v in (1.10, -0.02, 12.345)] == ["1.1", f"{MINUS}0.02", "12.3"]


def test_a_missing_value_is_never_a_number() -> None:
    for value in (None, float("nan"), "", float("inf")):
        assert number(value) == percent(value) == plain(value) == MISSING


def test_controls_are_separate_and_in_their_own_order() -> None:
    table = scored(("random", "srg", 0), ("attention", "srg", 0.5), ("centre", "srg", 0.3))
    result = score_table(table, {"srg": "SRG"})
    assert [name for name, _ in result.methods] == ["Attention map"]
    assert [name for name, _ in result.controls] == ["Random", "Centre"]


def test_controls_of_another_grid_are_controls_and_say_which() -> None:
    rows = [
        (name, "srg", 0) for name in ("oracle_2x2", "att_cam", "centre_2x2", "centre", "oracle")
    ]
    result = score_table(scored(*rows), {"srg": "SRG"})
    assert [name for name, _ in result.methods] == ["Att-CAM"]
    named = ["Centre", "Centre, 2 x 2", "True object", "True object, 2 x 2"]
    assert [name for name, _ in result.controls] == named


def test_a_cell_has_its_interval_its_wins_and_its_share_of_the_oracles() -> None:
    ((_, (cell,)),) = score_table(scored(("attention", "srg", 0.5)), {"srg": "SRG"}).methods
    assert cell is not None and cell.value == "0.50" and cell.interval == "0.40 to 0.60"
    assert cell.beats == (f"75{NBSP}%", "") and cell.oracle == f"50{NBSP}%"


def test_a_missing_score_is_named_and_a_missing_cell_is_none() -> None:
    table = scored(("attention", "srg", 0.5), ("rise", "srg", None), ("rise", "flip", 0.9))
    result = score_table(table, {"srg": "SRG", "flip": "Flip", "auroc": "AUROC"})
    assert result.columns == [f"SRG{NBSP}↑", f"Flip{NBSP}↑"] and result.missing == ["AUROC"]
    assert [[cell is None for cell in row] for _, row in result.methods] == [
        [False, True],
        [True, False],
    ]


def test_an_arrow_shows_whether_more_or_less_is_better() -> None:
    for score, heading in (("density_patch", "D"), ("deletion", f"D{NBSP}↓")):
        assert score_table(scored(("rise", score, 1)), {score: "D"}).columns == [heading]


def test_a_score_of_no_theme_is_on_the_last_score_table() -> None:
    *themes, rest = score_tables(scored(("attention", "quite_new", 0.5)))
    assert all(not theme.columns for theme in themes)
    assert rest.columns == [f"quite new{NBSP}↑"]
    assert all(not table.columns for table in score_tables(scored()))
