"""Numbers as text, and the long table of scores as tables of maps by scores."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard

import pandas as pd

from abn.explain.statistics import LOWER, NEUTRAL

MISSING = "not measured"
MINUS = "\N{MINUS SIGN}"
MORE, LESS = "\N{NO-BREAK SPACE}↑", "\N{NO-BREAK SPACE}↓"

MAPS = {
    "attention": "Attention map",
    "att_cam": "Att-CAM",
    "grad_attention": "Gradient times map",
    "hirescam": "HiResCAM",
    "gradcam": "Grad-CAM",
    "gradcam_pp": "Grad-CAM++",
    "rise": "RISE",
}
CONTROLS = {"random": "Random", "centre": "Centre", "sobel": "Edges", "oracle": "True object"}
FAITHFUL = {
    "srg": "SRG",
    "insertion": "Insertion",
    "deletion": "Deletion",
    "srg_colour": "SRG, mean colour",
    "sufficient_area": "Enough",
    "removable_area": "Can go",
    "agreement": "Agreement",
}
LOCATED = {
    "auroc": "AUROC",
    "rank_accuracy": "Rank accuracy",
    "pointing": "Pointing",
    "pointing_tolerant": "Pointing, tolerant",
    "energy": "Energy",
    "lift": "Lift",
    "iou": "IoU",
    "grid_pointing": "Grid pointing",
}
STABLE = {
    "sensitivity": "Sensitivity",
    "flip": "Flip",
    "shift": "Shift",
    "stability": "Other seeds",
    "randomised_attention": "Random attention branch",
    "randomised_perception": "Random perception branch",
    "randomised_all": "Random network",
}
THEMES = FAITHFUL, LOCATED, STABLE


class Cell(NamedTuple):
    """A score of a map, as text; all but the value may be empty."""

    value: str
    interval: str
    beats: tuple[str, str]  # share of the images on which it beats random, and centre
    oracle: str  # as a share of what the true object, cut to cells, scores


class ScoreTable(NamedTuple):
    """Maps by scores: a row is a name and a cell, or None, for each column."""

    columns: list[str]
    methods: list[tuple[str, list[Cell | None]]]
    controls: list[tuple[str, list[Cell | None]]]
    missing: list[str]


def number(value: object, digits: int = 2) -> str:
    """`value` with `digits` decimals and a true minus sign; MISSING for None and NaN."""
    if not _known(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return (text.lstrip("-") if not float(text) else text).replace("-", MINUS)


def percent(value: object, digits: int = 1) -> str:
    """The share `value` in per cent; MISSING for None and NaN."""
    if not _known(value):
        return MISSING
    return f"{number(100 * value, digits)}\N{NO-BREAK SPACE}%"


def plain(value: object) -> str:
    """At most three significant digits; MISSING for None and NaN."""
    if not _known(value):
        return MISSING
    return f"{value:.3g}".replace("-", MINUS)


def _known(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def score_tables(maps: pd.DataFrame) -> list[ScoreTable]:
    """A table for each of THEMES, and one for all other scores."""
    themed = {score for theme in THEMES for score in theme}
    scores = dict.fromkeys(maps["score"]) if len(maps) else {}
    others = {score: score.replace("_", " ") for score in scores if score not in themed}
    return [score_table(maps, theme) for theme in (*THEMES, others)]


def score_table(maps: pd.DataFrame, columns: Mapping[str, str]) -> ScoreTable:
    """The part of the long table `maps` that is about `columns` (score -> heading)."""
    cells = {(row["map"], row["score"]): _cell(row) for row in records(maps.dropna(subset="mean"))}
    measured = [score for score in columns if any(score == other for _, other in cells)]
    names = {name: [cells.get((name, score)) for score in measured] for name, _ in cells}
    rows = {name: row for name, row in names.items() if any(row)}
    controls = sorted((name for name in rows if _control(name)), key=_order)
    return ScoreTable(
        [columns[score] + _arrow(score) for score in measured],
        [(MAPS.get(name, name), row) for name, row in rows.items() if name not in controls],
        [(_control(name), rows[name]) for name in controls],
        [heading for score, heading in columns.items() if score not in measured],
    )


def _control(name: str) -> str:
    """A control's name for people, with its grid where it is not the attention's; "" if it is none.

    "centre_2x2" is the centre on a grid of 2 x 2 cells.
    """
    kind, _, grid = name.partition("_")
    heading = CONTROLS.get(kind, "")
    return f"{heading}, {grid.replace('x', ' x ')}" if heading and grid else heading


def _order(name: str) -> tuple[int, str]:
    """Controls in the order of CONTROLS, those of other grids behind their own kind."""
    kind, _, grid = name.partition("_")
    return list(CONTROLS).index(kind), grid


def _arrow(score: str) -> str:
    """Whether more or less is better."""
    if score.startswith(NEUTRAL):
        return ""
    return LESS if score.startswith(LOWER) else MORE


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, with None where a value is missing."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict("records")
    ]


def _cell(row: Mapping[str, Any]) -> Cell:
    def share(key: str) -> str:
        return percent(row[key], 0) if row.get(key) is not None else ""

    known = row.get("low") is not None and row.get("high") is not None
    interval = f"{number(row['low'])} to {number(row['high'])}" if known else ""
    beats = share("beats_random"), share("beats_centre")
    return Cell(number(row["mean"]), interval, beats, share("of_oracle"))
