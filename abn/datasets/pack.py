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
from abn.datasets import archive, download, folder, images, masks, shapes, tree
from abn.datasets.copies import Copies, Place
from abn.datasets.problems import Problem, refused, shown
from abn.datasets.summary import Entry, Summary
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
    mask: tuple[Path, str] | None = None  # its file, and that file's name


class Loaded(NamedTuple):
    """An image that was decoded."""

    sample: Sample
    sides: tuple[int, int]  # pixels, of the file


class Source(NamedTuple):
    """A data set, not yet packed."""

    classes: tuple[str, ...]
    origin: str  # a description that is the same on every machine
    masks: dict[str, list[bool]]  # of each split's images: whether it has a mask
    files: dict[str, list[str]]  # the names of each split's images, in the order of the samples
    samples: Iterable[tuple[str, Sample]]  # (split, sample); can be read once
    summary: Summary | None = None  # what was found, after all samples were read


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
            about = source.classes, source.origin, source.masks[split]
            writers[split] = Writer(path, source.files[split], size, *about)
            discarding.callback(writers[split].discard)
        files.require_room(folder, sum(writer.size for writer in writers.values()))
        with progress.bar("packing", sum(map(len, source.files.values())), "image") as bar:
            for split, sample in progress.counted(source.samples, bar):
                writers[split].add(sample)
        for writer in writers.values():
            writer.close()
        if source.summary:
            source.summary.say()


def _shapes(config: Data) -> Source:
    counts = {"train": config.shapes.train, "val": config.shapes.val}
    samples = (
        (split, shapes.render(config.seed, split, index, config.size, config.shapes))
        for split, count in counts.items()
        for index in range(count)
    )
    files = {split: shapes.names(split, count) for split, count in counts.items()}
    masks = {split: [True] * count for split, count in counts.items()}
    return Source(shapes.CLASSES, f"shapes, seed {config.seed}", masks, files, samples)


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
    classes, no_masks = tuple(imagenette.CLASSES.values()), {split: [False] for split in splits}
    notes = Notes(Copies(file, cache, "as this archive has them"), Summary(classes, cache))
    samples = _samples(_decoded(items, config.size), [], file, cache, notes)
    origin = f"imagenette, archive md5 {md5}"
    return Source(classes, origin, no_masks, files, samples, notes.summary)


def _folder(config: Data, cache: Path) -> Source:
    root = Path(config.root)
    found = folder.find(root, config.val_fraction, config.seed)
    for line in found.left_out:
        progress.say(f"{root}: {line}")
    splits = {"train": found.train, "val": found.val}
    mask_of = {name: (tree.path(root, mask), mask) for name, mask in found.masks.items()}
    items = (
        Item(tree.path(root, name), name, split, label, mask_of.get(name))
        for split in splits
        for name, label in splits[split]
    )
    allowed = "which data.allow_duplicates allows" * config.allow_duplicates
    notes = Notes(Copies(root, cache, allowed), Summary(found.classes, cache))
    files = {split: [name for name, _ in labelled] for split, labelled in splits.items()}
    has_mask = {split: [name in mask_of for name in names] for split, names in files.items()}
    samples = _samples(_decoded(items, config.size), found.problems, root, cache, notes)
    return Source(found.classes, "folder", has_mask, files, samples, notes.summary)


class Notes(NamedTuple):
    """What is remembered of the images of a data set."""

    copies: Copies
    summary: Summary

    def add(self, item: Item, loaded: Loaded) -> None:
        """Remember an image."""
        self.copies.note(Place(item.split, item.label, item.name), loaded.sample)
        self.summary.note(item.label, Entry(item.split, item.mask is not None, loaded.sides))


Decoded = tuple[Item, Loaded | Problem]


def _decoded(items: Iterable[Item], size: int) -> Iterator[Decoded]:
    """Decode `items` in threads, in order; Pillow releases Python's lock."""

    def decoded(item: Item) -> Decoded:
        try:
            data = images.read(item.content, item.name)
            image = images.decode(data, item.name, size)
            sides = images.full_size(data, image)
        except DataError as error:
            return item, Problem(error.what, item.name)
        mask = None
        if item.mask:
            try:
                mask = masks.read(*item.mask, masks.seen(data, sides), size)
            except DataError as error:
                return item, Problem(error.what, item.mask[1])
        canvas, aspect = images.square(image, size)
        return item, Loaded(Sample(canvas, item.label, aspect, mask), sides)

    return _in_parallel(decoded, items)


def _samples(
    decoded: Iterable[Decoded], problems: list[Problem], root: Path, cache: Path, notes: Notes
) -> Iterator[tuple[str, Sample]]:
    """The samples in `decoded`; DataError at the end if there is any problem, or copies are one.

    Bad images are an error, not left out: that would be another data set. All are read before the
    error, so that it names all that is wrong.
    """
    problems = list(problems)
    for item, result in decoded:
        if isinstance(result, Problem):
            problems.append(result)
        elif not problems:
            notes.add(item, result)
            yield item.split, result.sample
    if problems:
        raise refused(problems, root, cache)
    notes.copies.check()


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
