"""The folder that `abn predict --to` writes: predictions.csv, manifest.json, overlays/.

It appears when it is complete. One that exists is replaced only if every file in it has the name
and the content that its own manifest.json says.
"""

import csv
import hashlib
import itertools
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from abn.datasets import images as decoder
from abn.inference.picture import read_bytes
from abn.inference.prediction import Prediction, drawn
from abn.inference.predictor import Answer
from abn.runtime import files
from abn.runtime.errors import DataError, DiskError
from abn.runtime.spreadsheet import escaped
from abn.version import __version__

TABLE, MANIFEST, OVERLAYS = "predictions.csv", "manifest.json", "overlays"
COLUMNS = ("file", "prediction", "confidence", "attention_prediction", "attention_confidence")
LIKENESS = ("unlike_training_data", "energy")
KNOWN = {True: "yes", False: "no", None: "unknown"}
PLACE = ("top", "left", "height", "width", "map_lowest", "map_highest")
DIGITS = 6
QUALITY = 92  # of the JPEG files
LARGEST_SIDE = 65_500  # of a JPEG, pixels
ATTENTION, CLASS = "attention", "class"
MAPS = {ATTENTION: (ATTENTION,), CLASS: (CLASS,), "both": (ATTENTION, CLASS), "none": ()}


class Job(NamedTuple):
    """What is written, and about what."""

    folder: Path
    files: Sequence[Path]
    maps: tuple[str, ...]  # that are laid over the images
    top: int  # classes of each image in the table


class Drawn(NamedTuple):
    """An answer, and what was drawn of it."""

    answer: Answer
    overlays: dict[str, tuple[Path, str]]  # name in the folder -> where it lies so far, SHA-256
    error: str | None = None  # what kept them from being drawn whole; the answer has a row


class ResultsFolder:
    """Takes answers one by one; `errors` are those of the images that could not be read.

    `part` becomes the folder. `drawing` has overlays of answers that were not taken yet: after an
    interruption some never are.
    """

    def __init__(self, job: Job, part: Path, drawing: Path) -> None:
        self.job, self.part, self.drawing = job, part, drawing
        self._numbers = itertools.count()
        self.base = common_folder(job.files)
        self.hashes: dict[str, str | None] = {}
        self.errors: dict[str, str] = {}
        self.written: dict[str, str] = {}  # name in the folder -> SHA-256
        self.table = (part / TABLE).open("w", encoding="utf-8", errors="backslashreplace")
        self.rows = csv.writer(self.table, lineterminator="\n")
        others = (f"{name}_{i}" for i in range(2, job.top + 1) for name in COLUMNS[1:3])
        overlays = (f"{name}_overlay" for name in job.maps)
        self.rows.writerow([*COLUMNS, *LIKENESS, *others, *PLACE, *overlays])

    def draw(self, answer: Answer) -> Drawn:
        """Write the overlays of an answer; several threads may do that at once."""
        overlays: dict[str, tuple[Path, str]] = {}
        if isinstance(answer.prediction, Prediction) and self.job.maps:
            try:
                with files.writing(self.job.folder):
                    for target, jpeg in self._jpegs(answer, answer.prediction):
                        file = self.drawing / f"{next(self._numbers)}.jpg"
                        file.write_bytes(jpeg)
                        overlays[target] = file, hashlib.sha256(jpeg).hexdigest()
            except DataError as error:
                return Drawn(answer, overlays, error.what)
        return Drawn(answer, overlays)

    def add(self, drawn: Drawn) -> None:
        """Write the row of an answer whose overlays are drawn."""
        answer, name = drawn.answer, str(drawn.answer.path)
        self.hashes[name] = answer.sha256
        if isinstance(answer.prediction, DataError):
            self.errors[name] = answer.prediction.what
            return
        if drawn.error:
            self.errors[name] = drawn.error
        with files.writing(self.job.folder):
            for target, (file, digest) in drawn.overlays.items():
                (self.part / target).parent.mkdir(parents=True, exist_ok=True)
                file.rename(self.part / target)
                self.written[target] = digest
            self.rows.writerow(self._row(answer.path, answer.prediction))

    def close(self, about: Mapping[str, Any]) -> None:
        """Finish the files; `about` goes into the manifest."""
        with files.writing(self.job.folder):
            self._close(about)

    def _close(self, about: Mapping[str, Any]) -> None:
        self.table.close()
        self.written[TABLE] = _digest(self.part / TABLE)
        manifest = {
            "abn": __version__,
            **about,
            "versions": versions(),
            "images": self.hashes,
            "unreadable": self.errors,
            "wrote": dict(sorted(self.written.items())),
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (self.part / MANIFEST).write_bytes(text.encode(errors="backslashreplace"))

    def _row(self, path: Path, prediction: Prediction) -> list[str]:
        best = list(prediction.classes.items())[: self.job.top]
        branch = max(prediction.attention_confidences.items(), key=lambda pair: pair[1])
        texts: list[object] = [str(path), *best[0], *branch]
        texts += [KNOWN[prediction.unlike], prediction.energy]
        texts += [part for pair in best[1:] for part in pair]
        texts += [*prediction.region, float(prediction.map.min()), float(prediction.map.max())]
        texts += [self._overlay(path, kind) for kind in self.job.maps]
        return [f"{x:.{DIGITS}f}" if isinstance(x, float) else str(escaped(x)) for x in texts]

    def _overlay(self, path: Path, kind: str) -> str:
        """The name of an overlay: that of the image, with its folders below the common one."""
        below = os.path.relpath(files.absolute(path), self.base).replace(os.sep, "/")
        return f"{OVERLAYS}/{below}.{kind}.jpg"

    def _jpegs(self, answer: Answer, said: Prediction) -> Iterator[tuple[str, bytes]]:
        """The overlays of an image, which is read again if it was not kept, by their names."""
        image, name = said.image if said.image.size else _read_again(answer), str(answer.path)
        for kind in self.job.maps:
            values = said.map if kind == ATTENTION else said.class_map
            assert values is not None
            jpeg = _jpeg(drawn(image, values, said.region, frame=True), name)
            yield self._overlay(answer.path, kind), jpeg


@contextmanager
def results_folder(job: Job) -> Iterator[ResultsFolder]:
    """A folder to add answers to and to close, in place of `job.folder` at the end of the block.

    DiskError, and nothing is touched, where the folder has what it did not write.
    """
    folder = job.folder
    require_ours(folder)
    part = files.partial(folder)
    shutil.rmtree(part, ignore_errors=True)
    whole, drawing = part / "whole", part / "drawing"
    with files.writing(folder):
        whole.mkdir(parents=True)
        drawing.mkdir()
    try:
        yield ResultsFolder(job, whole, drawing)
        require_ours(folder)
        with files.writing(folder):
            if folder.exists():
                shutil.rmtree(folder)
            files.settle(whole, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def require_ours(folder: Path) -> None:
    """DiskError unless `folder` is missing or empty, or has exactly what its manifest says."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DiskError("a link or a file, not a folder to write to", folder, "name another folder")
    files.require_not_here(folder)
    if not (folder / MANIFEST).is_file():  # not looked through: it may be a whole disk
        others = (path for path in folder.glob("*") if not files.SYSTEM.fullmatch(path.name))
        if stranger := next(others, None):
            raise _not_ours(stranger.name, folder)
        return
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not (path.is_dir() or files.SYSTEM.fullmatch(path.name))
    }
    try:
        known = json.loads((folder / MANIFEST).read_bytes())["wrote"]
        strangers = found ^ {*known, MANIFEST}
        strangers |= {name for name in known if _digest(folder / name) != known[name]}
    except (OSError, ValueError, LookupError, TypeError):
        strangers = found
    if strangers:
        raise _not_ours(min(strangers), folder)


def _not_ours(name: str, folder: Path) -> DiskError:
    what = f"not as `abn predict` wrote it ({name})"
    return DiskError(what, folder, "name another folder, or remove this one yourself")


def common_folder(paths: Sequence[Path]) -> str:
    """The deepest folder that holds all of `paths`."""
    return os.path.commonpath([files.absolute(path).parent for path in paths])


def versions() -> dict[str, str]:
    """What a result depends on beside the network and the image."""
    libraries = {"numpy": np, "opencv": cv2, "pillow": PIL, "torch": torch}
    return {"python": platform.python_version()} | {
        name: str(library.__version__) for name, library in libraries.items()
    }


def _read_again(answer: Answer) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] of an image that was answered; DataError where its file has changed."""
    data, name = read_bytes(answer.path), str(answer.path)
    if hashlib.sha256(data).hexdigest() != answer.sha256:
        raise DataError("changed while it was read", name, "run the same command again")
    return np.array(decoder.decode(data, name))


def _jpeg(pixels: NDArray[np.uint8], name: str) -> bytes:
    """`pixels` [H, W, 3] RGB as a JPEG; DataError where a side is too long for one."""
    if max(pixels.shape) > LARGEST_SIDE:
        raise DataError("a side too long for an overlay", name, "use --map none, or cut it")
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
