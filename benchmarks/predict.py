"""`abn predict` against bare batched forwards of the same images: what reading and writing cost.

    python -m benchmarks.predict --photos imagenette2-160.tgz --size 96
    python -m benchmarks.predict --photos imagenette2-160.tgz --size 224

An untrained network sees --images photographs, once as files, by the command itself, and once as
tensors that are ready on the device, in batches of the same size. The command reads and checks the
weights, decodes, and writes table, manifest and overlays; with `--map none` it draws no overlays.
Both run in this process, in turns, after a short one each; a ratio is that of two neighbours in a
round, its median is reported. 1.15 is 15 % longer than bare. Importing torch is in neither.

Without --photos the images are rendered, 160 px.
"""

import io
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from abn.cli.main import main as command
from abn.inference import predictor
from abn.inference.predictor import Predictor
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.runtime import device
from benchmarks import measure, photos

KINDS = {"predict": "attention", "predict_without_overlays": "none"}  # and what --map is


class Took(NamedTuple):
    """What a piece of work took."""

    seconds: float
    cpu_seconds: float  # of all threads


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--photos", type=Path, help="an Imagenette archive")
    parser.add_argument("--images", type=int, default=1000, help="at most (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="pixels (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--shared", action="store_true", help="other work ran on the machine")
    options = parser.parse_args()
    with measure.for_people(), measure.workspace() as work:
        folder = photos.folder(work / "photos", options.images, options.photos)
        source = untrained(work / "checkpoint", options.arch, options.size)
        found = compare(source, folder, work / "out", options.rounds)
        threads = {"torch_threads": torch.get_num_threads(), "batch": predictor.BATCH}
        measure.save(options.out, f"predict-{options.size}", vars(options) | threads, found)


def untrained(folder: Path, arch: str, size: int) -> Path:
    """The checkpoint of a new network of ten classes that sees whole images of `size` pixels."""
    params = measure.recipe("imagenette-cpu")
    shown = params.train.model_copy(update={"val_size": size, "val_resize": size})
    given = {"arch": arch, "smooth": False, "train": shown}
    recipe = checkpoint.recipe(params.model_copy(update=given))
    network = AttentionBranchNetwork(arch, 10, attention=params.attention)
    classes, state = tuple("abcdefghij"), {"model": checkpoint.weights(network)}
    checkpoint.save_all(folder, state, classes, recipe, size, 0.0)
    return folder / "model.safetensors"


def compare(source: Path, folder: Path, out: Path, rounds: int) -> dict[str, Any]:
    """Seconds and images a second of each, and how many times as long as bare the command takes."""
    model = predictor.load(source, device.choose())
    files = sorted(folder.glob("*/*"))
    views = torch.cat([model.view(model.read(file)) for file in files])
    works: dict[str, Callable[[], None]] = {"bare": lambda: forwards(model, views)}
    for name, kind in KINDS.items():
        works[name] = lambda kind=kind: predict(source, folder, out, kind)  # type: ignore[misc]
    forwards(model, views[: predictor.BATCH])
    predict(source, files[0].parent, out, "attention")
    found = []
    for number in range(rounds):
        order = list(works)[:: -1 if number % 2 else 1]  # nobody is always the first
        found.append({name: took(works[name]) for name in order})
        print({name: round(each.seconds, 2) for name, each in found[-1].items()}, flush=True)
    return {"images": len(files)} | {name: summary(found, name, len(files)) for name in works}


def forwards(model: Predictor, views: Tensor) -> None:
    """The network alone, on images that are ready."""
    with torch.inference_mode():
        for batch in views.split(predictor.BATCH):
            model.network(batch)
    measure.wait_for_device()


def predict(source: Path, folder: Path, out: Path, kind: str) -> None:
    """The command `abn predict`, which says nothing."""
    words = ["predict", str(folder), "--checkpoint", str(source), "--to", str(out), "--map", kind]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        code = command(words)
    assert code == 0, said.getvalue()


def took(work: Callable[[], None]) -> Took:
    """The time of `work`."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - began, time.process_time() - cpu)


def summary(rounds: list[dict[str, Took]], name: str, images: int) -> dict[str, float]:
    """Medians of `name` over the rounds; `times_bare` is that of the ratios within a round."""
    seconds = statistics.median(each[name].seconds for each in rounds)
    ratios = [each[name].seconds / each["bare"].seconds for each in rounds]
    cpu = [each[name].cpu_seconds / each["bare"].cpu_seconds for each in rounds]
    return {
        "seconds": round(seconds, 2),
        "images_per_second": round(images / seconds, 1),
        "times_bare": round(statistics.median(ratios), 3),
        "times_bare_least": round(min(ratios), 3),
        "times_bare_most": round(max(ratios), 3),
        "times_bare_cpu": round(statistics.median(cpu), 3),
    }


if __name__ == "__main__":
    main()
