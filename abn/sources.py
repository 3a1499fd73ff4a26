"""Where a data set comes from: each source gives its classes and the samples of both splits."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from abn import archive, fetch, folder, imagenette, images, shapes
from abn.data import Sample
from abn.params import Data

T = TypeVar("T")
AHEAD = 256  # images decoded ahead of the one being packed


class Part(NamedTuple):
    """One split, not yet packed."""

    length: int
    samples: Iterable[Sample]


class Source(NamedTuple):
    """A data set, not yet packed."""

    classes: tuple[str, ...]
    origin: str  # what and from where, in words that are the same on every machine
    masks: bool
    train: Part
    val: Part


def open_source(config: Data, cache: Path) -> Source:
    """The data set that `config` names; `cache` keeps what is downloaded."""
    if config.name == "shapes":
        return _shapes(config)
    return _imagenette(config, cache) if config.name == "imagenette" else _folder(config)


def _shapes(config: Data) -> Source:
    def part(split: str, count: int) -> Part:
        return Part(count, (_render(config, split, index) for index in range(count)))

    train, val = part("train", config.shapes.train), part("val", config.shapes.val)
    return Source(shapes.CLASSES, f"shapes, seed {config.seed}", True, train, val)


def _render(config: Data, split: str, index: int) -> Sample:
    image, label, mask = shapes.render(
        config.seed,
        split,
        index,
        config.size,
        clutter=config.shapes.clutter,
        distractors=config.shapes.distractors,
        diameter=config.shapes.diameter,
    )
    return Sample(image, label, mask=mask)


def _imagenette(config: Data, cache: Path) -> Source:
    official, md5 = imagenette.VARIANTS[config.variant]
    url, md5 = config.url or official, config.md5 or md5
    file = fetch.fetch(url, cache / md5 / "imagenette.tgz", md5)
    found = imagenette.find(archive.names(file))

    def part(split: str) -> Part:
        labels = dict(found[split])
        members = archive.read(file, labels)
        items = ((content, name, labels[name]) for name, content in members)
        return Part(len(labels), _decoded(items, config.size))

    classes = tuple(imagenette.CLASSES.values())
    return Source(classes, f"imagenette, archive md5 {md5}", False, part("train"), part("val"))


def _folder(config: Data) -> Source:
    classes, train, val = folder.find(Path(config.root), config.val_fraction, config.seed)

    def part(files: folder.Labelled) -> Part:
        items = ((path, str(path), label) for path, label in files)
        return Part(len(files), _decoded(items, config.size))

    return Source(classes, "folder", False, part(train), part(val))


def _decoded(items: Iterable[tuple[bytes | Path, str, int]], size: int) -> Iterator[Sample]:
    """Decode (content, name, label) on every core, in order; Pillow lets other threads run."""

    def sample(item: tuple[bytes | Path, str, int]) -> Sample:
        content, name, label = item
        canvas, aspect = images.square(images.decode(content, name, size), size)
        return Sample(canvas, label, aspect)

    return _in_parallel(sample, items)


def _in_parallel(
    work: Callable[[tuple[bytes | Path, str, int]], T],
    items: Iterable[tuple[bytes | Path, str, int]],
) -> Iterator[T]:
    """`map(work, items)` in threads, holding no more than AHEAD items at a time."""
    remaining = iter(items)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(islice(remaining, AHEAD)):
            yield from pool.map(work, chunk)
