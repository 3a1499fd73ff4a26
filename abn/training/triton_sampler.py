"""Crop, flip, colour, hole and mix of a batch as one Triton kernel, a second one for contrast.

It computes what `augment.batches` computes with some sixty kernels of torch's. **Not measured**: it
was compared with them in Triton's interpreter and has not run on a GPU, so nothing uses it unless
asked (`augment.batches(fused=True)`). TrivialAugment and masks are not in it.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256  # output pixels of a program
COLUMNS = 13  # of the table: what `_table` says of an image
NO_MIX, MIXUP, CUTMIX = 0, 1, 2
Colour = tuple[float, float, float]


def sampled(
    canvases: Tensor,
    boxes: Tensor,
    mirrored: Tensor,
    colours: Tensor | None,
    holes: Tensor,
    mix: tuple[float, tuple[int, int, int, int] | None] | None,
    size: int,
    dtype: torch.dtype,
    mean: Colour = (0.0, 0.0, 0.0),
    std: Colour = (1.0, 1.0, 1.0),
) -> Tensor:
    """The batch as `augment.batches` makes it: `dtype` [B, 3, size, size], channels last.

    Of `canvases` uint8 [B, S, S, 3] and their draws, each as in `augment.Draws`; `colours` None: no
    jitter. `mix` as `augment.Mix`. The result has `mean` taken away and is divided by `std`.
    """
    count, side = canvases.shape[:2]
    taps = math.ceil(2 * max(side / size, 1)) + 1  # no box is larger than its canvas
    table = _table(boxes, mirrored, colours, holes)
    out = torch.empty((count, size, size, 3), dtype=dtype, device=canvases.device)
    grid = count, triton.cdiv(size * size, BLOCK)
    jitter = colours is not None
    if jitter:
        shares = torch.empty(grid, device=canvases.device)
        _luma[grid](canvases, table, shares, side, size, COLUMNS, taps, BLOCK)
        table[:, 8] = shares.sum(1) / size**2
    own, box = mix or (1.0, None)
    kind = NO_MIX if mix is None else CUTMIX if box else MIXUP
    places = box or (0, 0, 0, 0)
    about = count, side, size, own, *places, *mean, *std
    _sample[grid](canvases, table, out, *about, COLUMNS, kind, jitter, taps, BLOCK)
    return out.permute(0, 3, 1, 2)


def _table(boxes: Tensor, mirrored: Tensor, colours: Tensor | None, holes: Tensor) -> Tensor:
    """float32 [B, COLUMNS]: box 0 to 3, mirrored 4, colours 5 to 7, mean luma 8, hole 9 to 12."""
    colours = boxes.new_ones(len(boxes), 3) if colours is None else colours
    luma = boxes.new_zeros(len(boxes), 1)  # known after a first pass over the pixels
    parts = boxes, mirrored[:, None], colours, luma, holes
    return torch.cat([part.float() for part in parts], dim=1)


@triton.jit
def _weight(pixel, centre, reach, side):
    """The triangle filter's weight of a canvas pixel; 0 beyond the canvas."""
    weight = tl.maximum(1 - tl.abs(pixel + 0.5 - centre) / reach, 0.0)
    return tl.where((pixel >= 0) & (pixel < side), weight, 0.0)


@triton.jit
def _crop(canvases, own, image, y, x, side, size, is_real, TAPS: tl.constexpr):
    """Red, green and blue in [0, 1] of output pixels (y, x) of `image`; `own`: its row."""
    mirrored = tl.load(own + 4, is_real, 0.0)
    x = tl.where(mirrored > 0.5, size - 1 - x, x)
    step_y = tl.load(own + 2, is_real, 1.0) * side / size  # canvas pixels for one of the output
    step_x = tl.load(own + 3, is_real, 1.0) * side / size
    centre_y = tl.load(own, is_real, 0.0) * side + (y + 0.5) * step_y
    centre_x = tl.load(own + 1, is_real, 0.0) * side + (x + 0.5) * step_x
    reach_y, reach_x = tl.maximum(step_y, 1.0), tl.maximum(step_x, 1.0)
    first_y = tl.floor(centre_y - reach_y + 0.5).to(tl.int32)
    first_x = tl.floor(centre_x - reach_x + 0.5).to(tl.int32)
    red, green, blue = centre_y * 0, centre_y * 0, centre_y * 0
    total = centre_y * 0
    for i in range(TAPS):
        weight_y = _weight(first_y + i, centre_y, reach_y, side)
        row = (image.to(tl.int64) * side + first_y + i) * side
        for j in range(TAPS):
            weight = weight_y * _weight(first_x + j, centre_x, reach_x, side)
            counts = is_real & (weight > 0)
            place = canvases + (row + first_x + j) * 3
            red += weight * tl.load(place, counts, 0).to(tl.float32)
            green += weight * tl.load(place + 1, counts, 0).to(tl.float32)
            blue += weight * tl.load(place + 2, counts, 0).to(tl.float32)
            total += weight
    scale = 1 / (255 * tl.maximum(total, 1e-12))
    return _within(red * scale), _within(green * scale), _within(blue * scale)


@triton.jit
def _within(x):
    """`x` between 0 and 1."""
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def _grey(red, green, blue):
    """The luma (ITU-R BT.601)."""
    return 0.299 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _lerp(start, end, share):
    """`share` of the way from `start` to `end`, between 0 and 1."""
    return _within(start + share * (end - start))


@triton.jit
def _luma(
    canvases,
    table,
    shares,
    side,
    size,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum of the luma of a block of an image after its brightness."""
    image, block = tl.program_id(0), tl.program_id(1)
    place = block * BLOCK + tl.arange(0, BLOCK)
    is_real = place < size * size
    images = image + place * 0
    own = table + images * COLUMNS
    y, x = place // size, place % size
    red, green, blue = _crop(canvases, own, images, y, x, side, size, is_real, TAPS)
    bright = tl.load(own + 5, is_real, 0.0)
    grey = _grey(_within(red * bright), _within(green * bright), _within(blue * bright))
    total = tl.sum(tl.where(is_real, grey, 0.0), 0)
    tl.store(shares + image * tl.num_programs(1) + block, total)


@triton.jit
def _seen(
    canvases, table, images, y, x, side, size, is_real, COLUMNS: tl.constexpr, JITTER: tl.constexpr,
    TAPS: tl.constexpr
):  # fmt: skip
    """Red, green and blue of output pixels (y, x) of `images`: cropped, coloured, erased."""
    own = table + images * COLUMNS
    red, green, blue = _crop(canvases, own, images, y, x, side, size, is_real, TAPS)
    if JITTER:
        bright, contrast = tl.load(own + 5, is_real, 1.0), tl.load(own + 6, is_real, 1.0)
        saturation, mean = tl.load(own + 7, is_real, 1.0), tl.load(own + 8, is_real, 0.0)
        red = _lerp(mean, _within(red * bright), contrast)
        green = _lerp(mean, _within(green * bright), contrast)
        blue = _lerp(mean, _within(blue * bright), contrast)
        grey = _grey(red, green, blue)
        red, green = _lerp(grey, red, saturation), _lerp(grey, green, saturation)
        blue = _lerp(grey, blue, saturation)
    top, left = tl.load(own + 9, is_real, 0.0), tl.load(own + 10, is_real, 0.0)
    bottom, right = top + tl.load(own + 11, is_real, 0.0), left + tl.load(own + 12, is_real, 0.0)
    down, across = (y + 0.5) / size, (x + 0.5) / size
    erased = (down >= top) & (down < bottom) & (across >= left) & (across < right)
    return tl.where(erased, 0.5, red), tl.where(erased, 0.5, green), tl.where(erased, 0.5, blue)


@triton.jit
def _sample(
    canvases, table, out, count, side, size, share, top, bottom, left, right,
    mean_red, mean_green, mean_blue, std_red, std_green, std_blue,
    COLUMNS: tl.constexpr, MIX: tl.constexpr, JITTER: tl.constexpr, TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of an image of the batch, mixed with the image before it, normalised."""
    image = tl.program_id(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_real = place < size * size
    y, x = place // size, place % size
    own = image + place * 0
    other = (image + count - 1) % count + place * 0
    if MIX == 2:
        own = tl.where((y >= top) & (y < bottom) & (x >= left) & (x < right), other, own)
    red, green, blue = _seen(canvases, table, own, y, x, side, size, is_real, COLUMNS, JITTER, TAPS)
    if MIX == 1:
        red_2, green_2, blue_2 = _seen(
            canvases, table, other, y, x, side, size, is_real, COLUMNS, JITTER, TAPS
        )
        red, green = _lerp(red_2, red, share), _lerp(green_2, green, share)
        blue = _lerp(blue_2, blue, share)
    target = out + (image.to(tl.int64) * size * size + place) * 3
    kind = out.dtype.element_ty
    tl.store(target, ((red - mean_red) / std_red).to(kind), is_real)
    tl.store(target + 1, ((green - mean_green) / std_green).to(kind), is_real)
    tl.store(target + 2, ((blue - mean_blue) / std_blue).to(kind), is_real)
