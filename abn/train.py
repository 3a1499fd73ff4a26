"""The training loop."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from abn import augment, batches, engine, optim, progress
from abn.batches import View
from abn.data import Split
from abn.errors import NotFiniteError
from abn.evaluate import headline
from abn.model import AttentionBranchNetwork
from abn.params import Train
from abn.predict import predict
from abn.resume import Row, Scratch

CHECK_EVERY = 50  # steps between looks at the loss, each a wait for the GPU
REMEDY = "try a lower train.lr, a longer train.warmup or train.precision: fp32"

Watch = Callable[[Row, float], None]  # an epoch's row and its images per second


def fit(
    model: AttentionBranchNetwork,
    train: Split,
    watched: Split,
    config: Train,
    seed: int,
    scratch: Scratch,
    watch: Watch,
) -> list[Row]:
    """Train `model` in place, from where `scratch` stopped if it did; one row per epoch.

    Raises NotFiniteError when the loss is no longer finite.
    """
    device = next(model.parameters()).device
    train, watched = batches.place(train, device), batches.place(watched, device)
    optimizer = optim.sgd(model, config)
    average = optim.Average(model, config.ema) if config.ema else None
    judged = average.model if average else model
    models = {"model": model} | ({"average": average.model} if average else {})
    history = scratch.load(models, optimizer)
    step = engine.build(model, optimizer, average, config, len(train))
    progress.say(f"RESUMED after epoch {len(history)}" if history else "FRESH")
    while len(history) < config.epochs:
        epoch, started = len(history), time.perf_counter()
        row: Row = {"epoch": epoch + 1, "size": optim.crop_size(config, epoch)}
        row |= train_epoch(step, train, config, seed, epoch)
        speed = len(train) / (time.perf_counter() - started)
        if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
            row |= validate(judged, watched, config)
        history.append(row)
        watch(row, speed)
        if config.select == "best" and "val_top1" in row and row is best(history):
            scratch.keep("best", judged)
        if config.save_every and (epoch + 1) % config.save_every == 0:
            scratch.keep(f"epoch-{epoch + 1:04d}", judged)
        scratch.save(models, optimizer, history)
    best_or_last = scratch.kept("best") if config.select == "best" else judged.state_dict()
    model.load_state_dict(best_or_last)
    return history


def train_epoch(step: engine.Step, split: Split, config: Train, seed: int, epoch: int) -> Row:
    """One pass over `split`: the mean loss (sum of both branches) and top-1 on its crops."""
    steps = max(len(split) // config.batch_size, 1)
    size = optim.crop_size(config, epoch)
    seen: list[Tensor] = []  # per step: the loss and the share of hits, still on the device
    step.model.train()
    with progress.bar(f"epoch {epoch + 1}/{config.epochs}", steps, "step") as bar:
        for batch in augment.batches(split, config, size, seed, epoch, step.device):
            rate = optim.learning_rate(config, (epoch + len(seen) / steps) / config.epochs)
            optim.set_rate(step.optimizer, rate)
            seen.append(step(batch))
            if len(seen) % CHECK_EVERY == 0 or len(seen) == steps:
                _check_finite(seen, epoch, rate)
            bar.update()
    mean_loss, top1 = torch.stack(seen).mean(dim=0).tolist()
    return {"lr": rate, "train_loss": mean_loss, "train_top1": top1}


def validate(model: AttentionBranchNetwork, split: Split, config: Train) -> Row:
    """The headline scores on `split`; NotFiniteError as `fit`."""
    view = View(config.val_size, config.val_resize)
    device = next(model.parameters()).device
    scores = headline(predict(model, split, view, config.batch_size, device))
    if not math.isfinite(scores["loss"]):
        raise NotFiniteError(f"loss is {scores['loss']}", "validation", REMEDY)
    return {f"val_{name}": value for name, value in scores.items()}


def summary(history: list[Row], config: Train, watched: str) -> dict[str, float | str]:
    """The row of the epoch that was kept, and what it was selected on: `watched` or nothing."""
    if config.select == "last":
        return {**history[-1], "selected_on": "nothing"}
    return {**best(history), "selected_on": watched}


def describe(row: Row, config: Train) -> str:
    """An epoch in one line."""
    words = [f"epoch {row['epoch']}/{config.epochs}", f"{row['size']} px"]
    words += [f"loss {row['train_loss']:.4f}", f"top-1 {row['train_top1']:.4f}"]
    if "val_top1" in row:
        words += [f"val loss {row['val_loss']:.4f}", f"val top-1 {row['val_top1']:.4f}"]
    return "  ".join(words)


def best(history: list[Row]) -> Row:
    """The first of the rows with the highest validated top-1."""
    return max((row for row in history if "val_top1" in row), key=lambda row: row["val_top1"])


def _check_finite(seen: list[Tensor], epoch: int, rate: float) -> None:
    """NotFiniteError naming the first of the last steps whose loss is not finite."""
    since = max(len(seen) - CHECK_EVERY, 0)
    for step, (loss, _) in enumerate(torch.stack(seen[since:]).tolist(), start=since + 1):
        if not math.isfinite(loss):
            where = f"epoch {epoch + 1}, step {step} (lr {rate:.3g})"
            raise NotFiniteError(f"loss is {loss}", where, REMEDY)
