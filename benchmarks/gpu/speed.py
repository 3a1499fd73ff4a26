"""How fast a GPU computes, trains and explains here, and whether it repeats itself to the bit."""

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from abn.config.params import Train
from abn.data.loader import Batch, CenterCrop
from abn.data.packed import Split
from abn.explain.protocol import explain
from abn.runtime import device
from abn.runtime.signals import Stopped
from abn.training import augment, flops, loop
from abn.training.resume import ResumeStore
from abn.training.state import Row
from abn.training.step import WARM_UP, Step
from benchmarks import measure, ours, photos, rivals
from benchmarks.gpu.record import Record, Results


def ceilings(options: argparse.Namespace, record: Record) -> Results:
    """The most that any program could reach here."""
    place, bf16 = device.choose(), torch.bfloat16
    side = 8192 if place.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=place, dtype=bf16) for _ in range(2))
    source, target = (torch.empty(side**2 * 32, dtype=torch.uint8, device=place) for _ in range(2))
    product, copy = seconds_of(lambda: a @ b), seconds_of(lambda: target.copy_(source))
    return {
        "matmul_tflops": 2 * side**3 / product / 1e12,
        "copy_gb_per_s": 2 * source.nbytes / copy / 1e9,
    }


def precision(options: argparse.Namespace, record: Record) -> Results:
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


def repetition(options: argparse.Namespace, record: Record) -> Results:
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


def throughput(options: argparse.Namespace, record: Record) -> Results:
    """Images a second and MFU of every arch, and of one in each way of running it."""
    ways = [(arch, "auto") for arch in options.archs]
    ways += [(options.arch, way) for way in options.ways if way != "auto"]
    rows: Results = {}
    for arch, how in ways:
        rows[f"{arch} {how}"] = _speed(options, record, arch, how)
        print(arch, how, rows[f"{arch} {how}"], flush=True)
        record.keep("throughput", rows)
    return rows


def sampler(options: argparse.Namespace, record: Record) -> Results:
    """Seconds of a batch by torch's kernels and by the one of `triton_sampler`; how they differ."""
    config, split = _config(options), ours.placed(options.train)
    seconds: Results = {}
    made: list[list[Tensor]] = []
    for name, fused in (("torch", False), ("fused", True)):
        shown = itertools.chain.from_iterable(
            augment.batches(split, config, options.size, 0, epoch, device.choose(), fused=fused)
            for epoch in itertools.count()
        )
        made.append([next(shown).images.float() for _ in range(options.rounds)])
        seconds[name] = seconds_of(functools.partial(next, shown), options.steps, warm_up=1)
    apart = [(one - other).abs() for one, other in zip(*made, strict=True)]
    return {
        "seconds_a_batch": seconds,
        "largest_difference": max(float(each.max()) for each in apart),
        "share_above_2_of_255": max(float((each > 2 / 255).float().mean()) for each in apart),
    }


def versus(options: argparse.Namespace, record: Record) -> Results:
    """The rivals at each worker count, each against ours in the same run."""
    folder = photos.folder(options.cache / "files", 2000, options.photos)
    photos.packed_splits(folder, photos.SIDE)
    rows: Results = {}
    for workers in options.workers:
        duel = argparse.Namespace(
            folder=folder,
            arch=options.arch,
            size=options.size,
            batch=min(options.batch, 128),
            workers=workers,
            rounds=options.rounds,
            steps=options.steps,
            only=["ours", "plain", "hf"],
        )
        rows[f"{workers} workers"] = rivals.run(duel)
        record.keep("rivals", rows)
    return rows


def explanation(options: argparse.Namespace, record: Record) -> Results:
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
        explained = explain(model, options.train, options.val, view, config)
        seconds.append(time.perf_counter() - started)
        headlines.append(explained.headline)
    return {"seconds": seconds, "repeats": headlines[0] == headlines[1]}


def endless(split: Split, config: Train, size: int, epoch: int, step: Step) -> Iterator[Batch]:
    """The batches of `epoch`, again and again."""
    while True:
        yield from augment.batches(split, config, size, 0, epoch, step.device)


def seconds_of(work: Callable[[], Any], times: int = 10, warm_up: int = 3) -> float:
    """Seconds that `work` takes, the mean of several after some to warm up."""
    for _ in range(warm_up):
        work()
    measure.wait_for_device()
    started = time.perf_counter()
    for _ in range(times):
        work()
    measure.wait_for_device()
    return (time.perf_counter() - started) / times


def _config(options: argparse.Namespace, **changes: Any) -> Train:
    changes = {"batch_size": options.batch} | changes
    return measure.recipe("imagenette-fast").train.model_copy(update=changes)


def _speed(options: argparse.Namespace, record: Record, arch: str, how: str) -> Results:
    """Training at full tilt on data as it comes, and the step alone, in turn."""
    config = _config(options, compile=how)
    split = ours.placed(options.train)
    step = ours.step(arch, split, config)
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    shown, started = endless(split, config, options.size, 0, step), time.monotonic()
    measure.timed(WARM_UP + 1, shown, config.batch_size, step)
    start, batch = time.monotonic() - started, next(shown)
    fed, alone = [], []
    for _ in range(options.rounds):
        turn = measure.timed(options.steps, shown, config.batch_size, step)
        fed.append(turn.seconds / options.steps)
        alone.append(seconds_of(lambda: step(batch), options.steps, warm_up=1))
    speed = config.batch_size / statistics.median(fed)
    work = flops.training(step.model, options.size) * speed
    peak = record.found.get("ceilings", {}).get("matmul_tflops")
    return {
        "images_per_second": speed,
        "mfu": work / 1e12 / peak if peak else None,
        "tflops": work / 1e12,
        "data_share": 1 - statistics.median(alone) / statistics.median(fed),
        "seconds_to_start": start,
        "peak_gb": measure.device_peak(),
        "rounds": {"seconds_a_step": fed, "seconds_a_step_alone": alone},
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
