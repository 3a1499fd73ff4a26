"""Data sets packed: each source gives its classes and the samples of both splits, all decoded."""

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
from abn.datasets import archive, download, folder, images, shapes
from abn.runtime import files, progress
from abn.runtime.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
Item = tuple[bytes | Path, str, str, int]  # content, its name for errors, split, label
CHUNK = 16  # images that a thread decodes at a time
AHEAD = 4  # chunks decoded or waiting per thread
MOST_NAMED = 5  # bad images


class Source(NamedTuple):
    """A data set, not yet packed."""

    classes: tuple[str, ...]
    origin: str  # a description that is the same on every machine
    masks: bool
    counts: dict[str, int]  # images of each split
    samples: Iterable[tuple[str, Sample]]  # (split, sample); can be read once


def open_source(config: Data, cache: Path) -> Source:
    """The data set that `config` names; downloads are kept in the folder `cache`.

    Raises DataError, DiskError, BusyError.
    """
    if config.name == "shapes":
        return _shapes(config)
    return _imagenette(config, cache) if config.name == "imagenette" else _folder(config)


def pack(source: Source, size: int, paths: dict[str, Path]) -> None:
    """Write the file of every split to `paths`, on canvases of `size` x `size` pixels.

    If a sample or the disk fails, no file is written. Raises DataError, DiskError.
    """
    folder = next(iter(paths.values())).parent
    with files.writing(folder), ExitStack() as discarding:
        writers = {}
        for split, path in paths.items():
            about = source.classes, source.origin, source.masks
            writers[split] = Writer(path, source.counts[split], size, *about)
            discarding.callback(writers[split].discard)
        files.require_room(folder, sum(writer.size for writer in writers.values()))
        with progress.bar("packing", sum(source.counts.values()), "image") as bar:
            for split, sample in progress.counted(source.samples, bar):
                writers[split].add(sample)
        for writer in writers.values():
            writer.close()


def _shapes(config: Data) -> Source:
    counts = {"train": config.shapes.train, "val": config.shapes.val}
    samples = (
        (split, shapes.render(config.seed, split, index, config.size, config.shapes))
        for split, count in counts.items()
        for index in range(count)
    )
    return Source(shapes.CLASSES, f"shapes, seed {config.seed}", True, counts, samples)


def _imagenette(config: Data, cache: Path) -> Source:
    from abn.datasets import imagenette  # here: only this data set needs torchvision (2 seconds)

    official_url, official_md5 = imagenette.ARCHIVES[config.variant]
    url, md5 = config.url or official_url, config.md5 or official_md5
    file = download.fetch(url, cache / md5 / "imagenette.tgz", md5)
    splits = imagenette.find(archive.names(file))
    known = {name: (split, label) for split in splits for name, label in splits[split]}
    items = ((content, name, *known[name]) for name, content in archive.read(file, known))
    classes, counts = tuple(imagenette.CLASSES.values()), {s: len(splits[s]) for s in splits}
    samples = _decoded(items, config.size)
    return Source(classes, f"imagenette, archive md5 {md5}", False, counts, samples)


def _folder(config: Data) -> Source:
    classes, train, val = folder.find(Path(config.root), config.val_fraction, config.seed)
    splits = {"train": train, "val": val}
    items = ((path, str(path), split, label) for split in splits for path, label in splits[split])
    counts = {split: len(splits[split]) for split in splits}
    return Source(classes, "folder", False, counts, _decoded(items, config.size))


def _decoded(items: Iterable[Item], size: int) -> Iterator[tuple[str, Sample]]:
    """Decode `items` in threads, in order; Pillow releases Python's lock.

    Bad images are an error, not left out: that would be another data set. All are read before the
    error, so that it can name several.
    """

    def sample(item: Item) -> tuple[str, Sample] | str:
        content, name, split, label = item
        try:
            canvas, aspect = images.square(images.decode(content, name, size), size)
        except DataError as error:
            return f"{name} ({error.what})"
        return split, Sample(canvas, label, aspect)

    bad: list[str] = []
    for result in _in_parallel(sample, items):
        if isinstance(result, str):
            bad.append(result)
        elif not bad:
            yield result
    if bad:
        more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        what = f"{len(bad)} image{'s' * (len(bad) > 1)} cannot be used"
        where = ", ".join(bad[:MOST_NAMED]) + more
        raise DataError(what, where, "replace or remove them")


def _in_parallel(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map(work, items)` in threads, in chunks (a handover costs) and a bounded number ahead."""

    def work_all(chunk: list[T]) -> list[R]:
        return [work(item) for item in chunk]

    remaining, threads = iter(items), os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[list[R]]] = deque()
        while chunk := list(islice(remaining, CHUNK)):
            pending.append(pool.submit(work_all, chunk))
            if len(pending) > AHEAD * threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
