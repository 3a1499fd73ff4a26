"""Does a network notice images unlike its training data? The AUROC of its energy score.

    python -m benchmarks.unlike --checkpoint checkpoint/model.safetensors --val data/val.safetensors

Pictures that have none of its classes are shown to the network as its validation images are:
scikit-learn's two photographs cut into tiles, noise, flat grey, and with --photos the validation
images of an Imagenette archive. AUROC is the chance that a validation image has a higher score than
such a picture: 1 is perfect, 0.5 blind. `called_unlike` is the share of the pictures with a score
below that of 95 % of the validation images. `false_alarms` is that share of one half of the
validation images, with the threshold from the other half.

Beside the energy score (Liu et al., NeurIPS 2020) are the largest logit and the confidence
(Hendrycks and Gimpel, ICLR 2017).
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score
from torch import Tensor

from abn.data import packed
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.datasets import archive as archives
from abn.datasets import imagenette, images
from abn.models import checkpoint
from abn.models.checkpoint import Checkpoint
from abn.predict import energy, predict
from abn.runtime import device
from abn.training.loop import UNLIKE
from benchmarks import measure

BATCH = 50  # pictures looked at once
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "energy": energy,
    "max_logit": lambda logits: logits.double().amax(1),
    "confidence": lambda logits: logits.double().softmax(1).amax(1),
}
Pixels = NDArray[np.uint8]


def main() -> None:
    options = _parser().parse_args()
    with measure.for_people():
        trained = checkpoint.load(options.checkpoint, device.choose())
        val = packed.read(options.val)
        index = torch.linspace(0, len(val) - 1, min(len(val), options.images)).long()
        found = examine(trained, val.subset(index), options.images, options.photos)
        about = {"arch": trained.arch, "classes": len(trained.classes), "images": options.images}
        about |= {"data": val.source, "attention": trained.params["attention"]}
        measure.save(options.out, "unlike", about, found)


def _parser() -> argparse.ArgumentParser:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True, help="its packed validation images")
    parser.add_argument("--photos", type=Path, help="an Imagenette archive")
    parser.add_argument("--images", type=int, default=500, help="of a set at most (%(default)s)")
    return parser


def examine(trained: Checkpoint, val: Split, most: int, photos: Path | None) -> dict[str, Any]:
    """Every score on every set, and the share of false alarms."""
    train = trained.params["train"]
    view = CenterCrop(train["val_size"], train["val_resize"])
    place = next(trained.model.parameters()).device

    def logits(split: Split) -> Tensor:
        return predict(trained.model, split, view, BATCH, place).logits

    own, side = logits(val), val.images.shape[1]
    found: dict[str, Any] = {"validation_images": len(val), "sets": {}}
    found["false_alarms"] = {
        name: told(score(own[::2]), score(own[1::2]))["called_unlike"]
        for name, score in SCORES.items()
    }
    for kind, pictures in sets(side, most, photos):
        theirs = logits(as_split(val, pictures))
        row = {name: told(score(own), score(theirs)) for name, score in SCORES.items()}
        found["sets"][kind] = {"images": len(pictures)} | row
        print(f"{kind}: {len(pictures)} images, {row}", flush=True)
    return found


def told(own: Tensor, other: Tensor) -> dict[str, float]:
    """How well a score, [N] of validation images and [M] of others, tells them apart."""
    is_own = np.repeat([1, 0], [len(own), len(other)])
    auroc = float(roc_auc_score(is_own, torch.cat([own, other]).numpy()))
    below = float((other < own.quantile(UNLIKE)).double().mean())
    return {"auroc": round(auroc, 4), "called_unlike": round(below, 4)}


def sets(side: int, most: int, photos: Path | None) -> Iterator[tuple[str, Pixels]]:
    """Kinds of pictures that no class is in, at most `most` of each: uint8 [M, side, side, 3]."""
    cut = [tiles(photo, side) for photo in load_sample_images().images]
    yield "photographs", np.concatenate(cut)[:most]
    random = np.random.default_rng(0)
    yield "noise", random.integers(0, 256, (min(most, 256), side, side, 3), np.uint8)
    levels = np.linspace(0, 255, min(most, 256)).round().astype(np.uint8)
    yield "grey", np.broadcast_to(levels[:, None, None, None], (len(levels), side, side, 3)).copy()
    if photos:
        chosen = imagenette.find(archives.names(photos))["val"]
        names = {name for name, _ in chosen[:: -(-len(chosen) // most)]}
        files = archives.read(photos, names)
        canvases = [images.square(images.decode(x, name, side), side)[0] for name, x in files]
        yield "imagenette", np.stack(canvases)


def tiles(photo: Pixels, side: int) -> Pixels:
    """`photo` [H, W, 3] in squares [M, side, side, 3], row by row; what is left over is cut off."""
    rows, columns = photo.shape[0] // side, photo.shape[1] // side
    whole = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return whole.swapaxes(1, 2).reshape(-1, side, side, 3)


def as_split(like: Split, pictures: Pixels) -> Split:
    """`pictures` uint8 [M, S, S, 3] as a split of square images."""
    count = len(pictures)
    return dataclasses.replace(
        like,
        images=torch.from_numpy(pictures),
        labels=torch.zeros(count, dtype=torch.int64),
        aspect=torch.ones(count),
        masks=None,
        files=("",) * count,
        rows=None,
    )


if __name__ == "__main__":
    main()
