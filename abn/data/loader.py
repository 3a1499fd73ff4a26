"""Batches of a packed split as the network wants them: float images in [0, 1] on the device."""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from abn.data.crop import centre_boxes, crop
from abn.data.packed import Split
from abn.runtime import progress

RESIDENT = 0.5  # a split up to this share of a GPU's free memory is moved there


class Batch(NamedTuple):
    """B images and their classes."""

    images: Tensor  # float [B, 3, H, W] in [0, 1], channels last in memory
    targets: Tensor  # float32 [B, K]: the share of each class, a row sums to 1
    # float32 [B, 1, H, W]: the share of each pixel that the object covers, all NaN in an image
    # whose mask is not known. None: no mask is used in this training.
    masks: Tensor | None = None


class Fetched(NamedTuple):
    """B images of a split as they are packed, on the device."""

    rows: Tensor  # int64 [B]: where they are in the split
    canvases: Tensor  # uint8 [B, S, S, 3]
    labels: Tensor  # int64 [B]
    masks: Tensor | None  # uint8 [B, S, S], where the split has masks


class CenterCrop(NamedTuple):
    """Resize so that the short side is `resize`, aspect kept; then cut the centre out."""

    size: int  # side of the crop, pixels
    resize: int  # short side of the resized image, pixels


def to_device_if_fits(split: Split, device: torch.device) -> Split:
    """`split` on `device` if that is a GPU with ample room for it, else as it is."""
    if device.type != "cuda":
        return split
    free = torch.cuda.mem_get_info(device)[0]
    pixels = [part[0].nbytes for part in (split.images, split.masks) if part is not None]
    needed = len(split) * sum(pixels)
    fits = needed <= RESIDENT * free
    place = "resident on the device" if fits else "streamed from the file"
    progress.say(f"{len(split)} images, {needed / 1e9:.2f} of {free / 1e9:.1f} GB free: {place}")
    return split.to(device) if fits else split


def iterate(split: Split, order: Tensor, device: torch.device) -> Iterator[Fetched]:
    """The images at each row of `order` int64 [steps, B], on `device`.

    Canvases and masks that are not on the GPU are read from the file by a thread, one batch ahead,
    and copied while the GPU computes.
    """
    labels = split.labels.to(device)
    if not len(order):
        return
    if split.images.device.type == "cuda":
        for index in order.to(device):
            masks = None if split.masks is None else split.masks.index_select(0, index)
            yield Fetched(index, split.images.index_select(0, index), labels[index], masks)
        return
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(_fetch, split, order[0], device, side)
        for step, index in enumerate(order.to(device)):
            pixels, arrived = ahead.result()
            if step + 1 < len(order):
                ahead = thread.submit(_fetch, split, order[step + 1], device, side)
            if arrived is not None:
                torch.cuda.current_stream(device).wait_event(arrived)
                for part in pixels:
                    part.record_stream(torch.cuda.current_stream(device))
            yield Fetched(index, pixels[0], labels[index], pixels[1] if pixels[1:] else None)


def evaluation(
    split: Split, view: CenterCrop, batch_size: int, device: torch.device, mirrored: bool = False
) -> Iterator[Tensor]:
    """Every image once, in order, through `view`; `mirrored` swaps left and right."""
    split, index, rest = split.without_masks(), torch.arange(len(split)), len(split) % batch_size
    full = len(split) - rest
    for order in (index[:full].view(-1, batch_size), index[full:].view(-1, max(rest, 1))):
        for fetched in iterate(split, order, device):
            aspect = split.aspect[fetched.rows.to(split.aspect.device)]
            yield transform(fetched.canvases, aspect, view, mirrored)


def transform(canvases: Tensor, aspect: Tensor, view: CenterCrop, mirrored: bool = False) -> Tensor:
    """Canvases uint8 [B, S, S, 3] through `view`: float32 [B, 3, size, size] in [0, 1].

    Channels last in memory, which convolutions are fastest on.
    """
    boxes = centre_boxes(aspect.to(canvases.device), view.size / view.resize)
    mirror = torch.full((len(canvases),), mirrored, device=canvases.device)
    images = crop(canvases, boxes, mirror, view.size)
    return images.contiguous(memory_format=torch.channels_last)


def _fetch(
    split: Split, index: Tensor, device: torch.device, side: torch.cuda.Stream | None
) -> tuple[list[Tensor], torch.cuda.Event | None]:
    """Canvases at `index`, and masks if any; with a stream `side`, the event of their arrival."""
    rows = index if split.rows is None else split.rows[index]
    parts = [part for part in (split.images, split.masks) if part is not None]
    pixels = [_taken(part, rows, pinned=side is not None) for part in parts]
    if side is None:
        return pixels, None
    with torch.cuda.stream(side):
        return [part.to(device, non_blocking=True) for part in pixels], side.record_event()


def _taken(part: Tensor, rows: Tensor, pinned: bool) -> Tensor:
    """The `rows` of `part`, images or masks, copied from the file."""
    pixels = torch.empty((len(rows), *part.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
    _prefetch(part, rows)
    # NumPy copies on this thread alone; torch would start one per core.
    np.take(part.numpy(), rows.numpy(), axis=0, out=pixels.numpy(), mode="clip")
    return pixels


def _prefetch(part: Tensor, rows: Tensor) -> None:
    """On Linux, ask for exactly these `rows` of a mapped file to be read now.

    A page fault would also read the disk's read-ahead: perhaps 8 MB for an image of 0.2 MB.
    """
    if sys.platform != "linux":
        return
    madvise, size = ctypes.CDLL(None).madvise, part[0].nbytes
    for row in rows.tolist():
        start = part.data_ptr() + row * size
        before = start % mmap.PAGESIZE  # madvise takes whole pages
        pages = ctypes.c_void_p(start - before), ctypes.c_size_t(before + size)
        madvise(*pages, mmap.MADV_WILLNEED)
