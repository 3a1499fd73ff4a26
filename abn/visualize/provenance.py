"""Which network was trained on which data, for the report: facts, checksums, parameters."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from abn.config.params import Params
from abn.data.packed import Split
from abn.models import checkpoint
from abn.models.checkpoint import Checkpoint
from abn.project import paths
from abn.visualize.names import apart

NAMED = 20  # classes; the others are only counted
SELECTED = {"nothing": "of the last epoch", "holdout": "of the best epoch on the hold-out"}


class Provenance(NamedTuple):
    """Where the report's numbers come from; the same run gives the same values at any time."""

    arch: str
    classes: tuple[str, ...]
    facts: dict[str, str]
    checksums: dict[str, str]  # what -> SHA-256
    params: dict[str, str]  # by dotted name
    warnings: list[str]  # what the reader must know first
    looks: bool = False  # whether the map lies on the picture: look, then decide
    search: str = ""  # the command that finds the commits of this run
    branch_relu: bool = False  # whether it is of the original project, which had a ReLU more


def provenance(
    params: Params,
    trained: Checkpoint,
    train: Split,
    val: Split,
    weights: Path,
    measured: Mapping[str, Any],
    device: str,
) -> Provenance:
    """The provenance of a report on `trained`, whose file is `weights`.

    `measured` are the metrics of the train stage, `device` the kind that this page was made on.
    What they say of the training is said only of weights in checkpoint/, which it wrote.
    There is no commit and no time in it: equal inputs give equal bytes, and several commits may
    hold the same run. What finds them is the MD5 of the weights, which dvc.lock records.
    """
    measured = measured if weights.parent == paths.CHECKPOINT else {}
    checksums = {"training data": train.digest, "validation data": val.digest}
    checksums["weights"] = checkpoint.sha256(weights)
    current = params.model_dump(mode="json", include={"data", "evaluate", "explain", "visualize"})
    current["data"] |= trained.params["data"]  # as the training read them, from the weights file
    return Provenance(
        trained.arch,
        trained.classes,
        _facts(params, trained, train, val, _selected(weights, measured))
        | {"Processor": _processors(measured.get("device"), device)},
        checksums,
        dict(_flat(trained.params | current)),
        list(_warnings(params)),
        trained.model.looks,
        _search(weights),
        trained.model.branch_relu,
    )


def _facts(
    params: Params, trained: Checkpoint, train: Split, val: Split, selected: str
) -> dict[str, str]:
    recipe, holdout = trained.params["train"], trained.params["data"].get("holdout")
    count = sum(weight.numel() for weight in trained.model.parameters())
    named = ", ".join(map(apart, trained.classes[:NAMED]))
    rest = f" and {len(trained.classes) - NAMED} more" if len(trained.classes) > NAMED else ""
    side = train.images.shape[1]
    size, resize = params.evaluate.view or checkpoint.validated(trained, "the checkpoint")
    learnt = f"{len(train):,} for training" if "epochs" in recipe else "none for training"
    learnt += f", {holdout:.0%} of them held out" if holdout else ""
    return {
        "Network": f"{trained.arch} with an attention branch, {count:,} weights{selected}",
        "Data": f"{train.source}; {side} x {side} pixels",
        "Images": f"{learnt}; {len(val):,} for validation",
        f"{len(trained.classes)} classes": named + rest,
        "Training": _training(recipe, trained.params.get("seed")),
        "Evaluation": f"the short side resized to {resize} px, then the centre {size} px",
    }


def _selected(weights: Path, measured: Mapping[str, Any]) -> str:
    """Which epoch's weights they are, where that is known and their name does not say it."""
    if not measured or weights.name != paths.MODEL:
        return ""
    on = str(measured["selected_on"])
    biased = f"of the best epoch on {on}, so its scores are too high"
    return f" {SELECTED.get(on, biased)}"


def _training(recipe: Mapping[str, Any], seed: int | None) -> str:
    if "epochs" not in recipe:
        return "by another project; `abn convert` made this checkpoint of its weights"
    return (
        f"{recipe['epochs']} epochs, {recipe['batch_size']} images per step, "
        f"crops of {' to '.join(map(str, recipe['sizes']))} px, learning rate {recipe['lr']:g}, "
        f"seed {seed}"
    )


def _processors(trained: str | None, device: str) -> str:
    if trained == device:
        return f"{device}, for the training and for this page"
    if trained and trained.startswith(f"{device}, "):  # threads, which only a training records
        return f"{trained}, for the training; this page on the same kind"
    return f"{trained or 'not recorded'} for the training, {device} for this page"


def _search(weights: Path) -> str:
    with weights.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return f"git log --all --oneline -S {md5} -- dvc.lock"


def _warnings(params: Params) -> Iterator[str]:
    """A line for each part of the report that is about other weights than the maps."""
    shown = params.visualize.checkpoint
    if Path(shown) != Path(params.evaluate.checkpoint):
        yield f"Accuracy is that of {params.evaluate.checkpoint}, all else that of {shown}."
    if Path(shown).parent != paths.CHECKPOINT:
        yield f"The maps are those of {shown}; the training curves are those of checkpoint/."
    elif Path(shown).name != paths.MODEL:
        yield f"The maps are those of {shown}; the training curves run to the last epoch."


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values by their dotted names."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "" if value is None else str(value)
