"""Metrics and tables as files: written in a fixed order with six digits, and read back.

A diff of two results then shows only what changed.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pandas.api.types import is_numeric_dtype

from abn.project import paths
from abn.runtime import files
from abn.runtime.errors import DataError
from abn.runtime.spreadsheet import escaped, plain

DIGITS = 6
NAMES = (  # of classes, which may be called 007 or NA, and of files
    *("class", "actual", "predicted", "truth", "file", "label", "prediction"),
    "attention_prediction",
)

Table = pd.DataFrame
Metrics = Mapping[str, Any]


class Results(NamedTuple):
    """What the stages before measured."""

    train: Metrics
    evaluate: Metrics
    explain: Metrics
    history: Table
    confusion: Table
    per_class: Table
    calibration: Table
    maps: Table
    curves: Table
    interventions: Table
    gates: Table  # of the attention map
    map_gates: Table  # of every map


def write_metrics(path: Path, metrics: Mapping[str, float | int | str]) -> None:
    """One flat JSON object; NaN is refused, because JSON has none."""
    write_text(path, json.dumps(rounded(metrics), indent=2, allow_nan=False) + "\n")


def rounded(metrics: Mapping[str, float | int | str]) -> dict[str, float | int | str]:
    """Numbers with as many digits as all files have."""
    return {k: round(v, DIGITS) if isinstance(v, float) else v for k, v in metrics.items()}


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A CSV with a header; an empty field is a value that was not measured.

    A text that a spreadsheet would run as a formula gets a ' before it; `table` takes it off.
    """
    texts = {
        str(name): table[name].map(escaped) for name in table if not is_numeric_dtype(table[name])
    }
    written = table.round(DIGITS).assign(**texts)
    write_text(path, written.to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """`text` to `path`, whole or not at all."""
    with files.replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def read() -> Results:
    """All of it; DataError where a file is missing."""
    tables = [paths.HISTORY, paths.CONFUSION, paths.PER_CLASS, paths.CALIBRATION]
    tables += map(paths.explain_table, ("maps", "curves", "interventions", "gates", "map_gates"))
    return Results(
        metrics(paths.TRAIN_METRICS),
        metrics(paths.EVALUATE_METRICS),
        metrics(paths.EXPLAIN_METRICS),
        *map(table, tables),
    )


def metrics(path: Path) -> dict[str, Any]:
    """A flat JSON object."""
    return dict(json.loads(_text(path)))


def table(path: Path) -> pd.DataFrame:
    """A CSV with a header; an empty field was not measured."""
    return parsed(_text(path))


def parsed(text: str) -> pd.DataFrame:
    """The table in the text of such a CSV."""
    kinds = dict.fromkeys(NAMES, str)
    found = pd.read_csv(io.StringIO(text), dtype=kinds, keep_default_na=False, na_values=[""])
    return found.assign(**{name: found[name].map(plain) for name in NAMES if name in found})


def _text(path: Path) -> str:
    if not path.exists():
        raise DataError("not found", path, "run `dvc repro` first")
    return path.read_text(encoding="utf-8")
