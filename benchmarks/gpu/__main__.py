"""All that is worth knowing on a machine with a GPU, in calls of a few minutes.

    python -m benchmarks.gpu --photos imagenette2-224.tgz --canvas 224
    python -m benchmarks.gpu --photos imagenette2-224.tgz --plan benchmarks/plans/first.yaml
    python -m benchmarks.gpu --photos imagenette2-224.tgz --plan benchmarks/plans/second.yaml

ceilings     what the GPU reaches in a bf16 matrix product and in a copy
precision    one step in bf16 against the same step in fp32
repetition   two trainings alike, one of them interrupted: the same bits or not
throughput   images a second of every arch at 224 px; of one also plain and compiled; MFU
sampler      augmentation by one kernel against today's: seconds, differences
rivals       ours, torchvision's way and the HF Trainer, at several worker counts
explanation  what the explain stage's full profile costs, and whether it repeats
paces        seconds of an epoch in each part of the variants
accuracy     trainings of the variants: top-1 and more, every epoch, and when

A plan is a YAML file of these options. What is found is saved as it comes: a section that fails is
noted and does not stop the others, and a run that is killed leaves what it had.
Needs neither DVC nor MLflow.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from abn.data import packed
from abn.models.resnet import ARCHS
from abn.runtime.errors import ParamsError
from benchmarks import measure, photos
from benchmarks.gpu import speed, trainings
from benchmarks.gpu.record import Record, Results

VARIANTS = Path("benchmarks/plans/variants.yaml")
SECTIONS: dict[str, Callable[[argparse.Namespace, Record], Results]] = {
    "ceilings": speed.ceilings,
    "precision": speed.precision,
    "repetition": speed.repetition,
    "throughput": speed.throughput,
    "sampler": speed.sampler,
    "rivals": speed.versus,
    "explanation": speed.explanation,
    "paces": trainings.paces,
    "accuracy": trainings.accuracy,
}


def main() -> None:
    started = time.monotonic()
    with measure.for_people():
        options = parsed()
        asked = dict(words.split("=", 1) for words in options.set)
        changes = {key: yaml.safe_load(value) for key, value in asked.items()}
        names = [*options.trainings, *options.paced]
        options.known = trainings.read(options.variants, names, changes)
        options.chosen = trainings.chosen(options.trainings, options.seeds, options.known)
    options.until = started + options.budget
    run(options)


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    """The options that `words` give, else their plan, else the default."""
    made = parser()
    options = made.parse_args(words)
    if not options.plan:
        return options
    plan = yaml.safe_load(options.plan.read_text(encoding="utf-8"))
    if odd := plan.keys() - vars(options).keys():
        raise ParamsError("no such option", f"{options.plan}: {min(odd)}", "remove it")
    made.set_defaults(**plan)
    return made.parse_args(words)


def parser() -> argparse.ArgumentParser:
    made = measure.parser(__doc__)
    made.add_argument("--photos", type=Path, required=True, help="an Imagenette archive")
    made.add_argument("--canvas", type=int, help="pixels that it is packed at; else 160")
    made.add_argument("--plan", type=Path, help="YAML: options that the command line leaves open")
    made.add_argument("--only", nargs="+", default=list(SECTIONS), choices=SECTIONS)
    made.add_argument("--budget", type=float, default=510, help="seconds; no training ends later")
    made.add_argument("--rounds", type=int, default=3, help="of throughput and rivals")
    made.add_argument("--steps", type=int, default=20, help="in a round, and of paces")
    made.add_argument("--size", type=int, default=224, help="pixels, of throughput and rivals")
    made.add_argument("--batch", type=int, default=256)
    made.add_argument("--archs", nargs="+", default=list(ARCHS), choices=ARCHS)
    made.add_argument("--ways", nargs="+", default=["auto", "off", "on"], help="compile: ...")
    made.add_argument("--arch", default="resnet50", help="of rivals and compile")
    made.add_argument("--workers", type=int, nargs="+", default=[8, 15], help="of the rivals")
    made.add_argument("--explained", type=int, default=200, help="images of explanation")
    made.add_argument("--profile", default="full", choices=["quick", "full"], help="likewise")
    made.add_argument("--variants", type=Path, default=VARIANTS, help="YAML: name, keys of train")
    made.add_argument("--trainings", nargs="+", default=["fast"], metavar="NAME[:SEED,SEED]")
    made.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    made.add_argument("--seconds", type=float, help="of a training that gives no epochs")
    made.add_argument("--paced", nargs="+", default=["fast"], metavar="NAME", help="of paces")
    made.add_argument("--views", nargs="+", default=[], metavar="SIZE/RESIZE", help="more views")
    made.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="in all variants")
    return made


def run(options: argparse.Namespace) -> None:
    record = Record(options, f"gpu-{options.plan.stem}" if options.plan else "gpu")
    with tempfile.TemporaryDirectory() as folder:
        options.cache = Path(folder)
        files, count, seconds = photos.archived(options.photos, options.cache, options.canvas)
        rate = {"images": count, "seconds": seconds, "images_per_second": count / seconds}
        record.keep("packing", rate)
        options.train, options.val = packed.read(files["train"]), packed.read(files["val"])
        for name in options.only:
            section(name, options, record)


def section(name: str, options: argparse.Namespace, record: Record) -> None:
    """Run one, and keep what it found: all, or what it had when it failed."""
    started = time.monotonic()
    print(f"== {name}", flush=True)
    try:
        rows = SECTIONS[name](options, record)
    except Exception as error:  # what else can be known must not be lost with it
        failed = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
        rows = record.found.get(name, {}) | failed
        print(failed, flush=True)
    record.keep(name, rows)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
