"""Crops as torchvision and Pillow would make them; centre boxes in the original geometry."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from abn.data import crop
from abn.runtime.rng import generator

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
BOXES = torch.tensor(
    [
        [0.3, 0.4, 0.25, 0.375],  # away from the edges
        [0.31, 0.42, 0.27, 0.4],  # and between pixels
        [0.0, 0.0, 0.5, 0.6],  # in a corner
        [0.55, 0.1, 0.45, 0.9],  # in the opposite one
    ]
)


def images(count: int, side: int) -> Tensor:
    """Noise, uint8 [count, side, side, 3]: every wrong weight shows."""
    shape = (count, side, side, 3)
    return torch.randint(256, shape, generator=generator(0), dtype=torch.uint8)


def cut(canvas: Tensor, boxes: Tensor, size: int) -> Tensor:
    return crop.crop(canvas, boxes, torch.zeros(len(canvas), dtype=torch.bool), size)


def pillow(canvas: Tensor, box: Tensor, size: int) -> Tensor:
    """The same crop by Pillow in floats, one colour at a time."""
    top, left, height, width = (box.double() * len(canvas)).tolist()
    area = (left, top, left + width, top + height)
    bands = [Image.fromarray(band.numpy()) for band in canvas.float().permute(2, 0, 1)]
    resized = [band.resize((size, size), Image.Resampling.BILINEAR, area) for band in bands]
    return torch.from_numpy(np.stack(resized)) / 255


@pytest.mark.parametrize("side, size", [(32, 7), (32, 16), (32, 31), (16, 24), (16, 64), (5, 1)])
def test_a_whole_image_is_resized_as_by_torchvision(side, size):
    canvas = images(3, side)
    expected = reference.resize(canvas.permute(0, 3, 1, 2).float(), [size, size], antialias=True)
    found = cut(canvas, WHOLE.expand(3, 4), size)
    torch.testing.assert_close(found, expected / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [4, 16, 40])
def test_a_box_anywhere_is_cut_out_as_by_pillow(size):
    canvas = images(4, 32)
    found = cut(canvas, BOXES, size)
    for n, box in enumerate(BOXES):
        torch.testing.assert_close(found[n], pillow(canvas[n], box, size), rtol=0, atol=1e-5)


def test_only_the_marked_images_are_mirrored():
    canvas = images(4, 16)
    marked = torch.tensor([True, False, True, False])
    straight = cut(canvas, BOXES, 8)
    expected = torch.where(marked[:, None, None, None], straight.flip(3), straight)
    torch.testing.assert_close(crop.crop(canvas, BOXES, marked, 8), expected)


def test_at_the_canvas_own_size_nothing_changes():
    canvas = images(2, 20)
    found = cut(canvas, WHOLE.expand(2, 4), 20)
    assert (found.dtype, found.shape) == (torch.float32, (2, 3, 20, 20)) and found.max() <= 1
    torch.testing.assert_close(found, canvas.permute(0, 3, 1, 2) / 255, rtol=0, atol=1e-7)


def test_four_pixels_to_one_by_hand():
    red = torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8)
    canvas = torch.stack([red, torch.zeros_like(red), 255 + torch.zeros_like(red)], dim=-1)
    # the sample lies in the middle of four pixels: each weighs a quarter
    assert cut(canvas[None], WHOLE, 1).flatten().tolist() == pytest.approx([0.4, 0, 1])


def test_two_pixels_to_four_by_hand():
    row = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 2, 2, 3)
    # samples at 1/4, 3/4, 5/4 and 7/4 of a pixel; the centres are at 1/2 and 3/2
    assert cut(row, WHOLE, 4)[0, 0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_the_object_of_a_mask_is_cut_and_mirrored_as_its_image_is():
    masks = torch.randint(4, (4, 32, 32), generator=generator(1), dtype=torch.uint8)
    picture = (masks == 1).to(torch.uint8).mul(255)[..., None].expand(4, 32, 32, 3)
    marked = torch.tensor([True, False, True, False])
    found = crop.crop_objects(masks, BOXES, marked, 8)
    assert (found.dtype, found.shape) == (torch.float32, (4, 1, 8, 8))
    torch.testing.assert_close(found.expand(4, 3, 8, 8), crop.crop(picture, BOXES, marked, 8))


def test_a_pixel_of_a_mask_is_the_share_the_object_covers_by_hand():
    mask = torch.tensor([[[1, 2], [3, 1]]], dtype=torch.uint8)  # two of four pixels are the object
    straight = torch.zeros(1, dtype=torch.bool)
    assert crop.crop_objects(mask, WHOLE, straight, 1).item() == pytest.approx(0.5)


def test_half_precision_is_the_same_to_half_a_grey_level():
    canvas, straight = images(4, 16), torch.zeros(4, dtype=torch.bool)
    found = crop.crop(canvas, BOXES, straight, 8, torch.float16)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), cut(canvas, BOXES, 8), rtol=0, atol=2e-3)


@pytest.mark.parametrize("aspect", [0.1, 0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("share", [0.5, 0.875, 1.0])
def test_centre_boxes_are_central_squares_of_the_original(aspect, share):
    [box] = crop.centre_boxes(torch.tensor([aspect]), share)
    top, left, height, width = box.tolist()
    assert width * aspect == pytest.approx(height)  # a square, in shares of the height
    assert height == pytest.approx(share * min(aspect, 1))  # of the short side
    assert (top + height / 2, left + width / 2) == pytest.approx((0.5, 0.5))


def test_a_centre_box_keeps_a_squashed_circle_round():
    aspect, side, size = 2.0, 128, 16
    y, x = torch.meshgrid(*2 * [(torch.arange(side) + 0.5) / side - 0.5], indexing="ij")
    disc = ((x * aspect) ** 2 + y**2 <= 0.25**2).mul(255).to(torch.uint8)
    box = crop.centre_boxes(torch.tensor([aspect]), 1.0)
    found = cut(disc[None, :, :, None].expand(1, side, side, 3), box, size)[0, 0]
    torch.testing.assert_close(found, found.T, rtol=0, atol=0.02)
    assert found.mean().item() == pytest.approx(math.pi / 16, abs=0.002)
