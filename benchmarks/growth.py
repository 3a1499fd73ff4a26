"""How the cost of training grows: with images, pixels, depth and batch.

    python -m benchmarks.growth

Ours alone. Each axis is walked while the others stay at resnet18, 64 px, batches of 32 and 1,000
images; the points of an axis take turns. A cost per image that stays level is linear growth.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from abn.data import packed
from abn.data.packed import Sample, Split
from abn.models.abn import AttentionBranchNetwork
from abn.training import augment, flops
from benchmarks import measure, ours

AXES: dict[str, tuple[Any, ...]] = {
    "images": (1_000, 4_000, 16_000),
    "size": (64, 96, 128, 224),
    "arch": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "batch": (16, 32, 64, 128),
}
BASE = {"images": 1_000, "size": 64, "arch": "resnet18", "batch": 32}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=AXES)
    parser.add_argument("--points", type=int, default=9, help="how many points of each axis")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=192, help="learnt from per point and round")
    options = parser.parse_args()
    with measure.workspace() as folder:
        results = {axis: walk(axis, folder, options) for axis in options.axes}
    measure.save(options.out, "growth", vars(options), results)


def walk(axis: str, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per point of `axis`: milliseconds and GFLOP per image, GFLOP/s, start of an epoch."""
    rows = []
    points = [BASE | {axis: value} for value in AXES[axis][: options.points]]
    learners = [_learner(folder, **point) for point in points]
    times: list[list[float]] = [[] for _ in points]
    starts: list[list[float]] = [[] for _ in points]
    for _ in range(options.rounds):
        for learner, spent, began in zip(learners, times, starts, strict=True):
            start, seconds = learner(options.images)
            spent.append(seconds)
            began.append(start)
    for point, spent, began in zip(points, times, starts, strict=True):
        model = AttentionBranchNetwork(point["arch"], 10)
        work, seconds = flops.training(model, point["size"]), statistics.median(spent)
        rows.append(
            point
            | {
                "ms_per_image": round(1e3 * seconds, 3),
                "gflop_per_image": round(work / 1e9, 2),
                "gflop_per_second": round(work / seconds / 1e9, 1),
                "ms_to_start_an_epoch": round(1e3 * statistics.median(began), 2),
            }
        )
        print(rows[-1], flush=True)
    return rows


def _learner(
    folder: Path, images: int, size: int, arch: str, batch: int
) -> Callable[[int], tuple[float, float]]:
    """A function from a number of images to train on to two times in seconds: of an epoch's
    start, and per image."""
    split = ours.placed(_split(folder / f"{images}", images))
    config = measure.recipe("imagenette-cpu").train.model_copy(update={"batch_size": batch})
    step = ours.step(arch, split, config)
    epochs = itertools.count()

    def learn(count: int) -> tuple[float, float]:
        shown = augment.batches(split, config, size, 0, next(epochs), step.device)
        asked = time.perf_counter()
        step(next(shown))
        measure.wait_for_device()
        first = time.perf_counter() - asked
        turn = measure.timed(max(count // batch, 2) - 1, shown, batch, step)
        each = turn.seconds / turn.images
        return max(first - batch * each, 0.0), each

    return learn


def _split(path: Path, count: int) -> Split:
    """`count` images of noise, packed."""
    if not path.exists():
        noise = torch.randint(256, (64, 160, 160, 3), dtype=torch.uint8).numpy()
        names = [str(index) for index in range(count)]
        writer = packed.Writer(path, names, 160, tuple("abcdefghij"), "noise")
        for index in range(count):
            writer.add(Sample(noise[index % 64], index % 10))
        writer.close()
    return packed.read(path)


if __name__ == "__main__":
    main()
