"""The MLflow run of a trained model, for the stages that come after its training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from abn import checkpoint, tracking
from abn.checkpoint import Trained
from stages import paths


@contextmanager
def run_of(path: Path, trained: Trained) -> Iterator[tracking.Run]:
    """The run of the weights in `path`, found by their content or made anew from the files."""
    weights = checkpoint.sha256(path)

    def backfill(run: tracking.Run) -> None:
        run.params(trained.params)
        run.tag(tracking.lineage())
        if path == paths.CHECKPOINT / paths.MODEL and paths.HISTORY.exists():
            for row in pd.read_csv(paths.HISTORY).to_dict("records"):
                run.log(
                    {str(k): v for k, v in row.items() if not pd.isna(v)}, step=int(row["epoch"])
                )

    label = f"{trained.arch}-s{trained.params['seed']}"
    with tracking.run(("weights.sha256", weights), label, backfill=backfill) as run:
        yield run
