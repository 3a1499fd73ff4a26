"""All that is worth knowing on a machine with a GPU, in one call of less than nine minutes.

    python -m benchmarks.gpu --photos imagenette2-160.tgz

ceilings     what the GPU reaches in a bf16 matrix product and in a copy
precision    one step in bf16 against the same step in fp32
repetition   two trainings alike, one of them interrupted: the same bits or not
throughput   images a second of every arch at 224 px; of one also plain and compiled; MFU
rivals       ours, torchvision's way and the HF Trainer, at several worker counts
explanation  what the explain stage's full profile costs, and whether it repeats
accuracy     the fast recipe on the 160 px set, at several lengths and seeds: top-1 and when

Each section is saved when it is done, and one that fails is noted and does not stop the others.
Needs neither DVC nor MLflow.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from abn.config.params import Train
from abn.data import loader, packed
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.evaluate import scores
from abn.explain.protocol import explain
from abn.models.resnet import ARCHS
from abn.predict import predict
from abn.runtime import device
from abn.runtime.signals import Stopped
from abn.training import augment, flops, loop
from abn.training.resume import ResumeStore
from abn.training.state import Row
from abn.training.step import WARM_UP
from benchmarks import measure, ours, photos, rivals

TARGETS = (0.90, 0.94, 0.95)
SHORT = 80  # epochs below which mixing and heavy augmentation cost more than they give
HASTE: dict[str, Any] = {  # what the fast recipe is changed to in a training as short as that
    "sizes": (96, 128, 160),
    "val_size": 192,
    "val_resize": 219,
    "lr": 0.5,
    "warmup": 0.15,
    "label_smoothing": 0.1,
    "jitter": 0.0,
    "erase": 0.0,
    "mix_share": 0.0,
}
Results = dict[str, Any]


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="an Imagenette archive")
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    parser.add_argument("--budget", type=float, default=510, help="seconds for all of it")
    parser.add_argument("--size", type=int, default=224, help="pixels, of throughput and rivals")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--archs", nargs="+", default=list(ARCHS), choices=ARCHS)
    parser.add_argument("--ways", nargs="+", default=["auto", "off", "on"], help="compile: ...")
    parser.add_argument("--arch", default="resnet50", help="of rivals and long trainings")
    parser.add_argument("--short-arch", default="resnet18", help=f"under {SHORT} epochs")
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 15], help="of the rivals")
    parser.add_argument("--explained", type=int, default=200, help="images of explanation")
    parser.add_argument("--profile", default="full", choices=["quick", "full"], help="likewise")
    parser.add_argument("--epochs", type=int, nargs="+", default=[30, 150])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of its recipe")
    options = parser.parse_args()
    options.until = time.monotonic() + options.budget
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        options.cache = Path(folder)
        files, count, seconds = photos.archived(options.photos, options.cache)
        results["packing"] = {"images_per_second": count / seconds}
        options.train, options.val = packed.read(files["train"]), packed.read(files["val"])
        for name in options.only:
            results[name] = _section(name, options, results)
            measure.save(options.out, "gpu", vars(options), results)


def ceilings(options: argparse.Namespace, results: Results) -> Results:
    """The most that any program could reach here."""
    place, bf16 = device.choose(), torch.bfloat16
    side = 8192 if place.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=place, dtype=bf16) for _ in range(2))
    source, target = (torch.empty(side**2 * 32, dtype=torch.uint8, device=place) for _ in range(2))
    product, copy = _seconds(lambda: a @ b), _seconds(lambda: target.copy_(source))
    return {
        "matmul_tflops": 2 * side**3 / product / 1e12,
        "copy_gb_per_s": 2 * source.nbytes / copy / 1e9,
    }


def precision(options: argparse.Namespace, results: Results) -> Results:
    """How far loss and gradients in bf16 are from those in fp32: same weights, same batch."""
    losses, gradients = [], []
    for name in ("fp32", "bf16"):
        config = _config(options, precision=name, compile="off", batch_size=64)
        step = ours.step(options.arch, options.train, config)
        batch = next(augment.batches(options.train, config, 128, 0, 0, step.device))
        losses.append(float(step(batch)[0]))
        grads = [p.grad.flatten().float() for p in step.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(grads))
    exact, rounded = gradients
    return {
        "loss_fp32": losses[0],
        "loss_bf16": losses[1],
        "gradient_cosine": float(torch.cosine_similarity(exact, rounded, dim=0)),
        "gradient_distance": float((exact - rounded).norm() / exact.norm()),
    }


def repetition(options: argparse.Namespace, results: Results) -> Results:
    """Whether recording, repeating and resuming give the same bits."""
    few = options.train.take(torch.arange(0, len(options.train), max(len(options.train) // 512, 1)))
    config = _config(options, epochs=4, batch_size=32, sizes=(64, 96), grow_at=(0.5,))
    config = config.model_copy(update={"val_size": 64, "val_resize": 64, "compile": "auto"})

    def weights(config: Train, folder: str, stop: int | None = None) -> Tensor:
        return _fit(few, few, config, options.cache / folder, "resnet18", 0, stop)

    whole, again = weights(config, "whole"), weights(config, "again")
    weights(config, "cut", stop=2)
    return {
        "repeats": bool(whole.equal(again)),
        "resumes": bool(whole.equal(weights(config, "cut"))),
        "recorded_is_eager": bool(
            whole.equal(weights(config.model_copy(update={"compile": "off"}), "eager"))
        ),
    }


def throughput(options: argparse.Namespace, results: Results) -> Results:
    """Images a second and MFU of every arch, and of one in each way of running it."""
    ways = [(arch, "auto") for arch in options.archs]
    ways += [(options.arch, way) for way in options.ways if way != "auto"]
    rows = {}
    for arch, how in ways:
        rows[f"{arch} {how}"] = _speed(options, results, arch, how)
        print(arch, how, rows[f"{arch} {how}"], flush=True)
    return rows


def versus(options: argparse.Namespace, results: Results) -> Results:
    """The rivals at each worker count, each against ours in the same run."""
    folder = photos.folder(options.cache / "files", 2000, options.photos)
    photos.packed_splits(folder, photos.SIDE)
    rows = {}
    for workers in options.workers:
        duel = argparse.Namespace(
            folder=folder,
            arch=options.arch,
            size=options.size,
            batch=min(options.batch, 128),
            workers=workers,
            rounds=1,
            steps=options.steps,
            only=["ours", "plain", "hf"],
        )
        rows[f"{workers} workers"] = rivals.run(duel)
    return rows


def explanation(options: argparse.Namespace, results: Results) -> Results:
    """Seconds of the profile, twice, on a network as it was drawn: the cost is the same."""
    recipe = measure.recipe("imagenette-fast")
    config = recipe.explain.model_copy(
        update={"images": options.explained, "profile": options.profile}
    )
    model = ours.network(options.arch, len(options.val.classes), recipe.train).eval()
    view = CenterCrop(options.size, options.size * 8 // 7)
    seconds, headlines = [], []
    for _ in range(2):
        started = time.perf_counter()
        explained = explain(model, options.train, options.val, view, config, recipe.seed)
        seconds.append(time.perf_counter() - started)
        headlines.append(explained.headline)
    return {"seconds": seconds, "repeats": headlines[0] == headlines[1]}


def accuracy(options: argparse.Namespace, results: Results) -> Results:
    """Top-1 of the fast recipe at each length, for as many seeds as time allows; and when."""
    runs: list[Results] = []
    lengths = [(epochs, options.seeds[0]) for epochs in options.epochs]
    lengths += [(options.epochs[-1], seed) for seed in options.seeds[1:]]
    for epochs, seed in lengths:
        alike = [run["seconds"] for run in runs if run["epochs"] == epochs]
        likely = alike[-1] if alike else epochs * (runs[-1]["seconds_an_epoch"] if runs else 0)
        if time.monotonic() + likely * 1.1 > options.until:
            print(f"no time for {epochs} epochs with seed {seed}")
            continue
        runs.append(_run(options, epochs, seed))
        print(runs[-1], flush=True)
    reached = {
        str(target): min((r["seconds"] for r in runs if r["top1"] >= target), default=None)
        for target in TARGETS
    }
    return {"runs": runs, "seconds_to": reached}


SECTIONS: dict[str, Callable[[argparse.Namespace, Results], Results]] = {
    "ceilings": ceilings,
    "precision": precision,
    "repetition": repetition,
    "throughput": throughput,
    "rivals": versus,
    "explanation": explanation,
    "accuracy": accuracy,
}


def _section(name: str, options: argparse.Namespace, results: Results) -> Results:
    started = time.monotonic()
    print(f"== {name}", flush=True)
    try:
        rows = SECTIONS[name](options, results)
    except Exception as error:  # what else can be known must not be lost with it
        rows = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(rows, f"{time.monotonic() - started:.0f} s", flush=True)
    return rows


def _config(options: argparse.Namespace, **changes: Any) -> Train:
    changes = {"batch_size": options.batch} | changes
    return measure.recipe("imagenette-fast").train.model_copy(update=changes)


def _speed(options: argparse.Namespace, results: Results, arch: str, how: str) -> Results:
    """Training at full tilt on data as it comes, and the step alone."""
    config = _config(options, compile=how)
    split = ours.placed(options.train)
    step = ours.step(arch, split, config)
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def epochs() -> Any:
        for epoch in range(1000):
            yield from augment.batches(split, config, options.size, 0, epoch, step.device)

    shown, started = epochs(), time.monotonic()
    measure.timed(WARM_UP + 1, shown, config.batch_size, step)
    start = time.monotonic() - started
    turn = measure.timed(options.steps, shown, config.batch_size, step)
    batch = next(shown)
    alone = _seconds(lambda: step(batch), options.steps)
    speed = turn.images / turn.seconds
    work = flops.training(step.model, options.size) * speed
    peak = results.get("ceilings", {}).get("matmul_tflops")
    return {
        "images_per_second": speed,
        "mfu": work / 1e12 / peak if peak else None,
        "tflops": work / 1e12,
        "data_share": 1 - alone / (turn.seconds / options.steps),
        "seconds_to_start": start,
        "peak_gb": measure.device_peak(),
    }


def _run(options: argparse.Namespace, epochs: int, seed: int) -> Results:
    """One training by the fast recipe, then all the scores of its last weights."""
    short = epochs < SHORT
    changes = {"epochs": epochs, "validate_every": max(epochs // 15, 1)} | (HASTE if short else {})
    asked = dict(words.split("=", 1) for words in options.set)
    changes |= {key: yaml.safe_load(value) for key, value in asked.items()}
    fast = measure.recipe("imagenette-fast").train
    config = Train.model_validate(fast.model_dump() | changes)
    arch = options.short_arch if short else options.arch
    started, curve = time.monotonic(), []

    def on_epoch(row: Row, images_per_second: float) -> None:
        if "val_top1" in row:
            curve.append([round(time.monotonic() - started, 1), row["val_top1"]])
            print(f"epoch {row['epoch']}: {curve[-1]}", flush=True)

    place = device.choose()
    model = ours.network(arch, len(options.train.classes), config)
    store = ResumeStore(options.cache / f"run-{epochs}-{seed}")
    loop.fit(model, options.train, options.val, config, seed=seed, resume=store, on_epoch=on_epoch)
    seconds = time.monotonic() - started
    view = CenterCrop(*config.view)
    val = loader.to_device_if_fits(options.val, place)
    seen = [predict(model, val, view, 250, place, mirrored) for mirrored in (False, True)]
    return {
        "arch": arch,
        "epochs": epochs,
        "seed": seed,
        "seconds": seconds,
        "seconds_an_epoch": seconds / epochs,
        "curve": curve,
        **scores(*seen),
    }


def _fit(
    train: Split, val: Split, config: Train, folder: Path, arch: str, seed: int, stop: int | None
) -> Tensor:
    """The weights after training, all in one row; asked to stop after epoch `stop`."""

    def on_epoch(row: Row, images_per_second: float) -> None:
        if stop is not None and row["epoch"] > stop:
            raise Stopped

    model = ours.network(arch, len(train.classes), config)
    with suppress(Stopped):
        store = ResumeStore(folder)
        loop.fit(model, train, val, config, seed=seed, resume=store, on_epoch=on_epoch)
    return torch.cat([x.flatten().double().cpu() for x in model.state_dict().values()])


def _seconds(work: Callable[[], Any], times: int = 10) -> float:
    """Seconds that `work` takes, the mean of several after three to warm up."""
    for _ in range(3):
        work()
    measure.wait_for_device()
    started = time.perf_counter()
    for _ in range(times):
        work()
    measure.wait_for_device()
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    main()
