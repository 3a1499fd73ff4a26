"""Which images the gallery shows: chosen by a rule, never by hand."""

import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from abn.data import loader
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.explain.case import collect
from abn.models.abn import AttentionBranchNetwork
from abn.predict import Predictions
from abn.visualize import figures
from abn.visualize.figures import GalleryItem, Tile


class Choice(NamedTuple):
    """An image to show: its place in the split, and why."""

    name: str
    role: str
    place: int


@torch.inference_mode()
def first_of_each_class(
    model: AttentionBranchNetwork, split: Split, view: CenterCrop, classes: int
) -> list[Tile]:
    """The first image, and its map, of each of the first `classes` classes in `split`."""
    device = next(model.parameters()).device
    labels = split.labels.tolist()
    first = [labels.index(label) for label in sorted(set(labels))[:classes]]
    chosen = split.take(torch.tensor(first))
    images = loader.transform(chosen.images.to(device), chosen.aspect, view)
    output = model(images)
    return _tiles(images, output.logits, output.attention, chosen.labels, split.classes)


def slugs(names: Sequence[str]) -> list[str]:
    """A file name for each of `names`: lower-case ASCII, no two alike."""
    taken: list[str] = []
    for name in names:
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        base = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48] or "class"
        tries = (base if n == 1 else f"{base}-{n}" for n in range(1, len(taken) + 2))
        taken.append(next(slug for slug in tries if slug not in taken))
    return taken


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
) -> list[GalleryItem]:
    """The gallery items of `choices`; `scored` as for `by_srg`."""
    if not choices:
        return []
    samples = collect(model, split, torch.tensor([choice.place for choice in choices]), view)
    logits, attention = samples.trace.logits, samples.trace.attention
    tiles = _tiles(samples.images, logits, attention, samples.labels, split.classes)
    pairs = torch.stack([samples.predicted, samples.labels], 1)
    rows = torch.arange(len(choices), device=pairs.device).unsqueeze(1)
    evidence = samples.trace.class_maps[rows, pairs].cpu().numpy()
    srg = dict(zip(scored["index"].tolist(), scored["srg"].tolist(), strict=True))
    return [
        GalleryItem(
            name,
            role,
            tile,
            None if pd.isna(srg.get(place)) else srg[place],
            (maps[0], maps[1]) if role == "error" else None,
        )
        for (name, role, place), tile, maps in zip(choices, tiles, evidence, strict=True)
    ]


def write(folder: Path, items: Sequence[GalleryItem], alpha: float, dpi: int) -> None:
    """NAME.png for each of `items`; `folder` is replaced as a whole, or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for item in items:
        figures.save(figures.item_figure(item, alpha, dpi), part / f"{item.name}.png")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _tiles(
    images: Tensor, logits: Tensor, attention: Tensor, labels: Tensor, classes: Sequence[str]
) -> list[Tile]:
    """A tile for each of the images [B, 3, H, W]."""
    confidence, predicted = logits.softmax(1).max(1)
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [
        Tile(
            pixels[i].cpu().numpy(),
            attention[i, 0].cpu().numpy(),
            classes[int(labels[i])],
            classes[int(predicted[i])],
            float(confidence[i]),
        )
        for i in range(len(images))
    ]
