"""Metrics and tables as files: fixed order, six digits, so that a diff shows only what changed."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from abn.runtime import files

DIGITS = 6


def write_metrics(path: Path, metrics: Mapping[str, float | int | str]) -> None:
    """One flat JSON object; NaN is refused, because JSON has none."""
    rounded = {k: round(v, DIGITS) if isinstance(v, float) else v for k, v in metrics.items()}
    write_text(path, json.dumps(rounded, indent=2, allow_nan=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A CSV with a header; an empty field is a value that was not measured."""
    write_text(path, table.round(DIGITS).to_csv(index=False, lineterminator="\n"))


def write_text(path: Path, text: str) -> None:
    """`text` to `path`, whole or not at all."""
    with files.replacing(path) as part:
        part.write_text(text, encoding="utf-8")
