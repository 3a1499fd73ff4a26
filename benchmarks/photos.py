"""The images that benchmarks train on: as files, as people keep them, and packed, as we do."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from abn.config.params import Shapes
from abn.data import packed
from abn.data.packed import Sample, Split
from abn.datasets import archive as archives
from abn.datasets import imagenette, images, pack, shapes
from benchmarks import measure

SIDE = 160  # pixels, of what is rendered where no photographs are given


def folder(root: Path, count: int, photos: Path | None) -> Path:
    """`count` JPEG files ROOT/CLASS/*.jpg: of the Imagenette archive `photos`, or rendered."""
    for name, content in _photographs(photos, count) if photos else _rendered(count):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            content.save(file, quality=90)
    return root


def archived(
    archive: Path, folder: Path, size: int | None = None
) -> tuple[dict[str, Path], int, float]:
    """Pack an Imagenette archive as the download stage does: the files, images, and seconds.

    On canvases of `size` pixels; None: as presets/imagenette-cpu.yaml has them.
    """
    digest = hashlib.file_digest(archive.open("rb"), "md5").hexdigest()
    here = {"url": str(archive), "md5": digest} | ({"size": size} if size else {})
    config = measure.recipe("imagenette-cpu").data.model_copy(update=here)
    files = {split: folder / split for split in ("train", "val")}
    started = time.perf_counter()
    source = pack.open_source(config, folder)
    pack.pack(source, config.size, files)
    return files, sum(map(len, source.files.values())), time.perf_counter() - started


def packed_splits(root: Path, size: int) -> Split:
    """The files of `folder` on canvases of `size` pixels, as the download stage packs them."""
    classes = tuple(sorted(path.name for path in root.iterdir() if path.is_dir()))
    files, path = sorted(root.glob("*/*")), root / f"{size}.safetensors"
    names = [file.relative_to(root).as_posix() for file in files]
    writer = packed.Writer(path, names, size, classes, "benchmark")
    for file in files:
        canvas, aspect = images.square(images.decode(file, file.name, size), size)
        writer.add(Sample(canvas, classes.index(file.parent.name), aspect))
    writer.close()
    return packed.read(path)


def _photographs(photos: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """About `count` training images, as many of every class."""
    each, seen, chosen = -(-count // len(imagenette.CLASSES)), Counter[int](), set()
    for name, label in imagenette.find(archives.names(photos))["train"]:
        seen[label] += 1
        if seen[label] <= each:
            chosen.add(name)
    for name, content in archives.read(photos, chosen):
        yield "/".join(Path(name).parts[-2:]), content


def _rendered(count: int) -> Iterator[tuple[str, Image.Image]]:
    look = Shapes(
        train=count, val=1, clutter=0.5, distractors=2, diameter=(0.3, 0.5), shortcut=None
    )
    for index in range(count):
        image, label, *_ = shapes.render(0, "train", index, SIDE, look)
        yield f"{shapes.CLASSES[label]}/{index:06d}.jpg", Image.fromarray(image)
