"""Classify images with a trained network, and show where it looked.

PATHS are images, folders (with all below them), patterns in quotes, or `-`: a list of paths on
standard input. Each image is shown to the network as the images it was validated on; nothing has to
be resized or sorted by class. Without --to, a line an image goes to standard output.

    abn predict photo.jpg
    abn predict holiday/ 'more/**/*.png' --to results --map both
    find . -name '*.jpg' -print0 | abn predict - --json

"Unlike the training data" is said of an image whose energy score is below the one in the
checkpoint, as that of 5 % of the validation images is: doubt the answer. Older checkpoints have no
such score.

FOLDER gets predictions.csv (a row an image), manifest.json (SHA-256 of the network and of every
image, versions, the verdict on the map) and overlays/ at the images' full size: the map in colours
over what the network saw, which a white line surrounds. It is written at once at the end; one that
exists is replaced only if this command wrote all that is in it.

--json prints one JSON object a line: file, sha256, prediction, confidence, classes (the five best),
attention_classes, region (top, left, height, width in pixels), map (rows of cells, 0 to 1), energy,
unlike_training_data (true, false, or null: not known) and verdict; or file and error.

Exit code 3: some files could not be read; they are named at the end, and the rest is done.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from abn.inference import image_files, predictor, results_folder, verdict
from abn.inference.prediction import Prediction
from abn.inference.predictor import Answer, Predictor
from abn.inference.results_folder import ATTENTION, MAPS, Drawn, Job, ResultsFolder
from abn.inference.verdict import Verdict
from abn.models import checkpoint
from abn.runtime import device, files, progress
from abn.runtime.errors import DataError

HELP = "classify images with a trained network, and show where it looked"
NEEDS_PROJECT = False
TOP = 5  # classes
DEFAULT = Path("checkpoint/model.safetensors")
INTERRUPTED = 130
UNLIKE = "unlike the training data"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("paths", nargs="+", metavar="PATHS", help="images, folders, patterns, -")
    add_checkpoint(parser)
    parser.add_argument("--to", metavar="FOLDER", type=Path, help="write the results there")
    words = "what --to draws: the attention map, the class map of the answer, both, none"
    parser.add_argument("--map", choices=MAPS, default=ATTENTION, help=words)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The option that names the network."""
    words = f"the network; the default is {DEFAULT} here or in a folder above"
    parser.add_argument("--checkpoint", metavar="FILE", help=words)


def run(options: argparse.Namespace) -> int:
    """Predict all that can be read; 3 where something could not be."""
    folder = files.absolute(options.to) if options.to else None
    if folder:
        results_folder.require_ours(folder)
    found = image_files.find(options.paths, folder)
    for suffix, count in sorted(found.skipped.items()):
        progress.say(f"{count} file(s) not read, no images by their names: {suffix}")
    if not found.files:
        raise DataError("no images", " ".join(options.paths), "name images, or folders with some")
    model = open_network(options.checkpoint)
    top = min(TOP, len(model.classes))
    job = Job(folder, found.files, MAPS[options.map], top) if folder else None
    seen = _answer_all(model, found.files, job, options.json)
    _summarise(seen, len(found.files), folder)
    return INTERRUPTED if seen.stopped else DataError.exit_code if seen.errors else 0


def open_network(name: str | None) -> Predictor:
    """The network `name`, by default the nearest DEFAULT from here upwards, on ABN_DEVICE."""
    if name is None:
        here = Path.cwd()
        places = [folder / DEFAULT for folder in (here, *here.parents)]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            what = f"no {DEFAULT} here or in a folder above"
            raise DataError(what, here, "name a network: --checkpoint FILE")
        name = os.path.relpath(path)
    return predictor.load(name, device.choose())


def verdict_on(model: Predictor) -> tuple[str, Verdict]:
    """The SHA-256 of the network's file, and the verdict on its map."""
    assert model.path is not None
    weights = checkpoint.sha256(model.path)
    return weights, verdict.of(model.path, weights)


class Seen:
    """What there is to say at the end."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict, self.stopped = verdict, False
        self.errors: dict[str, str] = {}  # file -> its line
        self.classes: Counter[str] = Counter()
        self.unlike = 0  # images


def _answer_all(model: Predictor, images: list[Path], job: Job | None, as_json: bool) -> Seen:
    """Answer and write for each file; a Ctrl-C ends it, and what is done is kept."""
    weights, known = verdict_on(model)
    seen, writer = Seen(known), results_folder.results_folder(job) if job else nullcontext()
    with writer as target, _bar(len(images), bool(job)) as bar:
        try:
            for answer, drawn in _answers(model, images, target):
                _note(answer, seen)
                if as_json or not target:
                    _print(answer, known, as_json)
                if target and drawn:
                    target.add(drawn)
                bar.update()
        except KeyboardInterrupt:
            seen.stopped = True
        if target:
            target.close(_about(model, weights, seen))
            seen.errors = {k: _line(what, k) for k, what in target.errors.items()} | seen.errors
    return seen


def _answers(
    model: Predictor, images: list[Path], target: ResultsFolder | None
) -> Iterator[tuple[Answer, Drawn | None]]:
    """The answer for each file, and what was drawn of it for `target`."""
    if not target:
        return ((answer, None) for answer in model.stream(images, TOP))
    return ((drawn.answer, drawn) for drawn in model.stream(images, TOP, target.draw))


def _bar(images: int, to_folder: bool) -> "tqdm[Any]":
    """A bar on standard error, where no lines appear at the same time."""
    if images <= predictor.BATCH or (sys.stdout.isatty() and not to_folder):
        return tqdm(disable=True)
    return progress.bar("predict", images, "image")


def _note(answer: Answer, seen: Seen) -> None:
    if isinstance(answer.prediction, DataError):
        seen.errors[str(answer.path)] = answer.prediction.line()
    else:
        seen.classes[answer.prediction.label] += 1
        seen.unlike += bool(answer.prediction.unlike)


def _print(answer: Answer, known: Verdict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(as_object(answer, known)))
    elif isinstance(answer.prediction, Prediction):
        print(f"{answer.path}: {in_words(answer.prediction)}")


def in_words(prediction: Prediction) -> str:
    """The answer of both branches in a line, and whether to doubt it."""
    best = ", ".join(f"{name} {share:.3f}" for name, share in prediction.classes.items())
    branch, share = max(prediction.attention_confidences.items(), key=lambda pair: pair[1])
    unlike = f"; {UNLIKE}" if prediction.unlike else ""
    return f"{best}; attention branch: {branch} {share:.3f}{unlike}"


def as_object(answer: Answer, known: Verdict) -> dict[str, Any]:
    """What --json says of a file."""
    said = answer.prediction
    name = {"file": str(answer.path), "sha256": answer.sha256}
    if isinstance(said, DataError):
        return name | {"error": said.what}
    return name | {
        "prediction": said.label,
        "confidence": said.classes[said.label],
        "classes": said.classes,
        "attention_classes": said.attention_confidences,
        "region": said.region,
        "map": [[round(float(cell), 6) for cell in row] for row in said.map],
        "energy": said.energy,
        "unlike_training_data": said.unlike,
        "verdict": known.verdict,
    }


def _about(model: Predictor, weights: str, seen: Seen) -> dict[str, Any]:
    """What the manifest says beside the images."""
    network = {
        "checkpoint": str(model.path),
        "sha256": weights,
        "arch": model.arch,
        "attention": "look" if model.network.looks else "residual",
        "classes": model.classes,
        "canvas": model.canvas,
        "resize": model.resize,
        "size": model.size,
        "unlike_below": model.unlike_below,
        "device": device.kind(model.device),
    }
    unlike = None if model.unlike_below is None else seen.unlike
    about = {"network": network, "map": seen.verdict._asdict(), "unlike_training_data": unlike}
    return about | {"interrupted": seen.stopped}


def _line(what: str, name: str) -> str:
    return DataError(what, name, "its row is there, its overlays are not").line()


def _summarise(seen: Seen, images: int, folder: Path | None) -> None:
    """The end of the console's output, on standard error."""
    if folder:
        named = ", ".join(f"{name} {count:,}" for name, count in seen.classes.most_common(10))
        progress.say(f"{folder}: {seen.classes.total():,} images; {named}")
    if seen.unlike:
        progress.say(f"{UNLIKE}: {seen.unlike:,} of {seen.classes.total():,} images")
    progress.say(f"map: {seen.verdict.line()}")
    for line in seen.errors.values():
        progress.say(line)
    if seen.errors:
        what = "read" if not folder else "read, or drawn whole"
        progress.say(f"{len(seen.errors):,} of {images:,} images could not be {what}")
