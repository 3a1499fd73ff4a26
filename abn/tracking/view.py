"""The view that MLflow's page offers of the runs: verdict, top-1 and SRG as columns.

MLflow's own table shows no score, and has no setting for it. Its "Views" are tags of an experiment
(3.17: `mlflow.sharedViewState.ID`), which other versions leave unread.
"""

import base64
import json
import zlib

NAME, KEY, GIVEN = "Verdicts", "mlflow.sharedViewState.abn", "abn.view"
WIDTHS = {  # pixels
    "attributes.`Run Name`": 250,
    "tags.`explain.verdict`": 150,
    "metrics.`evaluate/top1`": 120,
    "metrics.`explain/srg`": 110,
    "metrics.`val_top1`": 110,
}


def tags() -> dict[str, str]:
    """The experiment's tags: the view, and that it was given, for users may remove a view."""
    first = ["0", "attributes.`Run Name`", "runDateAndNestInfo"]  # checkboxes, name, date
    columns = [column for column in WIDTHS if not column.startswith("attributes")]
    order = [*first, *columns, "duration"]
    state = {"selectedColumns": columns, "columnOrder": order, "columnWidths": WIDTHS}
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    about = {"name": NAME, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"}
    return {KEY: json.dumps(about), GIVEN: NAME}
