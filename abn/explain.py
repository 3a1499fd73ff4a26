"""Does the attention map explain the decision? The map against controls, on the same images.

`random` and `centre` are controls that saw nothing; where masks tell what was to be seen, `oracle`
is the best that any map on that grid can do.
"""

from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from abn import batches, scores
from abn.batches import View
from abn.data import Split
from abn.model import AttentionBranchNetwork
from abn.params import Explain
from abn.rng import generator

BATCH = 100  # images perturbed at once
BLUR = 0.1  # sigma of the baseline's Gaussian, as a share of the image's side
FLAT = 1.1  # a map is called flat when its largest gain is below this many times its smallest
LOCATED = {"auroc": scores.auroc, "pointing": scores.pointing, "energy": scores.energy}


class Findings(NamedTuple):
    """The headline numbers, one row per map, and the mean curves."""

    headline: dict[str, float]
    maps: pd.DataFrame
    curves: pd.DataFrame


class Subject(NamedTuple):
    """N images, the decisions to be explained, and where the objects are if that is known."""

    images: Tensor  # float32 [N, 3, H, W] in [0, 1]
    predicted: Tensor  # int64 [N], by the perception branch, right or wrong
    attention: Tensor  # float32 [N, h, w], the map under test
    objects: Tensor | None  # bool [N, H, W]


@torch.inference_mode()
def explain(
    model: AttentionBranchNetwork, split: Split, view: View, config: Explain, seed: int
) -> Findings:
    """Score `model`'s attention and the controls on `config.images` images of `split`."""
    device = next(model.parameters()).device
    draws = generator(seed, "explain", "images")
    subject = _subject(model, split.take(balanced(split.labels, config.images, draws)), view)
    rows, curves = {}, {}
    for name, maps in _contestants(subject, seed).items():
        rows[name], curves[name] = _score(model, subject, maps.to(device), config.steps, name, seed)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("map").reset_index()
    return Findings(_headline(rows, curves, subject.attention), table, _lines(curves, config.steps))


def balanced(labels: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Indices int64, ascending, of `count` samples drawn evenly over the classes, or of all."""
    order = torch.randperm(len(labels), generator=draws)
    turn = torch.zeros(len(labels), dtype=torch.int64)  # how many of its class are drawn before
    for label in range(int(labels.max()) + 1):
        members = labels[order] == label
        turn[members] = torch.arange(int(members.sum()))
    return order[turn.argsort(stable=True)[:count]].sort().values


def _subject(model: AttentionBranchNetwork, split: Split, view: View) -> Subject:
    device = next(model.parameters()).device
    images = batches.through(split.images.to(device), split.aspect, view)
    output = model(images)
    objects = None
    if split.masks is not None:
        canvas = (split.masks == 1).to(device, torch.uint8)[..., None] * 255
        shown = batches.through(canvas.expand(-1, -1, -1, 3), split.aspect, view)
        objects = shown[:, 0] >= 0.5
    return Subject(images, output.logits.argmax(1), output.attention[:, 0], objects)


def _contestants(subject: Subject, seed: int) -> dict[str, Tensor]:
    """The maps to compare, each [N, h, w]."""
    n, h, w = subject.attention.shape
    noise = scores.random_maps(n, h, w, generator(seed, "explain", "noise"))
    maps = {"attention": subject.attention, "random": noise, "centre": scores.centre_maps(n, h, w)}
    if subject.objects is not None:
        maps["oracle"] = F.adaptive_avg_pool2d(subject.objects.float(), (h, w))
    return maps


def _score(
    model: AttentionBranchNetwork, subject: Subject, maps: Tensor, steps: int, name: str, seed: int
) -> tuple[dict[str, float], tuple[Tensor, Tensor]]:
    """One map's row of scores, and its mean insertion and deletion curves [steps + 1]."""
    insertion, deletion = _curves(model, subject, maps, steps, generator(seed, "explain", name))
    relevance = scores.area(insertion) - scores.area(deletion)
    mean, low, high = scores.bootstrap(relevance, generator(seed, "explain", "interval"))
    row = {"images": len(maps), "srg": mean, "srg_low": low, "srg_high": high}
    row["insertion"] = float(scores.area(insertion).mean())
    row["deletion"] = float(scores.area(deletion).mean())
    if subject.objects is not None:
        for key, score in LOCATED.items():
            row[key] = float(score(maps, subject.objects).double().nanmean())
    return row, (insertion.mean(0), deletion.mean(0))


def _curves(
    model: AttentionBranchNetwork,
    subject: Subject,
    maps: Tensor,
    steps: int,
    draws: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Insertion and deletion curves [N, steps + 1] on the CPU, batch by batch."""
    parts = []
    for start in range(0, len(maps), BATCH):
        rows = slice(start, start + BATCH)
        images = subject.images[rows]
        baseline = scores.blur(images, BLUR * images.shape[-1])
        inputs = images, baseline, maps[rows], subject.predicted[rows]
        curves = scores.perturbation_curves(_classifier(model), *inputs, steps, draws)
        parts.append([curve.cpu() for curve in curves])
    insertion, deletion = (torch.cat(column) for column in zip(*parts, strict=True))
    return insertion, deletion


def _classifier(model: AttentionBranchNetwork) -> scores.Classify:
    """The perception branch's probabilities."""
    return lambda images: model(images).logits.softmax(1)


def _lines(curves: dict[str, tuple[Tensor, Tensor]], steps: int) -> pd.DataFrame:
    """One row per fraction of the cells, and two columns for each map's mean curves."""
    table = {"fraction": torch.linspace(0, 1, steps + 1).numpy()}
    for name, (insertion, deletion) in curves.items():
        table |= {f"{name}_insertion": insertion.numpy(), f"{name}_deletion": deletion.numpy()}
    return pd.DataFrame(table)


def _headline(
    rows: dict[str, dict[str, float]], curves: dict[str, tuple[Tensor, Tensor]], attention: Tensor
) -> dict[str, float]:
    """The attention's own row, what the others reach in its chief scores, and its gain."""
    found = dict(rows["attention"])
    for name, row in rows.items():
        if name != "attention":
            found |= {f"{key}_{name}": row[key] for key in ("srg", "auroc") if key in row}
    found["baseline_confidence"] = float(curves["attention"][0][0])
    gain = scores.gain(attention)
    found |= {f"gain_{key}": float(value.mean()) for key, value in gain.items()}
    found["flat_share"] = float((gain["ratio"] < FLAT).double().mean())
    return found
