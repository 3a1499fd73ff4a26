"""Packed data sets: every image decoded once, on one square canvas, in one file per split.

A split is a safetensors file, filled in place and read by memory map, so that it may be larger
than memory: `images` uint8 [N, S, S, 3] RGB, `labels` int64 [N], `aspect` float32 [N] (width over
height of the original) and, where the truth is known, `masks` uint8 [N, S, S]. Its header holds one
key of JSON: the class names, where the images came from, and a digest of the tensors.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from abn.errors import UserError
from abn.rng import generator

DTYPES = {"labels": ("I64", "<i8"), "aspect": ("F32", "<f4")}  # images and masks are ("U8", "u1")


class Sample(NamedTuple):
    """One image on its canvas."""

    image: NDArray[np.uint8]  # [S, S, 3] RGB
    label: int
    aspect: float = 1.0  # width over height of the original
    mask: NDArray[np.uint8] | None = None  # [S, S]: 0 background, 1 the object, 2 distractors


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

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> "Split":
        """The samples at `index` int64 [M], copied."""
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> "Split":
        """The whole split on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Any) -> "Split":
        return dataclasses.replace(
            self,
            images=change(self.images),
            labels=change(self.labels),
            aspect=change(self.aspect),
            masks=None if self.masks is None else change(self.masks),
        )


def write(
    path: Path,
    samples: Iterable[Sample],
    count: int,
    size: int,
    classes: tuple[str, ...],
    source: str,
    masks: bool = False,
) -> None:
    """Pack `count` samples of side `size`, with masks or without; `path` appears when complete."""
    shapes: dict[str, tuple[int, ...]] = {"labels": (count,), "aspect": (count,)}
    shapes["images"] = (count, size, size, 3)
    if masks:
        shapes["masks"] = (count, size, size)
    meta = {"classes": classes, "source": source, "digest": "0" * 64}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(header := _header(shapes, meta))
    arrays = _create(part, len(header), shapes)
    for i, sample in enumerate(samples):
        arrays["labels"][i], arrays["aspect"][i] = sample.label, sample.aspect
        arrays["images"][i] = sample.image
        if masks:
            arrays["masks"][i] = sample.mask
    meta["digest"] = _digest(arrays)
    with part.open("r+b") as file:
        file.write(_header(shapes, meta))
    part.replace(path)


def read(path: Path) -> Split:
    """Map the split at `path`; UserError when it is missing or not a packed split."""
    if not path.exists():
        raise UserError(f"{path}: not found; run `dvc repro download` first")
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads(file.metadata()["abn"])
            names = ("images", "labels", "aspect")
            images, labels, aspect = (file.get_tensor(name) for name in names)
            masks = file.get_tensor("masks") if "masks" in file.keys() else None  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a packed data set ({error}); delete it, run again") from None
    classes = tuple(meta["classes"])
    return Split(images, labels, aspect, masks, classes, meta["source"], meta["digest"])


def check_classes(split: Split, classes: tuple[str, ...]) -> None:
    """UserError unless a network for `classes` fits `split`: the same names in the same order."""
    if split.classes != classes:
        ours, theirs = ", ".join(split.classes), ", ".join(classes)
        raise UserError(f"the data has classes {ours}, but the checkpoint knows {theirs}; mend one")


def hold_out(train: Split, val: Split, share: float, seed: int) -> tuple[Split, Split]:
    """What to train on, and what to watch meanwhile: `share` of every class cut from `train`.

    With no share, all of `train`, and `val`. Raises UserError where a share is less than an image.
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
        raise UserError(f"data.holdout = {share} holds out not one image; give a larger share")
    return train.take((~held).nonzero()[:, 0]), train.take(held.nonzero()[:, 0])


def _header(shapes: dict[str, tuple[int, ...]], meta: dict[str, Any]) -> bytes:
    """The safetensors header: its length, then JSON padded so that the tensors are aligned."""
    entries: dict[str, Any] = {"__metadata__": {"abn": json.dumps(meta, sort_keys=True)}}
    offset = 0
    for name, shape in shapes.items():
        dtype, numpy_dtype = DTYPES.get(name, ("U8", "u1"))
        end = offset + math.prod(shape) * np.dtype(numpy_dtype).itemsize
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _create(path: Path, offset: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Writable maps of the tensors that follow the header in `path`, which grows to hold them."""
    arrays = {}
    for name, shape in shapes.items():
        dtype = DTYPES.get(name, ("U8", "u1"))[1]
        array = np.memmap(path, dtype, "r+", offset, shape)
        offset += array.nbytes
        arrays[name] = array
    return arrays


def _digest(arrays: dict[str, Any]) -> str:
    """SHA-256 over the tensors in file order."""
    sha = hashlib.sha256()
    for array in arrays.values():
        for row in range(0, len(array), 4096):
            sha.update(array[row : row + 4096].tobytes())
    return sha.hexdigest()
