"""Which images the gallery shows: chosen by a rule, never by hand."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.explain.case import collect
from abn.models.abn import AttentionBranchNetwork
from abn.predict import Predictions
from abn.runtime import files
from abn.visualize import figures, looking
from abn.visualize.looking import DRAWN
from abn.visualize.names import start
from abn.visualize.overlay import Style
from abn.visualize.tiles import ATTENTION, GalleryItem, Tile

SLUG = 48  # characters at most, of up to four bytes in UTF-8: a file's name has up to 255
NAMES = re.compile(r"(.+-(best|median|worst)|error-\d+)\.png")  # of the files in the gallery


class Choice(NamedTuple):
    """An image to show: its place in the split, and why."""

    name: str
    role: str
    place: int


def map_to_draw(wanted: str, recommended: str) -> str:
    """The name of the map that `visualize.map` = `wanted` stands for.

    `recommended` is explain's: a map's name, or "none" where no map passes its tests.
    """
    name = recommended if wanted == "recommended" else wanted
    return name if name in DRAWN else ATTENTION


def map_that_ranks(drawn: str, recommended: str, looks: bool) -> str:
    """The map by whose ranking the gallery says what part of an image is enough.

    The one that is drawn; in a residual network, whose own map seldom ranks, the recommended one.
    """
    return recommended if recommended in DRAWN and not looks else drawn


def of_map(scored: pd.DataFrame, name: str) -> pd.DataFrame:
    """The scored images with the SRG of the map `name` as their `srg`; NaN where it has none."""
    column = "srg" if name == ATTENTION else f"srg_{name}"
    srg = scored[column] if column in scored else float("nan")
    return scored[["index"]].assign(srg=srg)


def first_of_each_class(
    model: AttentionBranchNetwork, split: Split, view: CenterCrop, classes: int, name: str
) -> list[Tile]:
    """The first image of each of the first `classes` classes in `split`, with the map `name`."""
    labels = split.labels.tolist()
    first = [labels.index(label) for label in sorted(set(labels))[:classes]]
    samples = collect(model, split, torch.tensor(first), view)
    return looking.tiles(model, samples, split.classes, name)


def slugs(names: Sequence[str]) -> list[str]:
    """A file name for each of `names`: its letters, of any script, in lower case; no two alike."""
    taken: list[str] = []
    for name in names:
        base = start(_letters(name), SLUG).strip("-") or "class"
        tries = (base if n == 1 else f"{base}-{n}" for n in range(1, len(taken) + 2))
        taken.append(next(slug for slug in tries if slug not in taken))
    return taken


def _letters(name: str) -> str:
    """Letters with their marks and digits of `name` in lower case, a hyphen for all between."""
    plain = unicodedata.normalize("NFC", name.lower())
    kept = (x if unicodedata.category(x)[0] in "LMN" else "-" for x in plain)
    return re.sub("-+", "-", "".join(kept)).strip("-")


def by_srg(scored: pd.DataFrame, labels: Tensor, classes: Sequence[str]) -> list[Choice]:
    """The best, the (lower) median and the worst image of each class by SRG; ties by index.

    `scored` has a row per scored image: its `index` into `labels` int64 [N], and its `srg`.
    """
    rows = scored.dropna(subset="srg").sort_values("index")
    rows = rows.sort_values("srg", ascending=False, kind="stable")
    order = rows["index"].to_numpy(int)
    choices = []
    for label, slug in enumerate(slugs(classes)):
        members = order[labels.numpy()[order] == label].tolist()
        last = len(members) - 1
        roles = {(last + 1) // 2: "median"} | {last: "worst"} | {0: "best"}  # the later wins
        choices += [
            Choice(f"{slug}-{roles[rank]}", roles[rank], members[rank])
            for rank in sorted(roles)
            if members
        ]
    return choices


def confident_errors(predictions: Predictions, count: int) -> list[Choice]:
    """The `count` wrong predictions of highest confidence, in that order; ties by index."""
    confidence, predicted = predictions.logits.softmax(1).max(1)
    wrong = (predicted != predictions.labels).nonzero()[:, 0]
    order = confidence[wrong].argsort(descending=True, stable=True)[:count]
    places = wrong[order].tolist()
    return [Choice(f"error-{n}", "error", place) for n, place in enumerate(places, start=1)]


def items(
    model: AttentionBranchNetwork,
    split: Split,
    view: CenterCrop,
    choices: Sequence[Choice],
    scored: pd.DataFrame,
    name: str,
    ranks: str,
) -> list[GalleryItem]:
    """The gallery items of `choices`, with the map `name`; `scored` as for `by_srg`.

    What part of an image is enough is said by the ranking of the map `ranks`.
    """
    if not choices:
        return []
    samples = collect(model, split, torch.tensor([choice.place for choice in choices]), view)
    tiles = looking.tiles(model, samples, split.classes, name)
    evidence, what_if = looking.evidence(samples), looking.what_if(model, samples, split.classes)
    enough = looking.enough(model, samples, ranks)
    srg = dict(zip(scored["index"].tolist(), scored["srg"].tolist(), strict=True))
    return [
        GalleryItem(
            choice.name,
            choice.role,
            tiles[i],
            None if pd.isna(srg.get(choice.place)) else srg[choice.place],
            evidence[i] if choice.role == "error" else None,
            enough[i],
            what_if[i] if choice.role == "error" else None,
            split.files[choice.place],
        )
        for i, choice in enumerate(choices)
    ]


def write(folder: Path, items: Sequence[GalleryItem], style: Style, dpi: int) -> None:
    """NAME.png for each of `items`; `folder` is replaced as a whole, or not at all."""
    with files.replacing_folder(folder, NAMES) as part:
        for item in items:
            figures.save(figures.item_figure(item, style, dpi), part / f"{item.name}.png")
