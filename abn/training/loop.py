"""The training loop."""

import math
import time
from collections.abc import Callable, Collection

import torch
from torch import nn

from abn.config.params import Train
from abn.data import loader
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.predict import Predictions, energy, headline, predict
from abn.runtime import progress
from abn.runtime.errors import NotFiniteError
from abn.runtime.signals import GracefulStop, Stopped
from abn.training import augment, distributed, look, map_losses, optim
from abn.training.distributed import SINGLE, World
from abn.training.resume import ResumeStore
from abn.training.state import Row, State
from abn.training.step import Step, build, class_weights

CHECK_EVERY = 50  # steps between checks of the loss, each a wait for the GPU
UNLIKE = 0.05  # the share of the validation images that are called unlike the training data
REMEDY = "try a lower train.lr, a longer train.warmup or train.precision: fp32"

OnEpoch = Callable[[Row, float], None]  # an epoch's row and its images per second


def fit(
    model: AttentionBranchNetwork,
    train: Split,
    val: Split,
    config: Train,
    *,
    seed: int,
    world: World = SINGLE,
    resume: ResumeStore | None = None,
    stop: GracefulStop | None = None,
    on_epoch: OnEpoch = lambda row, images_per_second: None,
    new: Collection[str] = (),
) -> list[Row]:
    """Train `model` in place; one row of scores per epoch.

    `resume` is where to continue from and save to; None: nothing is saved, as on all ranks but 0.
    `new` names the parameters that `train.new_lr` is for. Raises NotFiniteError when the loss is
    NaN or infinite, and Stopped, after saving the state, when a stop was requested; ParamsError
    where an attention loss finds no masks.
    """
    stop, device = stop or GracefulStop(), next(model.parameters()).device
    train, val = map_losses.usable(train, config), val.without_masks()
    train, val = loader.to_device_if_fits(train, device), loader.to_device_if_fits(val, device)
    distributed.convert_sync_batchnorm(model, world)
    optimizer = optim.optimizer(model, config, new)
    ema = optim.EMA(model, config.ema) if config.ema else None
    eval_model = ema.model if ema else model
    state = State({"model": model, "ema": eval_model} if ema else {"model": model}, optimizer)
    with stop.deferred():
        progress.say(_restore(state, resume, world))
    weights = class_weights(train, config, device)
    step = build(model, optimizer, ema, config, len(train), world, weights)
    try:
        while (epoch := len(state.history)) < config.epochs:
            scores, speed = train_epoch(step, train, config, seed, state, resume, stop)
            row: Row = {"epoch": epoch + 1, "size": optim.crop_size(config, epoch), **scores}
            counts = epoch + 1 == config.epochs or (epoch + 1) % config.validate_every == 0
            if counts or is_snapshot(epoch + 1, config):
                look.measure_statistics(eval_model, train, config, world)
            if counts:
                row |= validate(eval_model, val, config, world)
            progress.say(f"{describe(row, config)}  {speed:.0f} images/s")
            with stop.deferred():
                on_epoch(row, speed)  # before the state is saved: a kill between them loses no row
                _end_epoch(state, row, eval_model, config, resume)
    except Stopped:
        _save_stopped(state, resume)
        raise
    model.load_state_dict(state.best or eval_model.state_dict())
    return state.history


def train_epoch(
    step: Step,
    split: Split,
    config: Train,
    seed: int,
    state: State,
    resume: ResumeStore | None,
    stop: GracefulStop,
) -> tuple[Row, float]:
    """The remaining steps of the current epoch: its scores, and images per second.

    The scores are means over the whole epoch: the loss (sum of both branches, and of the map's if
    it has one), top-1 on the crops.
    """
    epoch, done = state.position
    steps, started = max(len(split) // config.batch_size, 1), time.perf_counter()
    size = optim.crop_size(config, epoch)
    batches = augment.batches(split, config, size, seed, epoch, step.device, done, step.world)
    step.model.train()
    step.begin(epoch)
    with progress.bar(f"epoch {epoch + 1}/{config.epochs}", steps, "step") as bar:
        bar.update(done)
        for batch in batches:
            with stop.deferred():
                position = epoch + len(state.step_losses) / steps
                rate = optim.learning_rate(config, position / config.epochs)
                optim.set_rate(step.optimizer, rate)
                state.step_losses.append(step(batch))
                count = len(state.step_losses)
                if count % CHECK_EVERY == 0 or count == steps:
                    _check_finite(state)
                if resume and resume.due():
                    _check_finite(state)
                    resume.save(state)
            bar.update()
    speed = (steps - done) * config.batch_size / (time.perf_counter() - started)
    loss, top1 = torch.stack(state.step_losses).mean(dim=0).tolist()
    rate = optim.learning_rate(config, (epoch + (steps - 1) / steps) / config.epochs)
    return {"lr": rate, "train_loss": loss, "train_top1": top1}, speed


def validate(
    model: AttentionBranchNetwork, split: Split, config: Train, world: World = SINGLE
) -> Row:
    """The headline scores on `split`, a shard of it from each rank; NotFiniteError as `fit`."""
    scores = headline(_predictions(model, split, config, world))
    if not math.isfinite(scores["loss"]):
        raise NotFiniteError(f"the loss is {scores['loss']}", "validation", REMEDY)
    return {f"val_{name}": value for name, value in scores.items()}


def unlike_below(
    model: AttentionBranchNetwork, split: Split, config: Train, world: World = SINGLE
) -> float:
    """The energy score below which an image is called unlike the training data.

    The 5 % quantile of the scores of `split`, the validation images: 5 of 100 images like them are
    called unlike too. All ranks call it, each computes a shard.
    """
    scores = energy(_predictions(model, split, config, world).logits)
    return float(scores.quantile(UNLIKE))


def _predictions(
    model: AttentionBranchNetwork, split: Split, config: Train, world: World
) -> Predictions:
    """What `model` says of `split` as validation shows it, a shard of it from each rank."""
    view = CenterCrop(*config.view)
    device = next(model.parameters()).device
    shard = split.subset(torch.arange(*world.shard(len(split)))) if world.size > 1 else split
    found = predict(model, shard, view, config.batch_size, device)
    return Predictions(*(world.gather(values, len(split)) for values in found))


def summary(history: list[Row], config: Train, val_name: str) -> dict[str, float | str]:
    """The row of the epoch whose weights are kept; it was selected on `val_name` or nothing."""
    if config.select == "last":
        return {**history[-1], "selected_on": "nothing"}
    return {**best(history), "selected_on": val_name}


def describe(row: Row, config: Train) -> str:
    """An epoch in one line."""
    words = [f"epoch {row['epoch']}/{config.epochs}", f"{row['size']} px"]
    words += [f"loss {row['train_loss']:.4f}", f"top-1 {row['train_top1']:.4f}"]
    if "val_top1" in row:
        words += [f"val loss {row['val_loss']:.4f}", f"val top-1 {row['val_top1']:.4f}"]
    return "  ".join(words)


def best(history: list[Row]) -> Row:
    """The first of the rows with the highest validation top-1."""
    return max((row for row in history if "val_top1" in row), key=lambda row: row["val_top1"])


def is_snapshot(epoch: int, config: Train) -> bool:
    """Whether the weights after `epoch`, counted from 1, are kept as a file of their own."""
    return bool(config.save_every) and epoch % config.save_every == 0


def _restore(state: State, resume: ResumeStore | None, world: World) -> str:
    """Put the newest saved state into every rank's `state`; what was found, for the console."""
    found = resume is not None and resume.load(state)
    state.broadcast(world)
    epoch, step = state.position
    again = "ABN_RESUME=never starts again"
    return f"RESUMED after epoch {epoch}, step {step} of the next; {again}" if found else "FRESH"


def _end_epoch(
    state: State, row: Row, eval_model: nn.Module, config: Train, resume: ResumeStore | None
) -> None:
    """Add the `row` of a finished epoch to `state` and save what is due."""
    state.history.append(row)
    state.step_losses.clear()
    epoch = len(state.history)
    if config.select == "best" and "val_top1" in row and row is best(state.history):
        state.best = checkpoint.weights(eval_model)
    if resume and is_snapshot(epoch, config):
        resume.save_snapshot(epoch, checkpoint.weights(eval_model))
    if resume and (epoch == config.epochs or resume.due(epoch_ends=True)):
        resume.save(state)


def _save_stopped(state: State, resume: ResumeStore | None) -> None:
    """Save the state of a training that was asked to stop, unless its loss is not finite."""
    _check_finite(state)
    if resume:
        resume.save(state)


def _check_finite(state: State) -> None:
    """NotFiniteError that names the first step whose loss is NaN or infinite."""
    since = max(len(state.step_losses) - CHECK_EVERY, 0)  # those before were checked
    recent = torch.stack(state.step_losses[since:]).tolist() if state.step_losses else []
    for step, (loss, _) in enumerate(recent, start=since + 1):
        if not math.isfinite(loss):
            rate = float(state.optimizer.param_groups[0]["lr"])
            where = f"epoch {len(state.history) + 1}, step {step} (lr {rate:.3g})"
            raise NotFiniteError(f"the loss is {loss}", where, REMEDY)
