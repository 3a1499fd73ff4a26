"""Predict with a trained network: image in, classes, confidences and map out.

Needs the core packages only. Images are shown to the network as the training showed those it
validated on: squashed to the canvas that they were packed on, then the central square that is
`train.val_size` wide where the short side is `train.val_resize`.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from abn.data.crop import centre_boxes
from abn.data.loader import CenterCrop, transform
from abn.inference.picture import ImageLike, Picture, read_file, read_image
from abn.inference.prediction import Prediction
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork, Trace
from abn.predict import energy
from abn.runtime import device as devices
from abn.runtime.errors import DataError

S = TypeVar("S")
T = TypeVar("T")
BATCH = 16  # images at once; on a CPU, of each thread
THREADS = min(8, os.cpu_count() or 1)  # that read, decode and draw
Read: TypeAlias = tuple[Path, str | None, Picture | DataError]  # a file, its digest, its content


class Answer(NamedTuple):
    """What `Predictor.stream` says of one file."""

    path: Path
    sha256: str | None  # of the file; None: it cannot be read at all
    prediction: Prediction | DataError  # the error where it is no image


class Predictor:
    """A trained network, its classes, and how it is shown images."""

    def __init__(
        self,
        network: AttentionBranchNetwork,
        classes: tuple[str, ...],
        size: int,
        resize: int,
        device: torch.device,
        canvas: int | None = None,
        path: Path | None = None,
        arch: str | None = None,
        unlike_below: float | None = None,
    ) -> None:
        self.network, self.classes, self.device = network.eval(), classes, device
        self.path, self.arch = path, arch  # of the checkpoint
        self.size, self.resize = size, resize  # pixels: side of the crop, short side before it
        self.threads_answer = device.type == "cpu"  # in `stream`; else they only decode
        self.canvas = canvas  # pixels; None: not known, the image itself is cropped
        self.unlike_below = unlike_below  # an energy score; None: not known

    @overload  # a path is one image, though text is iterable
    def predict(  # type: ignore[overload-overlap]
        self, images: ImageLike, top: int = ...
    ) -> Prediction: ...

    @overload
    def predict(self, images: Iterable[ImageLike], top: int = ...) -> list[Prediction]: ...

    def predict(
        self, images: ImageLike | Iterable[ImageLike], top: int = 5
    ) -> Prediction | list[Prediction]:
        """The prediction for one image, or a list of them for several, with `top` classes each.

        Raises DataError, naming the image, where one cannot be read, and ValueError for a `top`
        below 1.
        """
        if not isinstance(top, int) or top < 1:
            raise ValueError(f"top is {top!r}, not a whole number of classes from 1")
        alone = isinstance(images, str | os.PathLike | bytes | Image.Image)
        if alone or not isinstance(images, Iterable) or getattr(images, "ndim", 4) != 4:
            return self.answer([self.read(images)], top)[0]
        predictions: list[Prediction] = []
        pictures = map(self.read, images)
        while batch := list(islice(pictures, BATCH)):
            predictions += self.answer(batch, top)
        return predictions

    @overload
    def stream(self, paths: Iterable[Path], top: int = ...) -> Iterator[Answer]: ...

    @overload
    def stream(
        self, paths: Iterable[Path], top: int, then: Callable[[Answer], T]
    ) -> Iterator[T]: ...

    def stream(
        self, paths: Iterable[Path], top: int = 5, then: Callable[[Answer], object] = lambda a: a
    ) -> Iterator[object]:
        """The answer for each file, in order, with `top` classes each; or what `then` makes of it.

        On a CPU each thread decodes, answers and finishes (`then`) batches by itself: threads that
        share one forward wait for one another. On a GPU they decode, a few batches ahead of the
        network, and others finish. No prediction is kept, and its image only up to `picture.KEPT`
        pixels, so any number of files takes the same memory.
        """

        def read(batch: list[Path]) -> list[Read]:
            return [(path, *read_file(path, self.canvas)) for path in batch]

        def answer(reads: list[Read]) -> list[Answer]:
            return self._answers(reads, top)

        def all_of(batch: list[Path]) -> list[object]:
            return [then(each) for each in answer(read(batch))]

        cores, threads = torch.get_num_threads(), THREADS
        if self.threads_answer:  # each with as many cores
            threads = max(n for n in range(1, min(THREADS, cores) + 1) if cores % n == 0)
        share = max(1, cores // threads)
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(share,))
        finishing = ThreadPoolExecutor(threads)
        size = BATCH if self.canvas else 1  # images of a batch; without a canvas they are whole
        batches = _in_batches(iter(paths), threads, size)
        try:
            if self.threads_answer:
                yield from chain.from_iterable(_in_order(pool, all_of, batches, threads))
            else:
                answers = map(answer, _in_order(pool, read, batches, threads))
                whole = chain.from_iterable(answers)
                yield from _in_order(finishing, then, whole, 2 * threads)
        finally:
            pool.shutdown(cancel_futures=True)
            finishing.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # for threads that begin later

    def _answers(self, reads: list[Read], top: int) -> list[Answer]:
        pictures = [found for _, _, found in reads if isinstance(found, Picture)]
        predictions = iter(self.answer(pictures, top) if pictures else [])
        return [
            Answer(path, digest, found if isinstance(found, DataError) else next(predictions))
            for path, digest, found in reads
        ]

    def decide(self, image: ImageLike, attention: NDArray[np.float32], top: int = 5) -> Prediction:
        """The prediction for one image with `attention` in the place of the network's own map.

        `attention` [h, w], as `grid` says, in [0, 1]. The attention branch's confidences stay what
        they are: they do not depend on the map (Mitsuhara et al., 1905.03540). Raises DataError for
        any other map.
        """
        self.check_map(attention)
        return self.answer([self.read(image)], top, [attention])[0]

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        dark = torch.zeros(1, 3, self.size, self.size, device=self.device)
        with torch.inference_mode():
            rows, columns = self.network(dark).attention.shape[2:]
        return rows, columns

    def check_map(self, attention: NDArray[np.float32]) -> None:
        """DataError unless `attention` can stand in the place of the network's map."""
        if attention.shape != self.grid or not ((attention >= 0) & (attention <= 1)).all():
            what = "a map of {} x {} cells in 0 to 1 is needed".format(*self.grid)
            given = " x ".join(map(str, attention.shape))
            raise DataError(what, f"a map of {given}", "give every cell a value")

    def read(self, image: object) -> Picture:
        """`image` at full size and on this network's canvas; DataError where it is none."""
        return read_image(image, self.canvas)

    @torch.inference_mode()
    def answer(
        self,
        pictures: Sequence[Picture],
        top: int = 5,
        edited: Sequence[NDArray[np.float32] | None] = (),
    ) -> list[Prediction]:
        """Predictions for `pictures` in one batch, each under its map in `edited` if any."""
        trace = self._trace(self._views(pictures), edited)
        output = trace.output()
        perception, attention = (
            self._best(logits, top) for logits in (output.logits, output.attention_logits)
        )
        energies = energy(output.logits).tolist()
        own = [given is None for given in edited] or [True] * len(pictures)
        labels = output.logits.argmax(1).view(-1, 1, 1, 1)
        of_label = trace.class_maps.take_along_dim(labels, 1)
        maps, class_maps = (
            values[:, 0].float().cpu().numpy() for values in (output.attention, of_label)
        )
        return [
            Prediction(
                perception[i],
                attention[i],
                maps[i],
                picture.pixels,
                self._region(picture),
                class_maps[i],
                energies[i],
                self._unlike(energies[i]) if own[i] else None,
            )
            for i, picture in enumerate(pictures)
        ]

    def _unlike(self, score: float) -> bool | None:
        return None if self.unlike_below is None else score < self.unlike_below

    def _trace(self, views: Tensor, maps: Sequence[NDArray[np.float32] | None]) -> Trace:
        """`network.trace`, with each of `maps` that is not None in place of the network's own."""
        features = self.network.features(views)
        class_maps, attention = self.network.attention_branch(features)
        for own, other in zip(attention, maps, strict=False):
            if other is not None:
                own[0] = torch.from_numpy(other)
        logits = self.network.perception_branch(self.network.attend(views, features, attention))
        return Trace(features, class_maps, attention, logits)

    def view(self, picture: Picture) -> Tensor:
        """`picture` as the network sees it: float32 [1, 3, size, size] in [0, 1]."""
        return self._shown([picture])

    def _views(self, pictures: Sequence[Picture]) -> Tensor:
        """`pictures` as the network sees them: float32 [B, 3, size, size] in [0, 1]."""
        if self.canvas is None:  # they differ in shape, and may be large
            return torch.cat([self.view(picture) for picture in pictures])
        return self._shown(pictures)

    def _shown(self, pictures: Sequence[Picture]) -> Tensor:
        """The views of `pictures` whose canvases have one shape."""
        canvases = torch.from_numpy(np.stack([picture.canvas for picture in pictures]))
        aspect = torch.tensor([picture.aspect for picture in pictures])
        view = CenterCrop(self.size, self.resize)
        return transform(canvases.to(self.device), aspect, view)

    def _box(self, picture: Picture) -> Tensor:
        """The central square [1, 4]: top, left, height and width as shares of the picture."""
        return centre_boxes(torch.tensor([picture.aspect]), self.size / self.resize)

    def _region(self, picture: Picture) -> tuple[int, int, int, int]:
        """`_box` in whole pixels."""
        height, width = picture.size
        box = self._box(picture)[0] * torch.tensor([height, width] * 2)
        top, left, tall, wide = box.tolist()
        begin, end = (round(top), round(left)), (round(top + tall), round(left + wide))
        return begin[0], begin[1], end[0] - begin[0], end[1] - begin[1]

    def _best(self, logits: Tensor, top: int) -> list[dict[str, float]]:
        """For each row of `logits` the `top` most confident classes and their confidences."""
        shares, labels = logits.float().softmax(1).topk(min(top, len(self.classes)))
        rows = zip(labels.tolist(), shares.tolist(), strict=True)
        return [
            {self.classes[label]: share for label, share in zip(*row, strict=True)} for row in rows
        ]


def load(path: str | os.PathLike[str], device: str | torch.device | None = None) -> Predictor:
    """The network in the checkpoint at `path`, on `device` (by default a GPU if there is one).

    `path` may be hf://USER/REPO, which the Hub's cache has after the first time. Raises DataError
    where the file is missing or not a checkpoint of this project, DeviceError where there is no
    such device, HubError where the Hub cannot give it.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = devices.open_device(name, f"device={name}")
    if str(path).startswith("hf://"):
        from abn.inference import hub  # here: it needs the extra `hub`

        path = hub.fetch(str(path))
    trained = checkpoint.load(Path(path), place)
    view = *checkpoint.validated(trained, str(path)), place, trained.canvas
    about = Path(path), trained.arch, trained.unlike_below
    return Predictor(trained.model, trained.classes, *view, *about)


def _in_batches(paths: Iterator[Path], threads: int, most: int) -> Iterator[list[Path]]:
    """`paths` in batches of at most `most`; the last are of one size, one for each thread."""
    while some := list(islice(paths, threads * most)):
        size = math.ceil(len(some) / threads)
        yield from (some[start : start + size] for start in range(0, len(some), size))


def _in_order(
    pool: Executor, work: Callable[[S], T], items: Iterator[S], ahead: int
) -> Iterator[T]:
    """`work` of each of `items`, in order; at most `ahead` beyond the one that is waited for."""
    waiting = deque(pool.submit(work, item) for item in islice(items, ahead + 1))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(work, item) for item in islice(items, 1))
        yield result
