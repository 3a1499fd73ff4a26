"""What data costs: packing it, evaluating on it, and training on more of it than memory holds.

    python -m benchmarks.data --photos imagenette2-160.tgz

packing     from the archive to two packed splits, images a second
evaluation  all images through the validation view against the forward passes alone
streaming   training steps on a packed set four times as large as the memory limit they run under
            (a control group, so it needs root), against the same steps on a set that fits
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, photos
from benchmarks.measure import Play, Turn

GROUPS = Path("/sys/fs/cgroup")
SIDE = 256  # pixels of the canvases that are streamed


def packing(archive: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Images a second from `archive` to both splits, in each round."""
    speeds = []
    for _ in range(rounds):
        _, count, seconds = photos.archived(archive, folder)
        speeds.append(count / seconds)
        print(f"packing {speeds[-1]:.0f} images/s", flush=True)
    return {"images": count, "images_per_second": round(statistics.median(speeds))}


def evaluation(folder: Path, images: int, size: int, batch: int, rounds: int) -> dict[str, Any]:
    """`predict` on `images` against the same forward passes on a batch that is there."""
    import torch

    from abn.data import packed
    from abn.data.loader import CenterCrop, transform
    from abn.predict import predict
    from abn.runtime import device
    from benchmarks import ours

    place = device.choose()
    split = packed.read(folder / "val")
    split = split.subset(torch.arange(min(images, len(split))))
    model = ours.network("resnet18", len(split.classes), measure.recipe("imagenette-cpu").train)
    view = CenterCrop(size, size * 8 // 7)
    there = transform(split.images[:batch].to(place), split.aspect[:batch], view)
    steps = len(split) // batch
    part = split.subset(torch.arange(steps * batch))
    ratios, speeds = [], []
    for number in range(-1, rounds):
        started = time.perf_counter()
        predict(model, part, view, batch, place)
        measure.wait_for_device()
        ours = time.perf_counter() - started
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(steps):
                model(there)
        measure.wait_for_device()
        bare = time.perf_counter() - started
        if number >= 0:
            ratios.append(ours / bare)
            speeds.append(len(part) / ours)
            print(f"evaluation {speeds[-1]:.1f} images/s, {ratios[-1]:.3f} of bare", flush=True)
    return {
        "images": len(part),
        "size": size,
        "images_per_second": round(statistics.median(speeds), 1),
        "times_the_bare_forward": round(statistics.median(ratios), 3),
    }


def streaming(folder: Path, limit_gb: float, rounds: int, steps: int) -> dict[str, Any]:
    """Training on four times `limit_gb` of data in that much memory, and on a small set."""
    count = int(4 * limit_gb * 1e9 / (SIDE * SIDE * 3))
    options = argparse.Namespace(folder=folder, batch=32, size=64, limit=limit_gb)
    _noise(folder / "large", count)
    _noise(folder / "small", 2000)
    turns = []
    with measure.contest({"large": large, "small": small}, options) as contestants:
        for turn in measure.alternate(contestants, rounds, steps):
            turns.append(turn)
            seconds = turn["large"].seconds, turn["small"].seconds
            print(f"streaming {seconds[0]:.2f} s, resident {seconds[1]:.2f} s", flush=True)
        peaks = [contestant.stop() for contestant in contestants]
    return {
        "set_gb": round(count * SIDE * SIDE * 3 / 1e9, 1),
        "limit_gb": limit_gb,
        "resident_set_gb": round(peaks[0], 2),
        "times_the_resident_speed": round(measure.ratio(turns, "large", "small"), 3),
    }


def large(options: argparse.Namespace) -> Play:
    """Under the memory limit, and with nothing of the file in the page cache."""
    limit_memory(options.limit)
    file = options.folder / "large"
    play = training(file, options)

    def forgetful(steps: int) -> Turn:
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return play(steps)

    return forgetful


def small(options: argparse.Namespace) -> Play:
    """All of it in the page cache."""
    return training(options.folder / "small", options)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="an Imagenette archive")
    parser.add_argument("--images", type=int, default=3925, help="to evaluate")
    parser.add_argument("--size", type=int, default=96, help="pixels, to evaluate at")
    parser.add_argument("--batch", type=int, default=100, help="to evaluate in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=2.0, help="GB of memory; 0: no streaming")
    options = parser.parse_args()
    with measure.workspace() as folder:
        results = {
            "packing": packing(options.photos, folder, options.rounds),
            "evaluation": evaluation(
                folder, options.images, options.size, options.batch, options.rounds
            ),
        }
        if options.limit:
            results["streaming"] = streaming(folder, options.limit, options.rounds + 2, steps=10)
    print(results)
    measure.save(options.out, "data", vars(options), results)


def training(file: Path, options: argparse.Namespace) -> Play:
    """Steps of a ResNet-18 on the packed `file`."""
    import itertools

    from abn.data import packed
    from abn.training import augment
    from benchmarks import ours

    recipe = measure.recipe("imagenette-cpu").train
    config = recipe.model_copy(update={"batch_size": options.batch})
    split = packed.read(file)
    step = ours.step("resnet18", split, config)
    epochs = itertools.count()

    def play(steps: int) -> Turn:
        shown = augment.batches(split, config, options.size, 0, next(epochs), step.device)
        return measure.timed(steps, shown, options.batch, step)

    return play


def _noise(path: Path, count: int) -> None:
    """A packed split of `count` images that no file system can leave out; on the disk for good."""
    from abn.data import packed
    from abn.data.packed import Sample

    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)

    names = [str(index) for index in range(count)]
    writer = packed.Writer(path, names, SIDE, tuple("abcdefghij"), "noise")
    for index in range(count):
        writer.add(Sample(np.roll(noise, index, axis=1), index % 10))
    writer.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def limit_memory(gigabytes: float) -> None:
    """Put this process into a control group of so much memory, the page cache included."""
    first = (GROUPS / "memory").exists()  # version 1 has a tree for each resource
    group = (GROUPS / "memory" if first else GROUPS) / "abn-benchmark"
    group.mkdir(exist_ok=True)
    file = "memory.limit_in_bytes" if first else "memory.max"
    (group / file).write_text(str(int(gigabytes * 1e9)), encoding="utf-8")
    (group / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")


if __name__ == "__main__":
    main()
