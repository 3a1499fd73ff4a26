"""Batches of a packed split as the network wants them: float images in [0, 1] on the device."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from abn import augment
from abn.data import Split
from abn.params import Train
from abn.rng import generator

RESIDENT = 0.5  # a split up to this share of a GPU's free memory is moved there whole


class Batch(NamedTuple):
    """B images and their labels."""

    images: Tensor  # float32 [B, 3, H, W] in [0, 1]
    labels: Tensor  # int64 [B]


class View(NamedTuple):
    """How an image is looked at without chance: resized, then its centre cut out, aspect kept."""

    size: int  # side of the crop, pixels
    resize: int  # short side of the whole image at that scale, pixels


def place(split: Split, device: torch.device) -> Split:
    """`split` on `device` if there is ample room for it, else as it is."""
    if device.type != "cuda" or split.images.nbytes > RESIDENT * torch.cuda.mem_get_info(device)[0]:
        return split
    return split.to(device)


def training(
    split: Split, config: Train, size: int, seed: int, epoch: int, device: torch.device
) -> Iterator[Batch]:
    """One epoch in random order, each image in a random crop; a short last batch is dropped.

    Everything random depends on (seed, epoch) alone, so an epoch can be repeated or resumed.
    """
    count, batch = len(split), min(config.batch_size, len(split))
    order = torch.randperm(count, generator=generator(seed, "order", epoch))
    draws = generator(seed, "augment", epoch)
    boxes = augment.random_boxes(split.aspect.cpu(), config.crop_scale, draws)
    mirrored = (torch.rand(count, generator=draws) < 0.5) & config.flip
    for start in range(0, count - batch + 1, batch):
        index = order[start : start + batch]
        images, labels = _gather(split, index, device)
        box, mirror = boxes[index].to(device), mirrored[index].to(device)
        yield Batch(_layout(augment.crop(images, box, mirror, size)), labels)


def evaluation(
    split: Split, view: View, batch_size: int, device: torch.device, mirrored: bool = False
) -> Iterator[Batch]:
    """Every image once, in order, through `view`; `mirrored` turns left and right around."""
    for start in range(0, len(split), batch_size):
        index = torch.arange(start, min(start + batch_size, len(split)))
        images, labels = _gather(split, index, device)
        yield Batch(through(images, split.aspect[index], view, mirrored), labels)


def through(canvases: Tensor, aspect: Tensor, view: View, mirrored: bool = False) -> Tensor:
    """Canvases uint8 [B, S, S, 3] as `view` shows them: float32 [B, 3, size, size] in [0, 1]."""
    boxes = augment.centre_boxes(aspect.to(canvases.device), view.size / view.resize)
    mirror = torch.full((len(canvases),), mirrored, device=canvases.device)
    return _layout(augment.crop(canvases, boxes, mirror, view.size))


def _gather(split: Split, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images uint8 [B, S, S, 3] and labels [B] at `index`, on `device`."""
    index = index.to(split.images.device)
    return split.images[index].to(device), split.labels[index].to(device)


def _layout(images: Tensor) -> Tensor:
    """Channels last in memory: what convolutions are fastest on, CPU and GPU."""
    return images.contiguous(memory_format=torch.channels_last)
