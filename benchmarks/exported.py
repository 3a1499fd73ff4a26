"""A network as ONNX against PyTorch on the CPU: the same answers on photographs, and how fast.

    python -m benchmarks.exported                       # untrained ResNet-18s, residual and look
    python -m benchmarks.exported --checkpoints A B     # trained ones: their own differences

The photographs are those that scikit-learn ships, cut in pieces. Both take turns, on one thread
unless --threads says more. `ms` and `cpu_ms` are of one image: time that passed, and the processor
time of this process, which other work on the machine leaves nearly alone.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from abn.config.params import Attention
from abn.inference import export
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork, Output
from benchmarks import measure

PHOTOS = ("china.jpg", "flower.jpg")
ACROSS, DOWN = 4, 2  # pieces of each
CANVAS = 256  # pixels, of the pieces that the export itself is checked on
MODES: tuple[Attention, ...] = ("residual", "look")


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoints", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 224], help="96 224")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16], help="1 16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", action="store_true", help="other work ran on the machine")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with measure.for_people(), measure.workspace() as work:
        for path in options.checkpoints or [untrained(work / mode, mode) for mode in MODES]:
            for row in compared(path, work / f"{len(rows)}.onnx", options):
                print("  ".join(f"{name} {value}" for name, value in row.items()))
                rows.append(row)
    about = {name: getattr(options, name) for name in ("rounds", "threads", "shared")}
    measure.save(options.out, "exported", about | {"onnxruntime": _version()}, rows)


def untrained(folder: Path, attention: Attention) -> Path:
    """The checkpoint of a ResNet-18 with random weights, of ten classes."""
    torch.manual_seed(0)
    network = AttentionBranchNetwork("resnet18", 10, attention=attention)
    train = {"epochs": 1, "batch_size": 1, "sizes": [224], "val_size": 224, "val_resize": 256}
    params = {"arch": "resnet18", "attention": attention, "seed": 0}
    about = params | {"train": train, "data": {"holdout": 0.0}}
    weights = {"model": checkpoint.weights(network)}
    checkpoint.save_all(folder, weights, tuple("abcdefghij"), about)
    return folder / "model.safetensors"


def compared(path: Path, target: Path, options: Any) -> Iterator[dict[str, Any]]:
    """A row for each size and batch: the largest difference of each output, and both speeds."""
    canvases = [(torch.from_numpy(piece), 1.0) for piece in pieces(CANVAS)]
    export.export(path, target, "onnx", canvases)
    trained = checkpoint.load(path, torch.device("cpu"))
    run, network = opened(target, options.threads), trained.model
    mode = "look" if network.looks else "residual"
    for size in options.sizes:
        images = torch.from_numpy(np.stack(pieces(size))).permute(0, 3, 1, 2) / 255
        images = images.contiguous(memory_format=torch.channels_last)  # as the project shows them
        for batch in options.batches:
            about = {"arch": trained.arch, "attention": mode, "size": size, "batch": batch}
            yield (
                about
                | differences(network, run, images, batch)
                | speeds({"torch": network, "onnx": run}, images, batch, options.rounds)
            )


def pieces(size: int) -> list[Any]:
    """The pieces of the photographs, uint8 [size, size, 3] each."""
    found = []
    for name in PHOTOS:
        with resources.as_file(resources.files("sklearn.datasets.images") / name) as path:
            photo = Image.open(path).convert("RGB")
        width, height = photo.width // ACROSS, photo.height // DOWN
        for left in range(0, width * ACROSS, width):
            for top in range(0, height * DOWN, height):
                box = (left, top, left + width, top + height)
                found.append(np.array(photo.resize((size, size), box=box)))
    return found


def opened(path: Path, threads: int) -> export.Run:
    """The exported network in onnxruntime."""
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, session_options, providers=providers)

    def run(images: Tensor) -> Sequence[Tensor]:
        given = {export.INPUT: np.ascontiguousarray(images.numpy())}
        return [torch.from_numpy(values) for values in session.run(None, given)]

    return run


@torch.inference_mode()
def differences(network: Any, run: Any, images: Tensor, batch: int) -> dict[str, float]:
    """The largest of each output over all images."""
    found = dict.fromkeys(Output._fields, 0.0)
    for part in images.split(batch):
        for name, ours, theirs in zip(found, network(part), run(part), strict=True):
            found[name] = max(found[name], float((ours - theirs).abs().max()))
    return {f"{name}_difference": float(f"{value:.2g}") for name, value in found.items()}


class Spent(NamedTuple):
    """Milliseconds an image."""

    ms: float
    cpu_ms: float


def speeds(runs: dict[str, Any], images: Tensor, batch: int, rounds: int) -> dict[str, float]:
    """The median over the rounds of each; the first round, which warms up, is not counted."""
    spent: dict[str, list[Spent]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            spent[name].append(_spent(run, images, batch))
    return {
        f"{name}_{unit}": round(statistics.median(getattr(turn, unit) for turn in turns[1:]), 2)
        for name, turns in spent.items()
        for unit in Spent._fields
    }


@torch.inference_mode()
def _spent(run: Any, images: Tensor, batch: int) -> Spent:
    began, cpu = time.perf_counter(), time.process_time()
    for part in images.split(batch):
        run(part)
    each = 1000 / len(images)
    return Spent(each * (time.perf_counter() - began), each * (time.process_time() - cpu))


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


if __name__ == "__main__":
    main()
