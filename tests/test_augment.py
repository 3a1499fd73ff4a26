"""Boxes drawn in the original geometry; crops as torchvision and Pillow would make them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from abn import augment
from abn.rng import generator

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
SCALE = (0.08, 1.0)


def images(count: int, side: int) -> Tensor:
    """Noise, uint8 [count, side, side, 3]: every wrong weight shows."""
    shape = (count, side, side, 3)
    return torch.randint(256, shape, generator=generator(0), dtype=torch.uint8)


def crop(canvas: Tensor, boxes: Tensor, size: int, mirrored: bool = False) -> Tensor:
    return augment.crop(canvas, boxes, torch.full((len(canvas),), mirrored), size)


def pillow(canvas: Tensor, box: Tensor, size: int) -> Tensor:
    """The same crop by Pillow in floats, one colour at a time."""
    top, left, height, width = (box.double() * len(canvas)).tolist()
    area = (left, top, left + width, top + height)
    bands = [Image.fromarray(band.numpy()) for band in canvas.float().permute(2, 0, 1)]
    resized = [band.resize((size, size), Image.Resampling.BILINEAR, area) for band in bands]
    return torch.from_numpy(np.stack(resized)) / 255


def boxes(aspect: float, count: int = 2000, scale: tuple[float, float] = SCALE) -> Tensor:
    return augment.random_boxes(torch.full((count,), aspect), scale, generator(1, "boxes"))


def inside(boxes: Tensor) -> bool:
    start, extent = boxes[:, :2], boxes[:, 2:]
    return bool((start >= 0).all() and (extent > 0).all() and (start + extent <= 1 + 1e-6).all())


@pytest.mark.parametrize("side, size", [(32, 7), (32, 16), (32, 31), (16, 24), (16, 64), (5, 1)])
def test_a_whole_image_is_resized_as_by_torchvision(side, size):
    canvas = images(3, side)
    expected = reference.resize(canvas.permute(0, 3, 1, 2).float(), [size, size], antialias=True)
    found = crop(canvas, WHOLE.expand(3, 4), size)
    torch.testing.assert_close(found, expected / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [4, 16, 40])
def test_a_box_anywhere_is_cut_out_as_by_pillow(size):
    canvas = images(4, 32)
    drawn = torch.tensor(
        [
            [0.3, 0.4, 0.25, 0.375],  # away from the edges
            [0.31, 0.42, 0.27, 0.4],  # and between pixels
            [0.0, 0.0, 0.5, 0.6],  # in a corner
            [0.55, 0.1, 0.45, 0.9],  # in the opposite one
        ]
    )
    found = crop(canvas, drawn, size)
    for n in range(4):
        expected = pillow(canvas[n], drawn[n], size)
        torch.testing.assert_close(found[n], expected, rtol=0, atol=1e-5)


def test_every_image_of_a_batch_gets_its_own_box():
    canvas, drawn = images(3, 16), boxes(1.0, 3)
    found = crop(canvas, drawn, 8)
    for n in range(3):
        alone = crop(canvas[n : n + 1], drawn[n : n + 1], 8)[0]
        torch.testing.assert_close(found[n], alone)


def test_mirrored_is_the_crop_with_left_and_right_exchanged():
    canvas, drawn = images(2, 16), boxes(1.0, 2)
    straight = crop(canvas, drawn, 8)
    torch.testing.assert_close(crop(canvas, drawn, 8, mirrored=True), straight.flip(3))


def test_only_the_images_that_are_told_are_mirrored():
    canvas = images(2, 8)
    found = augment.crop(canvas, WHOLE.expand(2, 4), torch.tensor([True, False]), 8)
    straight = canvas.permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found, torch.stack([straight[0].flip(2), straight[1]]))


def test_at_the_canvas_own_size_nothing_changes():
    canvas = images(2, 20)
    found = crop(canvas, WHOLE.expand(2, 4), 20)
    torch.testing.assert_close(found, canvas.permute(0, 3, 1, 2) / 255, rtol=0, atol=1e-7)


def test_four_pixels_to_one_by_hand():
    red = torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8)
    canvas = torch.stack([red, torch.zeros_like(red), 255 + torch.zeros_like(red)], dim=-1)
    # the sample lies in the middle of four pixels: each weighs a quarter
    assert crop(canvas[None], WHOLE, 1).flatten().tolist() == pytest.approx([0.4, 0, 1])


def test_two_pixels_to_four_by_hand():
    row = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1).expand(1, 2, 2, 3)
    # samples at 1/4, 3/4, 5/4 and 7/4 of a pixel; the centres are at 1/2 and 3/2
    assert crop(row, WHOLE, 4)[0, 0, 0].tolist() == pytest.approx([0, 0.25, 0.75, 1])


def test_crops_are_floats_from_0_to_1():
    canvas = torch.full((1, 9, 9, 3), 255, dtype=torch.uint8)
    found = crop(canvas, torch.tensor([[0.1, 0.2, 0.3, 0.7]]), 5)
    assert (found.dtype, found.shape) == (torch.float32, (1, 3, 5, 5))
    torch.testing.assert_close(found, torch.ones(1, 3, 5, 5))
    assert found.max() <= 1


@pytest.mark.parametrize("aspect", [0.05, 0.1, 0.5, 0.75, 1.0, 4 / 3, 2.0, 10.0, 20.0])
@pytest.mark.parametrize("scale", [SCALE, (1.0, 1.0), (0.01, 0.01)])
def test_random_boxes_lie_on_the_canvas(aspect, scale):
    assert inside(boxes(aspect, scale=scale))


@pytest.mark.parametrize("aspect", [0.5, 0.75, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("scale", [SCALE, (0.25, 0.4)])
def test_random_boxes_have_the_area_and_the_shape_asked_for_in_the_original(aspect, scale):
    top, left, height, width = boxes(aspect, scale=scale).unbind(1)
    area, ratio = height * width, width * aspect / height
    fallback = torch.isclose(top, (1 - height) / 2) & torch.isclose(left, (1 - width) / 2)
    asked = (scale[0] - 1e-6 <= area) & (area <= scale[1] + 1e-6)
    assert (asked | fallback).all()
    assert (fallback & ~asked).float().mean() < 0.01  # rare: ten draws seldom all fail
    assert ratio.min() >= 3 / 4 - 1e-5
    assert ratio.max() <= 4 / 3 + 1e-5


def test_area_shape_and_place_spread_over_their_whole_range():
    top, left, height, width = boxes(1.0, 4000, (0.1, 0.5)).unbind(1)
    area, ratio = height * width, width / height
    assert area.min() < 0.11 and area.max() > 0.49 and abs(area.mean() - 0.3) < 0.01
    assert ratio.min() < 0.76 and ratio.max() > 1.32 and abs(ratio.log().mean()) < 0.01
    places = torch.stack([top / (1 - height), left / (1 - width)])
    for place in places:
        assert place.min() < 0.01 and place.max() > 0.99 and abs(place.mean() - 0.5) < 0.02
    draws = torch.cat([torch.stack([area, ratio]), places])
    assert (torch.corrcoef(draws) - torch.eye(4)).abs().max() < 0.1  # none follows another


@pytest.mark.parametrize(
    "aspect, height, width",
    [(10.0, 1.0, 4 / 3 / 10), (0.1, 0.1 / (3 / 4), 1.0)],
    ids=["a panorama", "a tower"],
)
def test_where_no_draw_fits_it_is_the_widest_allowed_box_in_the_centre(aspect, height, width):
    found = boxes(aspect, 50, scale=(1.0, 1.0))
    expected = torch.tensor([(1 - height) / 2, (1 - width) / 2, height, width])
    torch.testing.assert_close(found, expected.expand(50, 4))


def test_where_no_draw_fits_an_ordinary_image_it_is_the_whole():
    found = boxes(1.0, 50, scale=(1.0, 1.0))  # only a square would fit, which is never drawn
    torch.testing.assert_close(found, WHOLE.expand(50, 4))


def test_the_same_generator_draws_the_same_boxes_and_another_draws_others():
    aspect = torch.ones(5)
    first, again, other = (
        augment.random_boxes(aspect, SCALE, generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).all(1).any()


@pytest.mark.parametrize("aspect", [0.1, 0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("share", [0.5, 0.875, 1.0])
def test_centre_boxes_are_central_squares_of_the_original(aspect, share):
    [box] = augment.centre_boxes(torch.tensor([aspect]), share)
    top, left, height, width = box.tolist()
    assert width * aspect == pytest.approx(height)  # a square, in shares of the height
    assert height == pytest.approx(share * min(aspect, 1))  # of the short side
    assert (top + height / 2, left + width / 2) == pytest.approx((0.5, 0.5))


def test_a_centre_box_keeps_a_squashed_circle_round():
    aspect, side, size = 2.0, 128, 16
    y, x = torch.meshgrid(*2 * [(torch.arange(side) + 0.5) / side - 0.5], indexing="ij")
    disc = ((x * aspect) ** 2 + y**2 <= 0.25**2).mul(255).to(torch.uint8)
    box = augment.centre_boxes(torch.tensor([aspect]), 1.0)
    found = crop(disc[None, :, :, None].expand(1, side, side, 3), box, size)[0, 0]
    torch.testing.assert_close(found, found.T, rtol=0, atol=0.02)
    assert found.mean().item() == pytest.approx(math.pi / 16, abs=0.002)
