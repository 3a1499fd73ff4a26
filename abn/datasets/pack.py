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
from abn.datasets import archive, download, folder, images, shapes, tree
from abn.datasets.copies import Copies, Place
from abn.datasets.problems import Problem, refused, shown
from abn.runtime import files, progress
from abn.runtime.errors import DataError

T = TypeVar("T")
R = TypeVar("R")
CHUNK = 16  # images that a thread decodes at a time
AHEAD = 4  # chunks decoded or waiting per thread


class Item(NamedTuple):
    """An image to decode."""

    content: bytes | Path
    name: str
    split: str
    label: int


class Source(NamedTuple):
    """A data set, not yet packed."""

    classes: tuple[str, ...]
    origin: str  # a description that is the same on every machine
    masks: bool
    files: dict[str, list[str]]  # the names of each split's images, in the order of the samples
    samples: Iterable[tuple[str, Sample]]  # (split, sample); can be read once


def open_source(config: Data, cache: Path) -> Source:
    """The data set that `config` names; downloads, and lists of
    what is wrong, are kept in the folder `cache`.

    Raises DataError, DiskError, BusyError.
    """
    if config.name == "shapes":
        return _shapes(config)
    return _imagenette(config, cache) if config.name == "imagenette" else _folder(config, cache)


def pack(source: Source, size: int, paths: dict[str, Path]) -> None:
    """Write the file of every split to `paths`, on canvases of `size` x `size` pixels.

    If a sample or the disk fails, no file is written. Raises DataError, DiskError.
    """
    folder = next(iter(paths.values())).parent
    with files.writing(folder), ExitStack() as discarding:
        writers = {}
        for split, path in paths.items():
            about = source.classes, source.origin, source.masks
            writers[split] = Writer(path, source.files[split], size, *about)
            discarding.callback(writers[split].discard)
        files.require_room(folder, sum(writer.size for writer in writers.values()))
        with progress.bar("packing", sum(map(len, source.files.values())), "image") as bar:
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
    files = {split: shapes.names(split, count) for split, count in counts.items()}
    return Source(shapes.CLASSES, f"shapes, seed {config.seed}", True, files, samples)


def _imagenette(config: Data, cache: Path) -> Source:
    from abn.datasets import imagenette  # here: only this data set needs torchvision (2 seconds)

    official_url, official_md5 = imagenette.ARCHIVES[config.variant]
    url, md5 = config.url or official_url, config.md5 or official_md5
    file = download.fetch(url, cache / md5 / "imagenette.tgz", md5)
    members = archive.names(file)
    splits = imagenette.find(members)
    known = {name: (split, label) for split in splits for name, label in splits[split]}
    if others := [name for name in members if name not in known]:
        progress.say(f"{len(others)} file(s) of the archive not read, such as {shown(others[0])}")
    files = {
        split: [name for name in members if known.get(name, "?")[0] == split] for split in splits
    }
    items = (Item(content, name, *known[name]) for name, content in archive.read(file, known))
    samples = _samples(_decoded(items, config.size), [], file, cache)
    return Source(
        tuple(imagenette.CLASSES.values()), f"imagenette, archive md5 {md5}", False, files, samples
    )


def _folder(config: Data, cache: Path) -> Source:
    root = Path(config.root)
    found = folder.find(root, config.val_fraction, config.seed)
    for line in found.left_out:
        progress.say(f"{root}: {line}")
    splits = {"train": found.train, "val": found.val}
    items = (
        Item(tree.path(root, name), name, split, label)
        for split in splits
        for name, label in splits[split]
    )
    copies = Copies(root, cache, config.allow_duplicates)
    files = {split: [name for name, _ in labelled] for split, labelled in splits.items()}
    samples = _samples(_decoded(items, config.size), found.problems, root, cache, copies)
    return Source(found.classes, "folder", False, files, samples)


Decoded = tuple[Item, Sample | Problem]


def _decoded(items: Iterable[Item], size: int) -> Iterator[Decoded]:
    """Decode `items` in threads, in order; Pillow releases Python's lock."""

    def sample(item: Item) -> Decoded:
        try:
            canvas, aspect = images.square(images.decode(item.content, item.name, size), size)
        except DataError as error:
            return item, Problem(error.what, item.name)
        return item, Sample(canvas, item.label, aspect)

    return _in_parallel(sample, items)


def _samples(
    decoded: Iterable[Decoded],
    problems: list[Problem],
    root: Path,
    cache: Path,
    copies: Copies | None = None,
) -> Iterator[tuple[str, Sample]]:
    """The samples in `decoded`; DataError at the end if there is any problem, or `copies` has one.

    Bad images are an error, not left out: that would be another data set. All are read before the
    error, so that it names all that is wrong.
    """
    problems = list(problems)
    for item, result in decoded:
        if isinstance(result, Problem):
            problems.append(result)
        elif not problems:
            if copies:
                copies.note(Place(item.split, item.label, item.name), result)
            yield item.split, result
    if problems:
        raise refused(problems, root, cache)
    if copies:
        copies.check()


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
