"""Trainings by name: how many epochs fit into a time, what each reaches, and when.

A variant is what presets/imagenette-fast.yaml is changed to, in a YAML file: its name, and below it
keys of `train` and of these: `arch`, `attention`, `smooth`; `preset`, another one to change; and
`validate_from`, the share of the epochs before which there is no validation.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from abn.config.messages import params_error
from abn.config.params import Params, Train
from abn.data import loader
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from abn.evaluate import scores
from abn.models.abn import AttentionBranchNetwork, Output
from abn.predict import Predictions, predict
from abn.runtime import device
from abn.runtime.errors import ParamsError
from abn.training import loop, optim
from abn.training.resume import ResumeStore
from abn.training.state import Row
from abn.training.step import WARM_UP, Step
from benchmarks import measure, ours
from benchmarks.gpu import speed
from benchmarks.gpu.record import Record, Results

TARGETS = (0.90, 0.94, 0.95)
OURS = ("preset", "validate_from")  # keys of a variant that are not parameters
ABOVE = ("arch", "attention", "smooth")  # those that are not below `train`
# Of a time that is asked for, what the steps and validations measured may take. The rest, not
# measured, is for drawing epochs, saving states and recording graphs.
MEASURED = 0.97
LENGTH = 100  # epochs of a training whose steps are measured
BATCH = 500  # images predicted at a time
SHARPNESS = 3  # of smoothed accuracy (davidcpage, Imagenette-experiments, 2020)


class Variant(NamedTuple):
    """A way to train."""

    name: str
    given: dict[str, Any]  # its keys in the file
    params: Params

    @property
    def config(self) -> Train:
        """Its section `train`."""
        return self.params.train

    def network(self, classes: int, seed: int = 0) -> AttentionBranchNetwork:
        """A new network for it, on the device."""
        params = self.params
        how = params.attention, params.smooth
        return ours.network(params.arch, classes, params.train, seed, *how)


class Pace(NamedTuple):
    """What a variant takes."""

    epochs: list[tuple[float, float]]  # of each part: its share of the epochs, seconds of one
    validation: float  # seconds of one

    def __str__(self) -> str:
        parts = ", ".join(f"{share:.0%} {seconds:.2f} s" for share, seconds in self.epochs)
        return f"epochs {parts}; validation {self.validation:.2f} s"


def read(file: Path, words: Sequence[str], changes: dict[str, Any]) -> dict[str, Variant]:
    """The variants in `file` that `words` name, each with `changes` too.

    A word is "NAME" or "NAME:SEED,SEED". ParamsError where there is none, or it is not valid.
    """
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    names = [word.partition(":")[0] for word in words]
    if odd := [name for name in names if name not in found]:
        known = ", ".join(name for name in found if not name.startswith("."))
        raise ParamsError("no such variant", f"{file}: {odd[0]}", f"there are {known}")
    return {name: variant(name, (found[name] or {}) | changes, file) for name in names}


def variant(name: str, given: dict[str, Any], file: Path) -> Variant:
    """The variant `name` that `file` gives; ParamsError where it is not valid."""
    if not 0 < given.get("validate_from", 1.0) <= 1:
        where = f"{file.name}: {name}.validate_from = {given['validate_from']}"
        raise ParamsError("not a share of the epochs", where, "give more than 0, at most 1")
    base = measure.recipe(given.get("preset", "imagenette-fast")).model_dump()
    own = {key: x for key, x in given.items() if key not in (*OURS, *ABOVE)}
    values = base | {key: given[key] for key in ABOVE if key in given}
    values["train"] = base["train"] | own
    try:
        return Variant(name, given, Params.model_validate(values))
    except ValidationError as error:
        where = Path(f"{file.name}: {name}")
        raise params_error(where, Params, error.errors(include_url=False)) from None


def chosen(
    words: Sequence[str], seeds: Sequence[int], known: dict[str, Variant]
) -> list[tuple[Variant, int]]:
    """The trainings that `words` name, as `read` has them; without seeds of their own, all."""
    trainings = []
    for word in words:
        name, _, own = word.partition(":")
        mine = [int(seed) for seed in own.split(",")] if own else seeds
        trainings += [(known[name], seed) for seed in mine]
    return trainings


def paces(options: argparse.Namespace, record: Record) -> Results:
    """Seconds of an epoch in each part of the variants named, and of a validation."""
    found: Results = {}
    for name in options.paced:
        pace = measured(options.known[name], options)
        found[name] = pace._asdict()
        print(name, pace, flush=True)
        record.keep("paces", found)
    return found


def accuracy(options: argparse.Namespace, record: Record) -> Results:
    """The trainings one after another, as far as time allows; then what they say together.

    One that fails is kept as far as it came, and the next one starts.
    """
    runs: list[Results] = []
    lengths: dict[str, int] = {}
    for way, seed in options.chosen:
        if way.name not in lengths:
            lengths[way.name] = length(way, options)
        if not is_time(way, runs, options):
            print(f"no time for {way.name} with seed {seed}", flush=True)
            continue
        cold = not runs and not record.found.keys() - {"packing"}  # nothing was computed before
        about = {"variant": way.name, "seed": seed, "arch": way.params.arch, "given": way.given}
        about |= {"epochs": lengths[way.name], "seconds_asked": options.seconds, "cold": cold}
        runs.append(about | {"finished": False, "seconds": 0.0, "curve": []})
        try:
            train(way, runs[-1], options, lambda: record.keep("accuracy", {"runs": runs}, True))
        except Exception as error:
            runs[-1]["failed"] = f"{type(error).__name__}: {str(error)[:500]}"
            print(runs[-1]["failed"], flush=True)
        record.keep("accuracy", {"runs": runs})
    done = [run for run in runs if run["finished"]]
    return {"runs": runs, "together": together(done), "seconds_to": reached(done)}


def is_time(way: Variant, runs: Sequence[Results], options: argparse.Namespace) -> bool:
    """Whether another training of `way` ends within the budget, as far as that is known."""
    alike = [run["seconds"] for run in runs if run["variant"] == way.name and run["finished"]]
    asked = 0.0 if "epochs" in way.given else options.seconds or 0.0
    return time.monotonic() + (alike[-1] if alike else asked) <= options.until


def length(way: Variant, options: argparse.Namespace) -> int:
    """How many epochs: those it gives, else what the time asked for allows, else its preset's."""
    if "epochs" in way.given or not options.seconds:
        return way.config.epochs
    pace = measured(way, options)
    epochs = epochs_within(options.seconds, pace, way.given.get("validate_from", 1.0))
    print(f"{way.name}: {pace}; {epochs} epochs in {options.seconds:g} s", flush=True)
    return epochs


def parts(config: Train, looks: bool) -> list[tuple[float, float]]:
    """The parts of a training whose steps cost alike: a share of the epochs, and its middle."""
    edges = {0.0, 1.0, *config.grow_at}
    edges |= {config.sam_from} if config.sam else set()
    edges |= {config.look.start} if looks else set()
    return [(end - start, (start + end) / 2) for start, end in itertools.pairwise(sorted(edges))]


def epochs_within(seconds: float, pace: Pace, validate_from: float) -> int:
    """The most epochs, at least 1, that take `seconds`, validations included."""
    times = int(1 / validate_from) if validate_from else 1
    last = int(times * validate_from < 1)
    left = MEASURED * seconds - (times + last) * pace.validation
    return max(int(left / sum(share * cost for share, cost in pace.epochs)), 1)


def validate_every(epochs: int, validate_from: float) -> int:
    """`train.validate_every` with no validation before that share of the epochs, but the last."""
    return min(max(math.ceil(validate_from * epochs), 1), epochs)


def measured(way: Variant, options: argparse.Namespace) -> Pace:
    """The pace of `way`, from `options.steps` steps in each of its parts."""
    config = way.config.model_copy(update={"epochs": LENGTH})
    split = ours.placed(options.train)
    model = way.network(len(split.classes))
    step = ours.step_of(model, split, config)
    steps = max(len(split) // config.batch_size, 1)
    epochs = [
        (share, steps * seconds_a_step(step, split, int(middle * LENGTH), options.steps))
        for share, middle in parts(config, model.looks)
    ]
    val = loader.to_device_if_fits(options.val.without_masks(), step.device)
    view = CenterCrop(*config.view)
    batch = min(config.batch_size, len(split))
    return Pace(
        epochs,
        speed.seconds_of(lambda: predict(model, val, view, batch, step.device), 1, warm_up=1),
    )


def seconds_a_step(step: Step, split: Split, epoch: int, steps: int) -> float:
    """The mean of some steps in `epoch`, data included."""
    size = optim.crop_size(step.config, epoch)
    step.model.train()
    step.begin(epoch)
    shown = speed.endless(split, step.config, size, epoch, step)
    measure.timed(WARM_UP + 1, shown, step.batch, step)
    return measure.timed(steps, shown, step.batch, step).seconds / steps


def train(
    way: Variant, run: Results, options: argparse.Namespace, keep: Callable[[], None]
) -> None:
    """One training and its scores, into `run`; `keep` is called after each epoch."""
    epochs, seed, started = run["epochs"], run["seed"], time.monotonic()
    every = validate_every(epochs, way.given.get("validate_from", 1.0))
    config = way.config.model_copy(update={"epochs": epochs, "validate_every": every})

    def on_epoch(row: Row, images_per_second: float) -> None:
        run["seconds"] = time.monotonic() - started
        now = {"seconds": round(run["seconds"], 2), "images_per_second": images_per_second}
        run["curve"].append(row | now)
        keep()

    model = way.network(len(options.train.classes), seed)
    store = ResumeStore(options.cache / f"{way.name}-{epochs}-{seed}")
    splits = options.train, options.val
    history = loop.fit(model, *splits, config, seed=seed, resume=store, on_epoch=on_epoch)
    measure.wait_for_device()
    run |= {"seconds": time.monotonic() - started, "top1": history[-1]["val_top1"]}
    own = "{}/{}".format(*config.view)
    run["views"] = {view: seen(model, options.val, view, config) for view in (own, *options.views)}
    run["finished"] = True
    print(f"{way.name} {seed}: {run['seconds']:.1f} s, {run['views'][own]}", flush=True)


def seen(model: nn.Module, val: Split, view: str, config: Train) -> Results:
    """All scores of `val` in a view "SIZE/RESIZE", plain and mirrored; in bf16 on a GPU."""
    place = device.choose()
    val = loader.to_device_if_fits(val.without_masks(), place)
    shown = CenterCrop(*map(int, view.split("/")))
    network: Any = InBf16(model, place.type == "cuda" and config.precision == "bf16")
    started = time.perf_counter()
    plain, mirrored = (predict(network, val, shown, BATCH, place, m) for m in (False, True))
    seconds = (time.perf_counter() - started) / 2
    found = scores(plain, mirrored) | {"smoothed": smoothed(plain), "nll": nll(plain)}
    return found | {"seconds": seconds}


class InBf16(nn.Module):
    """`model`, whose outputs are computed in bf16 if `on` and are float32."""

    def __init__(self, model: nn.Module, on: bool) -> None:
        super().__init__()
        self.model, self.on = model, on

    def forward(self, images: Tensor) -> Output:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.on):
            output = self.model(images)
        return Output(*(part.float() for part in output))


def smoothed(predictions: Predictions) -> float:
    """The mean probability of the label when the logits are SHARPNESS times as far apart.

    Between top-1 and the likelihood; between trainings it varies less than top-1.
    """
    sharp = (SHARPNESS * predictions.logits.double()).softmax(1)
    return float(sharp.gather(1, predictions.labels[:, None]).mean())


def nll(predictions: Predictions) -> float:
    """The mean of -log of the label's probability: the perception branch's cross-entropy."""
    return float(F.cross_entropy(predictions.logits.double(), predictions.labels))


def together(runs: Sequence[Results]) -> Results:
    """Mean, spread and interval over the seeds of each variant."""
    found: Results = {}
    for name in dict.fromkeys(run["variant"] for run in runs):
        mine = [run for run in runs if run["variant"] == name]
        first = [next(iter(run["views"].values())) for run in mine]
        found[name] = {
            "top1": measure.over_trainings(run["top1"] for run in mine),
            "seconds": measure.over_trainings(run["seconds"] for run in mine),
            **{
                key: measure.over_trainings(view[key] for view in first)
                for key in ("flip_ensemble_top1", "smoothed", "nll")
            },
        }
    return found


def reached(runs: Sequence[Results]) -> Results:
    """For each target the shortest whole training that ended at it or above; None: none did."""
    found: Results = {}
    for target in TARGETS:
        enough = [run for run in runs if run["top1"] >= target]
        best = min(enough, key=lambda run: run["seconds"], default=None)
        keys = ("variant", "seed", "epochs", "seconds", "cold", "top1")
        found[str(target)] = best and {key: best[key] for key in keys}
    return found
