"""Packed data sets: every image decoded once, on one square canvas, in one file per split.

A split is a safetensors file, written as samples come and read by memory map, so that it may be
larger than memory: `images` uint8 [N, S, S, 3] RGB, `labels` int64 [N], `aspect` float32 [N] (width
over height of the original) and, where the truth is known, `masks` uint8 [N, S, S]. Its header
holds one key of JSON: the class names, where the images came from, and a digest of the tensors.
"""

import dataclasses
import hashlib
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from abn.runtime import files
from abn.runtime.errors import DataError, ParamsError
from abn.runtime.rng import generator

PIXELS = ("images", "masks")
DTYPES = {"labels": ("I64", "<i8"), "aspect": ("F32", "<f4")} | dict.fromkeys(PIXELS, ("U8", "u1"))


class Sample(NamedTuple):
    """One image on its canvas."""

    image: NDArray[np.uint8]  # [S, S, 3] RGB
    label: int
    aspect: float = 1.0  # width over height of the original
    mask: NDArray[np.uint8] | None = None  # [S, S]: 0 background, 1 object, 2 distractors, 3 patch


@dataclass(frozen=True)
class Split:
    """A split, mapped from its file or in memory."""

    images: Tensor  # uint8 [N, S, S, 3]
    labels: Tensor  # int64 [N]
    aspect: Tensor  # float32 [N]
    masks: Tensor | None  # uint8 [N, S, S]
    classes: tuple[str, ...]
    source: str
    digest: str
    rows: Tensor | None = None  # int64 [M]: the images that belong to it, where not all do

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor) -> "Split":
        """The samples at `index` int64 [M]; their images and masks stay where they are."""
        rows = index if self.rows is None else self.rows[index]
        return dataclasses.replace(
            self, labels=self.labels[index], aspect=self.aspect[index], rows=rows
        )

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

    def to(self, device: torch.device) -> "Split":
        """All samples of this split, without their masks, on `device`."""
        images = self.images if self.rows is None else self.images[self.rows]
        return dataclasses.replace(
            self,
            images=images.to(device),
            labels=self.labels.to(device),
            aspect=self.aspect.to(device),
            masks=None,
            rows=None,
        )


class Writer:
    """Packs `count` samples of side `size`, in their order; `path` appears when it is closed."""

    def __init__(
        self,
        path: Path,
        count: int,
        size: int,
        classes: tuple[str, ...],
        source: str,
        masks: bool = False,
    ) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self.shapes: dict[str, tuple[int, ...]] = {"labels": (count,), "aspect": (count,)}
        self.shapes["images"] = (count, size, size, 3)
        if masks:
            self.shapes["masks"] = (count, size, size)
        self.meta = {"classes": classes, "source": source, "digest": "0" * 64}
        self.labels: list[int] = []
        self.aspect: list[float] = []
        self.pixels = {name: hashlib.sha256() for name in self.shapes if name in PIXELS}
        path.parent.mkdir(parents=True, exist_ok=True)
        header, self.offsets, self.size = _header(self.shapes, self.meta)
        self.file = self.part.open("wb")
        self.file.write(header)

    def add(self, sample: Sample) -> None:
        """Append `sample`."""
        for name, sha in self.pixels.items():
            array = sample.image if name == "images" else sample.mask
            pixels = np.ascontiguousarray(array, np.uint8).data
            self.file.seek(self.offsets[name] + len(self.labels) * pixels.nbytes)
            self.file.write(pixels)
            sha.update(pixels)
        self.labels.append(sample.label)
        self.aspect.append(sample.aspect)

    def close(self) -> None:
        """Complete the file; ValueError unless as many samples came as were announced."""
        if len(self.labels) != self.shapes["labels"][0]:
            raise ValueError(f"{len(self.labels)} samples for {self.shapes['labels'][0]} places")
        whole = hashlib.sha256()
        for name, values in (("labels", self.labels), ("aspect", self.aspect)):
            content = np.array(values, DTYPES[name][1]).tobytes()
            self.file.seek(self.offsets[name])
            self.file.write(content)
            whole.update(content)
        for sha in self.pixels.values():
            whole.update(sha.digest())
        self.meta["digest"] = whole.hexdigest()
        self.file.seek(0)
        self.file.write(_header(self.shapes, self.meta)[0])
        self.file.close()
        files.settle(self.part, self.path)

    def discard(self) -> None:
        """Leave nothing of a file that was not completed."""
        with suppress(OSError):  # what could not be written before cannot be written now either
            self.file.close()
        self.part.unlink(missing_ok=True)


def read(path: Path) -> Split:
    """Map the split at `path`; DataError when it is missing or not a packed split."""
    if not path.exists():
        raise DataError("not found", path, "run `dvc repro download` first")
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads(file.metadata()["abn"])
            names = ("images", "labels", "aspect")
            images, labels, aspect = (file.get_tensor(name) for name in names)
            masks = file.get_tensor("masks") if "masks" in file.keys() else None  # noqa: SIM118  # no dict
        about = tuple(meta["classes"]), meta["source"], meta["digest"]
        return _sound(Split(images, labels, aspect, masks, *about))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"not a packed data set ({error})", path, "delete it, run again") from None


def _sound(split: Split) -> Split:
    """`split`; ValueError where its tensors or its words do not fit together."""
    count, side = (*split.images.shape, 0, 0)[:2]
    layout = [
        (split.images, (count, side, side, 3), torch.uint8),
        (split.masks, (count, side, side), torch.uint8),
        (split.labels, (count,), torch.int64),
        (split.aspect, (count,), torch.float32),
    ]
    for tensor, shape, dtype in layout:
        if tensor is not None and (tensor.shape, tensor.dtype) != (shape, dtype):
            raise ValueError("tensors of shapes or types that do not fit together")
    if not count or not 0 <= split.labels.min() <= split.labels.max() < len(split.classes):
        raise ValueError("no labels, or labels without a class")
    if not (split.aspect.isfinite() & (split.aspect > 0)).all():
        raise ValueError("an image of no width or height")
    words = (*split.classes, split.source, split.digest)
    if not all(isinstance(word, str) for word in words) or not all(split.classes):
        raise ValueError("names that are no words")
    if len(set(split.classes)) < len(split.classes):
        raise ValueError("a class twice")
    return split


def check_classes(split: Split, classes: tuple[str, ...]) -> None:
    """DataError unless a network for `classes` fits `split`: the same names in the same order."""
    if split.classes != classes:
        ours, theirs = ", ".join(split.classes), ", ".join(classes)
        raise DataError(f"the data has classes {ours}", f"a checkpoint of {theirs}", "mend one")


def hold_out(train: Split, val: Split, share: float, seed: int) -> tuple[Split, Split]:
    """What to train on, and what to watch meanwhile: `share` of every class cut from `train`.

    With no share, all of `train`, and `val`. Raises ParamsError where that is not one image.
    """
    if not share:
        return train, val
    held = torch.zeros(len(train), dtype=torch.bool)
    for label in range(len(train.classes)):
        members = (train.labels == label).nonzero()[:, 0]
        draws = generator(seed, "holdout", label)
        order = torch.randperm(len(members), generator=draws)
        held[members[order[: round(share * len(members))]]] = True
    if not held.any():
        where = f"data.holdout = {share}"
        raise ParamsError("holds out not one image", where, "give a larger share")
    return train.subset((~held).nonzero()[:, 0]), train.subset(held.nonzero()[:, 0])


def _header(
    shapes: dict[str, tuple[int, ...]], meta: dict[str, Any]
) -> tuple[bytes, dict[str, int], int]:
    """The safetensors header, where in the file each tensor begins, and the size of the file.

    It is its own length, then JSON, padded so that the tensors are aligned.
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
