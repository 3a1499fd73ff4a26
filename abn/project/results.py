"""What the stages before wrote, read back for the report."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from abn.project import paths
from abn.runtime.errors import DataError
from abn.visualize.report import Results

NAMES = ("class", "actual", "predicted", "truth")  # of classes, which may be called 007 or NA


def read() -> Results:
    """All of it; DataError where a file is missing."""
    maps, curves, interventions, gates = (
        table(paths.explain_table(name)) for name in ("maps", "curves", "interventions", "gates")
    )
    return Results(
        metrics(paths.TRAIN_METRICS),
        metrics(paths.EVALUATE_METRICS),
        metrics(paths.EXPLAIN_METRICS),
        table(paths.HISTORY),
        table(paths.CONFUSION),
        table(paths.PER_CLASS),
        table(paths.CALIBRATION),
        maps,
        curves,
        interventions,
        gates,
    )


def metrics(path: Path) -> dict[str, Any]:
    """A flat JSON object."""
    return dict(json.loads(_text(path)))


def table(path: Path) -> pd.DataFrame:
    """A CSV with a header; an empty field was not measured."""
    text = io.StringIO(_text(path))
    kinds = dict.fromkeys(NAMES, str)
    return pd.read_csv(text, dtype=kinds, keep_default_na=False, na_values=[""])


def _text(path: Path) -> str:
    if not path.exists():
        raise DataError("not found", path, "run `dvc repro` first")
    return path.read_text()
