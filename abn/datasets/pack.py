"""Where a data set comes from: each source gives its classes and the samples of both splits."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from abn.config.params import Data
from abn.data.packed import Sample, Writer
from abn.datasets import archive, fetch, folder, imagenette, images, shapes
from abn.runtime import files, progress
from abn.runtime.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
Item = tuple[bytes | Path, str, str, int]  # content, its name for errors, split, label
CHUNK = 16  # images that a thread decodes at a time
AHEAD = 4  # chunks decoded or waiting per thread
NAMED = 5  # bad images that are named


class Bad(NamedTuple):
    """An image that cannot be used."""

    name: str
    reason: str


class Source(NamedTuple):
    """A data set, not yet packed."""

    classes: tuple[str, ...]
    origin: str  # what and from where, in words that are the same on every machine
    masks: bool
    counts: dict[str, int]  # images of each split
    samples: Iterable[tuple[str, Sample]]  # each with its split's name, to be gone through once


def open_source(config: Data, cache: Path) -> Source:
    """The data set that `config` names; `cache` keeps what is downloaded."""
    if config.name == "shapes":
        return _shapes(config)
    return _imagenette(config, cache) if config.name == "imagenette" else _folder(config)


def pack(source: Source, size: int, paths: dict[str, Path]) -> None:
    """Write the file of every split, on canvases of `size` pixels; see `data.Writer`.

    All of them or, where a sample or the disk fails, none. Raises DataError, DiskError.
    """
    folder = next(iter(paths.values())).parent
    with files.writing(folder), ExitStack() as discarding:
        writers = {}
        for split, path in paths.items():
            writers[split] = _writer(source, split, size, path)
            discarding.callback(writers[split].discard)
        files.require_room(folder, sum(writer.size for writer in writers.values()))
        _write(source, writers)


def _writer(source: Source, split: str, size: int, path: Path) -> Writer:
    return Writer(path, source.counts[split], size, source.classes, source.origin, source.masks)


def _write(source: Source, writers: dict[str, Writer]) -> None:
    with progress.bar("packing", sum(source.counts.values()), "image") as bar:
        for split, sample in progress.counted(source.samples, bar):
            writers[split].add(sample)
    for writer in writers.values():
        writer.close()


def _shapes(config: Data) -> Source:
    counts = {"train": config.shapes.train, "val": config.shapes.val}
    samples = (
        (split, _render(config, split, index))
        for split, count in counts.items()
        for index in range(count)
    )
    return Source(shapes.CLASSES, f"shapes, seed {config.seed}", True, counts, samples)


def _render(config: Data, split: str, index: int) -> Sample:
    image, label, mask = shapes.render(config.seed, split, index, config.size, config.shapes)
    return Sample(image, label, mask=mask)


def _imagenette(config: Data, cache: Path) -> Source:
    official, md5 = imagenette.VARIANTS[config.variant]
    url, md5 = config.url or official, config.md5 or md5
    size = imagenette.SIZES.get(md5)
    file = fetch.fetch(url, cache / md5 / "imagenette.tgz", md5, size)
    found = imagenette.find(archive.names(file))
    known = {name: (split, label) for split in found for name, label in found[split]}
    items = ((content, name, *known[name]) for name, content in archive.read(file, known))
    classes, counts = tuple(imagenette.CLASSES.values()), {s: len(found[s]) for s in found}
    samples = _decoded(items, config.size)
    return Source(classes, f"imagenette, archive md5 {md5}", False, counts, samples)


def _folder(config: Data) -> Source:
    classes, train, val = folder.find(Path(config.root), config.val_fraction, config.seed)
    found = {"train": train, "val": val}
    items = ((path, str(path), split, label) for split in found for path, label in found[split])
    counts = {split: len(found[split]) for split in found}
    return Source(classes, "folder", False, counts, _decoded(items, config.size))


def _decoded(items: Iterable[Item], size: int) -> Iterator[tuple[str, Sample]]:
    """Decode on every core, in order; Pillow lets other threads run.

    All bad images are refused at once, after the last: none is skipped, for that would be another
    data set, and nobody should mend them one run at a time.
    """

    def sample(item: Item) -> tuple[str, Sample] | Bad:
        content, name, split, label = item
        try:
            canvas, aspect = images.square(images.decode(content, name, size), size)
        except DataError as error:
            return Bad(name, error.what)
        return split, Sample(canvas, label, aspect)

    bad: list[Bad] = []
    for result in _in_parallel(sample, items):
        if isinstance(result, Bad):
            bad.append(result)
        elif not bad:
            yield result
    if bad:
        raise _refused(bad)


def _refused(bad: list[Bad]) -> DataError:
    """One error for all of `bad`: how many, and the first of them by name."""
    where = ", ".join(f"{name} ({reason})" for name, reason in bad[:NAMED])
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    what = f"{len(bad)} image{'s' * (len(bad) > 1)} cannot be used"
    return DataError(what, f"{where}{more}", "replace or remove them")


def _in_parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map(work, items)` in threads that are never idle: in chunks, because a handover costs."""

    def all_of(chunk: list[T]) -> list[R]:
        return [work(item) for item in chunk]

    rest, threads = iter(items), os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[list[R]]] = deque()
        while chunk := list(islice(rest, CHUNK)):
            ahead.append(pool.submit(all_of, chunk))
            if len(ahead) > AHEAD * threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
