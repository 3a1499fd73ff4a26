"""The training loop."""

import math
import time
from collections.abc import Callable

import torch

from abn.config.params import Train
from abn.data import loader
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.predict import Predictions, headline, predict
from abn.runtime import progress
from abn.runtime.errors import NotFiniteError
from abn.runtime.signals import Stopped
from abn.training import augment, distributed, optim
from abn.training.distributed import ALONE, World
from abn.training.resume import Row, Scratch, State
from abn.training.step import Step, build

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

    Raises NotFiniteError when the loss is no longer finite, and Stopped, once the state is saved,
    when `scratch.stopper` was asked to.
    """
    device, hold = next(model.parameters()).device, scratch.stopper.hold
    train, watched = (
        loader.to_device_if_fits(train, device),
        loader.to_device_if_fits(watched, device),
    )
    distributed.synchronise(model, scratch.world)
    optimizer = optim.sgd(model, config)
    average = optim.Average(model, config.ema) if config.ema else None
    judged = average.model if average else model
    state = State({"model": model} | ({"average": judged} if average else {}), optimizer)
    with hold():
        progress.say(scratch.load(state))
    step = build(model, optimizer, average, config, len(train), scratch.world)
    try:
        while (epoch := len(state.history)) < config.epochs:
            row: Row = {"epoch": epoch + 1, "size": optim.crop_size(config, epoch)}
            learned, speed = train_epoch(step, train, config, seed, state, scratch)
            row |= learned
            last = epoch + 1 == config.epochs
            if last or (epoch + 1) % config.validate_every == 0:
                row |= validate(judged, watched, config, scratch.world)
            with hold():
                state.history.append(row)
                state.seen.clear()
                if config.select == "best" and "val_top1" in row and row is best(state.history):
                    state.best = checkpoint.weights(judged)
                if config.save_every and (epoch + 1) % config.save_every == 0:
                    scratch.keep(f"epoch-{epoch + 1:04d}", checkpoint.weights(judged))
                if last or scratch.due(epoch_ends=True):
                    scratch.save(state)
                watch(row, speed)
    except Stopped:
        _check_finite(state)
        scratch.save(state)
        raise
    model.load_state_dict(state.best or judged.state_dict())
    return state.history


def train_epoch(
    step: Step, split: Split, config: Train, seed: int, state: State, scratch: Scratch
) -> tuple[Row, float]:
    """What is left of a pass over `split`: the means over all of it, and images per second.

    They are of the loss (sum of both branches) and of top-1 on its crops.
    """
    epoch, done = state.place()
    steps, started = max(len(split) // config.batch_size, 1), time.perf_counter()
    size = optim.crop_size(config, epoch)
    shown = augment.batches(split, config, size, seed, epoch, step.device, done, scratch.world)
    step.model.train()
    with progress.bar(f"epoch {epoch + 1}/{config.epochs}", steps, "step") as bar:
        bar.update(done)
        for batch in shown:
            with scratch.stopper.hold():
                optim.set_rate(step.optimizer, _rate(config, epoch, len(state.seen) / steps))
                state.seen.append(step(batch))
                due, count = scratch.due(), len(state.seen)
                if due or count % CHECK_EVERY == 0 or count == steps:
                    _check_finite(state)
                if due:
                    scratch.save(state)
            bar.update()
    speed = (steps - done) * config.batch_size / (time.perf_counter() - started)
    loss, top1 = torch.stack(state.seen).mean(dim=0).tolist()
    rate = _rate(config, epoch, (steps - 1) / steps)
    return {"lr": rate, "train_loss": loss, "train_top1": top1}, speed


def validate(
    model: AttentionBranchNetwork, split: Split, config: Train, world: World = ALONE
) -> Row:
    """The headline scores on `split`, a part of it from each process; NotFiniteError as `fit`."""
    view = CenterCrop(config.val_size, config.val_resize)
    device = next(model.parameters()).device
    part = split.subset(torch.arange(*world.part(len(split)))) if world.size > 1 else split
    found = predict(model, part, view, config.batch_size, device)
    scores = headline(Predictions(*(world.gather(values) for values in found)))
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


def _rate(config: Train, epoch: int, share: float) -> float:
    """The learning rate when a `share` of the steps of `epoch` is done."""
    return optim.learning_rate(config, (epoch + share) / config.epochs)


def _check_finite(state: State) -> None:
    """NotFiniteError naming the first of the last steps whose loss is not finite."""
    since = max(len(state.seen) - CHECK_EVERY, 0)
    recent = torch.stack(state.seen[since:]).tolist() if state.seen else []
    for step, (loss, _) in enumerate(recent, start=since + 1):
        if not math.isfinite(loss):
            rate = float(state.optimizer.param_groups[0]["lr"])
            where = f"epoch {len(state.history) + 1}, step {step} (lr {rate:.3g})"
            raise NotFiniteError(f"loss is {loss}", where, REMEDY)
