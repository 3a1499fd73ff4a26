"""The MLflow run of a trained model: for the stages after its training, and from files alone."""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from abn import tracking
from abn.models import checkpoint
from abn.models.checkpoint import Checkpoint
from abn.project import paths


@contextmanager
def run_of(path: Path, trained: Checkpoint) -> Iterator[tracking.Run]:
    """The run of the weights in `path`, found by their content or made anew from the files."""

    def backfill(run: tracking.Run) -> None:
        run.tag(tracking.lineage())
        training(run, path, trained)

    key = ("weights.sha256", checkpoint.sha256(path))
    with tracking.run(key, label(trained.params), backfill=backfill) as run:
        yield run


def label(params: Mapping[str, Any]) -> str:
    """What a run is called: "resnet18-s0"."""
    return f"{params['arch']}-s{params['seed']}"


def training(run: tracking.Run, path: Path, trained: Checkpoint) -> None:
    """What the files say of the training of the weights in `path`."""
    run.params(trained.params)
    if path == paths.CHECKPOINT / paths.MODEL and paths.HISTORY.exists():
        history(run, paths.HISTORY.read_text())


def history(run: tracking.Run, table: str) -> None:
    """A training's CSV as curves."""
    for row in pd.read_csv(io.StringIO(table)).to_dict("records"):
        measured = {str(key): value for key, value in row.items() if not pd.isna(value)}
        run.log(measured, step=int(row["epoch"]))


def scores(run: tracking.Run, stage: str, metrics: Mapping[str, Any]) -> None:
    """The metrics of `stage`: numbers as scores, words as tags."""
    words = {key: value for key, value in metrics.items() if isinstance(value, str)}
    numbers = {key: value for key, value in metrics.items() if key not in words}
    run.log({f"{stage}/{key}": value for key, value in numbers.items()})
    run.tag({f"{stage}.{key}": value for key, value in words.items()})
