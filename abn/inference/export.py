"""A network as one file that needs none of this project: ONNX, or a program of torch.export.

RGB images [batch, 3, height, width] in [0, 1] go in, of any size from 33 pixels; the three outputs
are those of `Output`, by name. Normalisation and, for `attention: look`, the second look are
inside, and so is the checkpoint's header, under the key "abn". A file appears only once it has
given the network's own answers on real images.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from abn.data import packed
from abn.data.crop import centre_boxes, crop
from abn.datasets import images as decoder
from abn.inference import predictor
from abn.inference.picture import read_bytes
from abn.inference.predictor import Predictor
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork, Output
from abn.runtime import files
from abn.runtime.errors import DataError, UserError

KEY = "abn"  # of the header in the file's metadata, as in a checkpoint
INPUT, AXES = "images", {0: "batch", 2: "height", 3: "width"}
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}  # of each format
BATCHES = 1, 3  # images that the check shows at once
LIMIT = 1e-4  # the largest difference allowed, for values up to 1; in proportion above
SMALLEST = 33  # pixels: below it some layers have a single cell, which torch.export takes as fixed

Canvas: TypeAlias = tuple[Tensor, float]  # uint8 [H, W, 3], and the image's width over height
Run: TypeAlias = Callable[[Tensor], Sequence[Tensor]]


class ExportError(UserError):
    """The exported network does not say what the network says."""

    kind = "EXPORT"


class Check(NamedTuple):
    """How an exported network was compared with the network it was made of."""

    images: int
    sizes: tuple[int, ...]  # sides of the images, pixels
    differences: dict[str, float]  # the largest of each output


def export(source: Path, target: Path, kind: str, canvases: Sequence[Canvas]) -> Check:
    """Write the checkpoint `source` as `target`, in the format `kind`, a key of SUFFIXES.

    It is compared with the network on `canvases`. DataError where `source` is no checkpoint or
    `target` is there already, ExportError where they differ by more than LIMIT.
    """
    require_free(target)
    model = predictor.load(source, "cpu")
    header = checkpoint.read(source)[0][KEY]
    with files.writing(target), files.replacing(target) as part:
        run = WRITERS[kind](model.network, header, part)
        check = compare(model, run, canvases)
        require_free(target)  # it took a minute
    return check


def require_free(target: Path) -> None:
    """DataError where something has the name `target`: it may be another's."""
    if os.path.lexists(target):
        raise DataError("already there", target, "remove it, or give another name with --to")


def packed_canvases(path: Path) -> list[Canvas]:
    """The first images of a packed split."""
    split = packed.read(path)
    return list(zip(split.images, split.aspect.tolist(), strict=True))[: max(BATCHES)]


def photo_canvases(paths: Sequence[Path], canvas: int | None) -> list[Canvas]:
    """Image files, squashed to `canvas` pixels as packed images are; DataError if one is none."""
    photos = [decoder.decode(read_bytes(path), str(path), canvas) for path in paths]
    sides = (canvas or min(photo.size) for photo in photos)
    squared = (decoder.square(photo, side) for photo, side in zip(photos, sides, strict=True))
    return [(torch.from_numpy(pixels), aspect) for pixels, aspect in squared]


def compare(model: Predictor, run: Run, canvases: Sequence[Canvas]) -> Check:
    """`run` against `model` at two sizes in batches of BATCHES; ExportError beyond LIMIT."""
    sizes = max(model.size, SMALLEST), max(model.size * 3 // 2, SMALLEST + 16)
    share, differences = model.size / model.resize, dict.fromkeys(Output._fields, 0.0)
    for images in _views(canvases, share, sizes):
        with torch.inference_mode():
            pairs = zip(differences, model.network(images), run(images), strict=True)
        for name, ours, theirs in pairs:
            if ours.shape != theirs.shape:
                raise _unlike(f"{name} {list(theirs.shape)}", f"{list(ours.shape)}")
            difference = float((ours - theirs).abs().max())
            if not difference <= LIMIT * max(1.0, float(ours.abs().max())):
                raise _unlike(f"{name} that differ by {difference:.2g}", f"at most {LIMIT:g}")
            differences[name] = max(differences[name], difference)
    return Check(len(canvases), sizes, differences)


def _unlike(what: str, wanted: str) -> ExportError:
    remedy = "report it with the versions of torch and onnxruntime"
    return ExportError(f"the exported network gives {what}", f"{wanted} expected", remedy)


def _views(canvases: Sequence[Canvas], share: float, sizes: Sequence[int]) -> Iterator[Tensor]:
    """Batches of the images' central squares, a batch for each size and number of BATCHES."""
    for size in sizes:
        views = cycle([_view(*canvas, share, size) for canvas in canvases])
        yield from (torch.cat(list(islice(views, count))) for count in BATCHES)


def _view(canvas: Tensor, aspect: float, share: float, size: int) -> Tensor:
    """What the network is shown of a canvas: float32 [1, 3, size, size] in [0, 1]."""
    box = centre_boxes(torch.tensor([aspect]), share)
    return crop(canvas[None], box, torch.zeros(1, dtype=torch.bool), size)


def _onnx(network: AttentionBranchNetwork, header: str, path: Path) -> Run:
    import onnxruntime  # here: all three are of the extra `onnx`
    import onnxscript  # noqa: F401  # what torch exports with

    program: Any = torch.onnx.export(
        network,
        (_example(),),
        input_names=[INPUT],
        output_names=Output._fields,
        dynamic_shapes=(AXES,),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props[KEY] = header
    program.save(path, external_data=False)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, providers=providers)
    return lambda images: [
        torch.from_numpy(values) for values in session.run(None, {INPUT: images.numpy()})
    ]


def _torch_export(network: AttentionBranchNetwork, header: str, path: Path) -> Run:
    axes = dict.fromkeys(AXES, torch.export.Dim.DYNAMIC)
    program = torch.export.export(_Named(network).eval(), (_example(),), dynamic_shapes=(axes,))
    with path.open("wb") as file:  # torch wants a path that ends in .pt2
        torch.export.save(program, file, extra_files={KEY: header})
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda images: list(module(images).values())


class _Named(nn.Module):
    """`network` with a dict in place of `Output`, which only this project knows."""

    def __init__(self, network: AttentionBranchNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.network(images)._asdict()


def _example() -> Tensor:
    """Images to trace the network with: neither square nor one alone, so nothing looks fixed."""
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


WRITERS = {"onnx": _onnx, "torch-export": _torch_export}
