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


def iterate(
    split: Split, order: Tensor, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each row of `order` int64 [steps, B]: the row, its canvases and its labels, on `device`.

    Canvases uint8 [B, S, S, 3] that are not on the GPU are read from the file by a thread, one
    batch ahead, and copied while the GPU computes.
    """
    labels = split.labels.to(device)
    if not len(order):
        return
    if split.images.device.type == "cuda":
        for index in order.to(device):
            yield index, split.images.index_select(0, index), labels[index]
        return
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(_fetch, split, order[0], device, side)
        for step, index in enumerate(order.to(device)):
            canvases, arrived = ahead.result()
            if step + 1 < len(order):
                ahead = thread.submit(_fetch, split, order[step + 1], device, side)
            if arrived is not None:
                torch.cuda.current_stream(device).wait_event(arrived)
                canvases.record_stream(torch.cuda.current_stream(device))
            yield index, canvases, labels[index]


def evaluation(
    split: Split, view: CenterCrop, batch_size: int, device: torch.device, mirrored: bool = False
) -> Iterator[Tensor]:
    """Every image once, in order, through `view`; `mirrored` swaps left and right."""
    index, rest = torch.arange(len(split)), len(split) % batch_size
    full = len(split) - rest
    for order in (index[:full].view(-1, batch_size), index[full:].view(-1, max(rest, 1))):
        for rows, canvases, _ in iterate(split, order, device):
            yield transform(canvases, split.aspect[rows.to(split.aspect.device)], view, mirrored)


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
) -> tuple[Tensor, torch.cuda.Event | None]:
    """The canvases at `index` on `device`, and with a stream `side` the event of their arrival."""
    rows = index if split.rows is None else split.rows[index]
    canvases = torch.empty(
        (len(index), *split.images.shape[1:]), dtype=torch.uint8, pin_memory=side is not None
    )
    _prefetch(split.images, rows)
    # NumPy copies on this thread alone; torch would start one per core.
    np.take(split.images.numpy(), rows.numpy(), axis=0, out=canvases.numpy(), mode="clip")
    if side is None:
        return canvases, None
    with torch.cuda.stream(side):
        return canvases.to(device, non_blocking=True), side.record_event()


def _prefetch(images: Tensor, rows: Tensor) -> None:
    """On Linux, ask for exactly these `rows` of a mapped file to be read now.

    A page fault would also read the disk's read-ahead: perhaps 8 MB for an image of 0.2 MB.
    """
    if sys.platform != "linux":
        return
    madvise, size = ctypes.CDLL(None).madvise, images[0].nbytes
    for row in rows.tolist():
        start = images.data_ptr() + row * size
        before = start % mmap.PAGESIZE  # madvise takes whole pages
        pages = ctypes.c_void_p(start - before), ctypes.c_size_t(before + size)
        madvise(*pages, mmap.MADV_WILLNEED)
