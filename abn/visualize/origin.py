"""What was trained on what: in words, in checksums and in parameters, for the report."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from abn.config.params import Params
from abn.data.packed import Split
from abn.models import abn, resnet
from abn.models.checkpoint import Checkpoint

NAMED = 20  # classes; the rest are counted
SELECTED = {"nothing": "of the last epoch", "holdout": "of the best epoch on the hold-out"}


class Origin(NamedTuple):
    """Where the report's numbers come from; nothing here changes with time or commit."""

    arch: str
    classes: tuple[str, ...]
    facts: dict[str, str]
    checksums: dict[str, str]  # what -> SHA-256
    params: dict[str, str]  # by dotted name
    warnings: list[str]  # what the reader must know before anything else


def trace(
    params: Params, trained: Checkpoint, train: Split, val: Split, weights: str, selected_on: str
) -> Origin:
    """The origin of a report on `trained`, whose file has the checksum `weights`."""
    checksums = {"training data": train.digest, "validation data": val.digest, "weights": weights}
    for module in (abn, resnet):
        code = Path(str(module.__file__)).read_bytes()
        checksums[f"{module.__name__.replace('.', '/')}.py"] = hashlib.sha256(code).hexdigest()
    return Origin(
        trained.arch,
        trained.classes,
        _facts(params, trained, train, val, selected_on),
        checksums,
        dict(_flat(_params(params, trained))),
        list(_warnings(params)),
    )


def _facts(
    params: Params, trained: Checkpoint, train: Split, val: Split, selected_on: str
) -> dict[str, str]:
    recipe, held = trained.params["train"], trained.params["data"]["holdout"]
    count = sum(weight.numel() for weight in trained.model.parameters())
    named = ", ".join(trained.classes[:NAMED])
    rest = f" and {len(trained.classes) - NAMED} more" if len(trained.classes) > NAMED else ""
    side = train.images.shape[1]
    kept = SELECTED.get(selected_on, f"of the best epoch on {selected_on}, so its numbers flatter")
    return {
        "Network": f"{trained.arch} with an attention branch, {count:,} weights {kept}",
        "Data": f"{train.source}; {side} x {side} pixels",
        "Images": f"{len(train):,} to train"
        + (f", {held:.0%} of them held out" if held else "")
        + f"; {len(val):,} to validate",
        f"{len(trained.classes)} classes": named + rest,
        "Training": f"{recipe['epochs']} epochs, {recipe['batch_size']} images a step, "
        f"crops of {' to '.join(map(str, recipe['sizes']))} px",
        "Seen here": f"the centre {params.evaluate.size} px at a short side of "
        f"{params.evaluate.resize} px",
    }


def _params(params: Params, trained: Checkpoint) -> dict[str, Any]:
    """Of the training those that the weights' file tells, of the rest those of params.yaml."""
    told = params.model_dump(mode="json", include={"data", "evaluate", "explain", "visualize"})
    told["data"] |= trained.params["data"]
    return dict(trained.params) | told


def _warnings(params: Params) -> Iterator[str]:
    """One line for each part of the report that is about other weights than the maps."""
    ours = params.visualize.checkpoint
    if Path(ours) != Path(params.evaluate.checkpoint):
        yield f"Accuracy is that of {params.evaluate.checkpoint}, all else that of {ours}."
    if Path(ours).name != "model.safetensors":
        yield f"The maps are those of {ours}; the training curves go on to the last epoch."


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values by their dotted names."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "" if value is None else str(value)
