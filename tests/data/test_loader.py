"""Batches: how the images of a split come to the device, and how they are resized and cropped."""

import dataclasses
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from abn.data import loader, packed
from abn.data.loader import CenterCrop
from abn.data.packed import Split
from tests import toys
from tests.toys import CPU, WHOLE

ROWS = torch.tensor([7, 3, 30, 1, 12, 8])
ORDER = torch.tensor([[5, 0, 3], [1, 1, 2], [4, 3, 5]])
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def mapped(tmp_path: Path) -> Split:
    """40 images in a file, read by memory map."""
    return packed.read(toys.pack(tmp_path / "train.safetensors", toys.split()))


def batches(split: Split, device: torch.device = CPU) -> list[tuple[Tensor, ...]]:
    """All that `iterate` yields of `split`, which has masks, for ORDER; on the CPU."""
    steps = loader.iterate(split, ORDER, device)
    return [tuple(part.cpu() for part in fetched if part is not None) for fetched in steps]


def as_indexed(split: Split) -> list[tuple[Tensor, ...]]:
    """The same by indexing a copy."""
    copy = split.take(torch.arange(len(split)))
    assert copy.masks is not None
    parts = copy.images, copy.labels, copy.masks
    return [(index, *(part[index] for part in parts)) for index in ORDER]


def alike(found: list[tuple[Tensor, ...]], expected: list[tuple[Tensor, ...]]) -> bool:
    return all(
        one.equal(other)
        for ours, theirs in zip(found, expected, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    )


def test_batches_are_what_indexing_gives(mapped: Split) -> None:
    assert alike(batches(mapped), as_indexed(mapped))
    part, original = mapped.subset(ROWS), toys.split()
    found = batches(part)
    assert alike(found, as_indexed(part))
    assert original.masks is not None
    for row, (_, canvases, labels, masks) in zip(ORDER, found, strict=True):
        assert canvases.equal(original.images[ROWS[row]])
        assert labels.equal(original.labels[ROWS[row]])
        assert masks.equal(original.masks[ROWS[row]])


def test_a_split_without_masks_yields_none(mapped: Split) -> None:
    steps = loader.iterate(mapped.without_masks(), ORDER, CPU)
    assert [fetched.masks for fetched in steps] == [None] * len(ORDER)


@needs_gpu
@pytest.mark.parametrize("resident", [True, False])
def test_batches_on_a_gpu_are_those_of_the_file(mapped: Split, resident: bool) -> None:
    part, gpu = mapped.subset(ROWS), torch.device("cuda")
    assert alike(batches(part.to(gpu) if resident else part, gpu), as_indexed(part))


@pytest.mark.parametrize("steps", [1, len(ORDER)], ids=["abandoned", "finished"])
def test_an_epoch_leaves_no_thread_behind(mapped: Split, steps: int) -> None:
    before = set(threading.enumerate())
    epoch = loader.iterate(mapped, ORDER, CPU)
    for _ in range(steps):
        next(epoch)
    assert len(set(threading.enumerate()) - before) == 1
    epoch.close()
    assert set(threading.enumerate()) == before


def test_an_error_in_the_thread_is_raised_in_the_loop(mapped: Split) -> None:
    broken = dataclasses.replace(mapped, rows=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(IndexError):
        batches(broken)


@pytest.mark.parametrize(
    "batch_size, sizes", [(9, [9, 9, 9, 9, 4]), (40, [40]), (100, [40]), (20, [20, 20])]
)
def test_evaluation_shows_every_image_once_and_in_order(batch_size: int, sizes: list[int]) -> None:
    split = toys.split()
    shown = list(loader.evaluation(split, WHOLE, batch_size, CPU))
    assert [len(images) for images in shown] == sizes
    torch.testing.assert_close(torch.cat(shown), split.images.permute(0, 3, 1, 2) / 255)
    unreadable = dataclasses.replace(split, masks=torch.zeros(1))  # floats: no pixels
    assert torch.cat(list(loader.evaluation(unreadable, WHOLE, batch_size, CPU))).equal(
        torch.cat(shown)
    )
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in shown)


def test_evaluation_of_a_subset_shows_its_images_in_their_own_aspect() -> None:
    split = dataclasses.replace(toys.split(), aspect=torch.linspace(0.5, 2, 40))
    part = torch.cat(list(loader.evaluation(split.subset(ROWS), WHOLE, 4, CPU)))
    whole = torch.cat(list(loader.evaluation(split, WHOLE, 40, CPU)))
    torch.testing.assert_close(part, whole[ROWS])


def test_mirrored_evaluation_swaps_left_and_right() -> None:
    (plain,) = loader.evaluation(toys.split(), WHOLE, 40, CPU)
    (mirrored,) = loader.evaluation(toys.split(), WHOLE, 40, CPU, mirrored=True)
    torch.testing.assert_close(mirrored, plain.flip(3))


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_a_view_is_the_central_square_of_the_original(aspect: float) -> None:
    height, width = min(aspect, 1) / 2, min(1 / aspect, 1) / 2  # shares of the squashed canvas
    rows, columns = round(64 * height), round(64 * width)
    canvas = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    top, left = (64 - rows) // 2, (64 - columns) // 2
    canvas[:, top : top + rows, left : left + columns] = 0
    seen = loader.transform(canvas, torch.tensor([aspect]), CenterCrop(16, 32))[0, 0]
    assert not seen[1:-1, 1:-1].any()  # the rim is interpolated
    wider = loader.transform(canvas, torch.tensor([aspect]), CenterCrop(16, 24))[0, 0]
    assert wider[0].all() and wider[:, 0].all()


def test_on_the_cpu_a_split_stays_as_it_is() -> None:
    split = toys.split(4)
    assert loader.to_device_if_fits(split, CPU) is split


@needs_gpu
def test_on_a_gpu_a_small_split_is_resident_with_its_masks() -> None:
    split, rows = toys.split(8), ROWS.clamp(max=7)
    placed = loader.to_device_if_fits(split.subset(rows), torch.device("cuda"))
    assert placed.images.is_cuda and placed.labels.is_cuda
    assert placed.masks is not None and placed.masks.cpu().equal(split.masks[rows])
    assert placed.images.cpu().equal(split.images[rows])
