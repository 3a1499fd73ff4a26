"""Packed data sets: every image decoded once, on one square canvas, in one file per split.

A split is a safetensors file, written sample by sample and read by memory map, so that it may be
larger than memory: `images` uint8 [N, S, S, 3] RGB, `labels` int64 [N], `aspect` float32 [N] (width
over height of the original), where they are known `masks` uint8 [N, S, S], where only some images
have one `masked` uint8 [N] (1: has one; a mask that is not known is 0 everywhere), and `files`: the
N names of the images, UTF-8 with a zero byte between two. Its header has one key, `abn`, of JSON:
the class names, where the images came from, and a digest of the tensors without the names.
"""

import dataclasses
import hashlib
import json
import math
import mmap
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from abn.runtime.errors import DataError, ParamsError
from abn.runtime.files import partial, settle
from abn.runtime.rng import generator

PIXELS = ("images", "masks")
BYTES = (*PIXELS, "masked", "files")
OBJECT = 1  # in the masks
DTYPES = {"labels": ("I64", "<i8"), "aspect": ("F32", "<f4")} | dict.fromkeys(BYTES, ("U8", "u1"))


class Sample(NamedTuple):
    """One image on its canvas."""

    image: NDArray[np.uint8]  # [S, S, 3] RGB
    label: int
    aspect: float = 1.0  # width over height of the original
    mask: NDArray[np.uint8] | None = None  # [S, S]: 0 background, 1 object, 2 distractors, 3 patch


@dataclass(frozen=True)
class Split:
    """A split, memory-mapped from its file or in memory."""

    images: Tensor  # uint8 [N, S, S, 3]
    labels: Tensor  # int64 [N]
    aspect: Tensor  # float32 [N]
    masks: Tensor | None  # uint8 [N, S, S]
    classes: tuple[str, ...]
    source: str
    digest: str
    files: tuple[str, ...]  # N names: below data.root, in the archive, or split/index of a shape
    rows: Tensor | None = None  # int64 [M]: the rows of images and masks that belong to a subset
    masked: Tensor | None = None  # bool [N]: which of the masks are known; None: all of them

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_mask(self) -> Tensor:
        """Which images have a mask, bool [N]."""
        if self.masks is None or self.masked is None:
            return torch.full((len(self),), self.masks is not None)
        return self.masked

    def subset(self, index: Tensor) -> "Split":
        """The samples at `index` int64 [M]; their images and masks stay where they are."""
        rows = index if self.rows is None else self.rows[index]
        files = tuple(self.files[i] for i in index.tolist())
        masked = None if self.masked is None else self.masked[index.cpu()]
        part = dataclasses.replace(self, labels=self.labels[index], aspect=self.aspect[index])
        return dataclasses.replace(part, files=files, rows=rows, masked=masked)

    def take(self, index: Tensor) -> "Split":
        """The samples at `index` int64 [M], copied."""
        part = self.subset(index)
        assert part.rows is not None
        return dataclasses.replace(
            part,
            images=part.images[part.rows],
            masks=None if part.masks is None else part.masks[part.rows],
            rows=None,
        )

    def without_masks(self) -> "Split":
        """The same samples; their masks are then neither read nor moved."""
        return dataclasses.replace(self, masks=None, masked=None)

    def to(self, device: torch.device) -> "Split":
        """The samples of this split, masks included, on `device`."""
        part = self if self.rows is None else self.take(torch.arange(len(self)))
        tensors = {name: getattr(part, name) for name in ("images", "labels", "aspect", "masks")}
        moved = {name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None}
        return dataclasses.replace(part, **moved)


class Writer:
    """Writes a sample of side `size` for each name in `files`, in order.

    `masks` says whether the samples have masks, or of each one whether it has. `path` appears only
    when it is closed.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[str],
        size: int,
        classes: tuple[str, ...],
        source: str,
        masks: bool | Sequence[bool] = False,
    ) -> None:
        self.path, self.part = path, partial(path)
        count, names = len(files), "\0".join(files).encode()
        masked = [masks] * count if isinstance(masks, bool) else masks
        self.shapes: dict[str, tuple[int, ...]] = {"labels": (count,), "aspect": (count,)}
        self.shapes["images"] = (count, size, size, 3)
        if any(masked):
            self.shapes["masks"] = (count, size, size)
        if any(masked) and not all(masked):
            self.shapes["masked"] = (count,)
        self.shapes["files"] = (len(names),)
        self.meta = {"classes": classes, "source": source, "digest": "0" * 64}
        self.labels: list[int] = []
        self.aspect: list[float] = []
        self.digests = {name: hashlib.sha256() for name in self.shapes if name in PIXELS}
        path.parent.mkdir(parents=True, exist_ok=True)
        header, self.offsets, self.size = _header(self.shapes, self.meta)
        self.file = self.part.open("wb")
        self.file.write(header)
        for name, content in (("masked", bytes(masked)), ("files", names)):
            if name in self.shapes:
                self.file.seek(self.offsets[name])
                self.file.write(content)

    def add(self, sample: Sample) -> None:
        """Append `sample`."""
        for name, digest in self.digests.items():
            array = sample.image if name == "images" else sample.mask
            if array is None:
                array = np.zeros(self.shapes[name][1:], np.uint8)
            pixels = np.ascontiguousarray(array, np.uint8).data
            self.file.seek(self.offsets[name] + len(self.labels) * pixels.nbytes)
            self.file.write(pixels)
            digest.update(pixels)
        self.labels.append(sample.label)
        self.aspect.append(sample.aspect)

    def close(self) -> None:
        """Complete the file; ValueError unless all samples were added."""
        (count,) = self.shapes["labels"]
        if len(self.labels) != count:
            raise ValueError(f"{len(self.labels)} samples were added, not {count}")
        digest = hashlib.sha256()
        for name, values in (("labels", self.labels), ("aspect", self.aspect)):
            content = np.array(values, DTYPES[name][1]).tobytes()
            self.file.seek(self.offsets[name])
            self.file.write(content)
            digest.update(content)
        for pixels in self.digests.values():
            digest.update(pixels.digest())
        self.meta["digest"] = digest.hexdigest()
        self.file.seek(0)
        self.file.write(_header(self.shapes, self.meta)[0])
        self.file.close()
        settle(self.part, self.path)

    def discard(self) -> None:
        """Remove the file if it was not completed."""
        with suppress(OSError):  # closing writes what is buffered, which may not fit on the disk
            self.file.close()
        self.part.unlink(missing_ok=True)


def read(path: Path) -> Split:
    """Map the split at `path`; DataError when it is missing or not a packed split."""
    if not path.exists():
        raise DataError("not found", path, "run `dvc repro download` first")
    try:
        with safe_open(path, framework="numpy") as file:
            meta, there = json.loads(file.metadata()["abn"]), set(file.keys())
            labels, aspect = (torch.from_numpy(file.get_tensor(x)) for x in ("labels", "aspect"))
            files = tuple(file.get_tensor("files").tobytes().decode().split("\0"))
            masked = torch.from_numpy(file.get_tensor("masked")) if "masked" in there else None
        pixels = _mapped(path)
        about = tuple(meta["classes"]), meta["source"], meta["digest"]
        parts = pixels["images"], labels, aspect, pixels.get("masks")
        split = Split(*parts, *about, files, masked=None if masked is None else masked.bool())
        _check(split)
        return split
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        what = f"not a packed data set ({error})"
        raise DataError(what, path, "delete it and run `dvc repro download`") from None


def _mapped(path: Path) -> dict[str, Tensor]:
    """Images and masks of the sound safetensors file at `path`, by name; not to be written to.

    Nothing is read before it is used. safetensors would map the file as one that may be changed in
    memory, which Linux refuses where it is larger than the memory of the machine.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    found = {}
    for name in entries.keys() & set(PIXELS):
        if entries[name]["dtype"] != "U8":
            raise ValueError(f"{name} that are no bytes")
        start, end = entries[name]["data_offsets"]
        with warnings.catch_warnings(action="ignore"):  # of torch, that it is not to be written to
            place = {"count": end - start, "offset": 8 + size + start}
            flat = torch.frombuffer(content, dtype=torch.uint8, **place)
        found[name] = flat.view(entries[name]["shape"])
    return found


def _check(split: Split) -> None:
    """ValueError if the tensors of `split` do not fit together."""
    count, side = (*split.images.shape, 0, 0)[:2]
    layout = [
        (split.images, (count, side, side, 3), torch.uint8),
        (split.masks, (count, side, side), torch.uint8),
        (split.labels, (count,), torch.int64),
        (split.aspect, (count,), torch.float32),
        (split.masked, (count,), torch.bool),
    ]
    for tensor, shape, dtype in layout:
        if tensor is not None and (tensor.shape, tensor.dtype) != (shape, dtype):
            raise ValueError("tensors whose shapes or types do not fit together")
    if not count or not 0 <= split.labels.min() <= split.labels.max() < len(split.classes):
        raise ValueError("no labels, or labels that are not a class")
    if len(split.files) != count:
        raise ValueError("not a name for each image")
    if not (split.aspect.isfinite() & (split.aspect > 0)).all():
        raise ValueError("an aspect that is not positive")


def hold_out(train: Split, val: Split, share: float, seed: int) -> tuple[Split, Split]:
    """What to train on and what to validate on meanwhile: `share` of every class of `train`.

    With share 0: all of `train`, and `val`. Raises ParamsError if the share is not one image.
    """
    if not share:
        return train, val
    is_held = torch.zeros(len(train), dtype=torch.bool)
    for label in range(len(train.classes)):
        members = (train.labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator(seed, "holdout", label))
        is_held[members[order[: round(share * len(members))]]] = True
    if not is_held.any():
        raise ParamsError("no image to hold out", f"data.holdout = {share}", "give a larger share")
    return train.subset((~is_held).nonzero()[:, 0]), train.subset(is_held.nonzero()[:, 0])


def _header(
    shapes: dict[str, tuple[int, ...]], meta: dict[str, Any]
) -> tuple[bytes, dict[str, int], int]:
    """The safetensors header, the place of each tensor in the file, and the size of the file.

    The header is its own length, then JSON, padded with spaces so that the tensors are aligned.
    """
    entries: dict[str, Any] = {"__metadata__": {"abn": json.dumps(meta, sort_keys=True)}}
    begin, starts = 0, {}
    for name, shape in shapes.items():
        dtype, numpy_dtype = DTYPES[name]
        end = begin + math.prod(shape) * np.dtype(numpy_dtype).itemsize
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        starts[name], begin = begin, end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    offsets = {name: len(header) + start for name, start in starts.items()}
    return header, offsets, len(header) + begin
