"""Batch norm, sum and ReLU as Triton kernels with as few passes over memory as possible.

Training in bf16 on a GPU is bound by memory, not arithmetic: torch's kernels for these three take
more of a step than the convolutions. Here the forward pass reads the features twice and writes
once, the backward pass reads both inputs twice and writes once; ReLU and the sum with a shortcut
cost nothing. The order of every sum is fixed, so the same inputs give the same bits.
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from abn.runtime import progress

ROWS, COLS = 64, 64  # of a tile; COLS divides the channels
PARTS = 1024  # programs that share the rows of a sum: some for every processor of a large GPU
SHARES, NARROW = 256, 16  # the tile in which their partial sums are added up


@functools.cache
def works(device: torch.device) -> bool:
    """Whether the kernels can be built for `device`: Triton asks for a C compiler and headers."""
    x = torch.zeros(1, COLS, 1, 1, dtype=torch.bfloat16, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    try:
        batch_norm(nn.BatchNorm2d(COLS, device=device), x, x, True)
    except Exception as error:  # Triton's and the compiler's errors have no common class
        reason = str(error).strip().splitlines() or [type(error).__name__]
        progress.say(f"no fused kernels, torch's slower ones are used: {reason[-1]}")
        return False
    return True


def batch_norm(norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None, relu: bool) -> Tensor:
    """What `norm` in training mode makes of `x`, plus `shortcut`, its negative part cut by `relu`.

    All bfloat16 [B, C, H, W] on a GPU, channels last, C a multiple of COLS.
    """
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    if shortcut is not None:
        shortcut = shortcut.contiguous(memory_format=torch.channels_last)
    running = norm.running_mean, norm.running_var
    y: Tensor = _BatchNorm.apply(
        x, shortcut, norm.weight, norm.bias, *running, norm.momentum, norm.eps, relu
    )
    return y


class _BatchNorm(torch.autograd.Function):
    """relu(batch norm + shortcut); C statistics each, in float32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        channels = x.shape[1]
        rows = x.numel() // channels
        grid, per_part = _parts(rows, channels)
        sums = weight.new_empty(2, grid[0], channels)
        _sum[grid](x, sums[0], sums[1], rows, channels, per_part, ROWS, COLS)
        mean, rstd, scale, shift = weight.new_empty(4, channels).unbind()
        _statistics[(channels // NARROW,)](
            x, *sums.unbind(), weight, bias, mean, rstd, scale, shift, running_mean, running_var,
            grid[0], rows, channels, momentum, eps, SHARES, NARROW,
        )  # fmt: skip
        y = torch.empty_like(x)
        _apply[_tiles(rows, channels)](
            x, x if shortcut is None else shortcut, y, scale, shift, rows, channels,
            shortcut is not None, relu, ROWS, COLS,
        )  # fmt: skip
        kept = y if shortcut is not None and relu else None
        ctx.save_for_backward(x, kept, mean, rstd, scale, shift)
        ctx.summed, ctx.relu = shortcut is not None, relu
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, rstd, scale, shift = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=torch.channels_last)
        channels = x.shape[1]
        rows = x.numel() // channels
        masked = (x if y is None else y), scale, shift  # what ReLU let pass is seen again in these
        how = y is not None, ctx.relu, ROWS, COLS
        grid, per_part = _parts(rows, channels)
        sums = scale.new_empty(2, grid[0], channels)
        _sum_gradients[grid](
            dy, x, *masked, mean, rstd, *sums.unbind(), rows, channels, per_part, *how
        )
        dweight, dbias, slope, offset = scale.new_empty(4, channels).unbind()
        _coefficients[(channels // NARROW,)](
            *sums.unbind(), mean, rstd, scale, dweight, dbias, slope, offset,
            grid[0], rows, channels, SHARES, NARROW,
        )  # fmt: skip
        dx = torch.empty_like(x)
        dshortcut = torch.empty_like(x) if ctx.summed and ctx.relu else dx
        _apply_gradients[_tiles(rows, channels)](
            dy, x, *masked, slope, offset, dx, dshortcut, rows, channels, *how
        )
        passed = (dshortcut if ctx.relu else dy) if ctx.summed else None
        return dx, passed, dweight, dbias, None, None, None, None, None


def _parts(rows: int, channels: int) -> tuple[tuple[int, int], int]:
    """The programs of a sum over the rows (parts, columns), and how many rows a part has."""
    columns = channels // COLS
    parts = max(min(PARTS // columns, triton.cdiv(rows, ROWS)), 1)
    per_part = triton.cdiv(triton.cdiv(rows, parts), ROWS) * ROWS
    return (triton.cdiv(rows, per_part), columns), per_part


def _tiles(rows: int, channels: int) -> tuple[int, int]:
    return triton.cdiv(rows, ROWS), channels // COLS


@triton.jit
def _sum(x, sums, squares, rows, channels, per_part, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Of a part of the rows: the sums of x and of its square, both less the first row's."""
    part = tl.program_id(0)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    pivot = tl.load(x + columns).to(tl.float32)  # near the mean: no digits cancel in the variance
    total = tl.zeros([ROWS, COLS], tl.float32)
    square = tl.zeros([ROWS, COLS], tl.float32)
    start = part * per_part
    for first in range(start, start + per_part, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        at = row.to(tl.int64)[:, None] * channels + columns[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - pivot[None, :], 0.0)
        total += value
        square += value * value
    tl.store(sums + part * channels + columns, tl.sum(total, 0))
    tl.store(squares + part * channels + columns, tl.sum(square, 0))


@triton.jit
def _statistics(
    x, sums, squares, weight, bias, mean, rstd, scale, shift, running_mean, running_var,
    parts, rows, channels, momentum, eps, SHARES: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """Mean and deviation from the sums of `_sum`; y = scale x + shift; the running statistics."""
    columns = tl.program_id(0) * NARROW + tl.arange(0, NARROW)
    total = _total(sums, columns, parts, channels, SHARES, NARROW) / rows
    square = _total(squares, columns, parts, channels, SHARES, NARROW) / rows
    average = tl.load(x + columns).to(tl.float32) + total
    variance = tl.maximum(square - total * total, 0.0)
    inverse = 1 / tl.sqrt(variance + eps)
    factor = tl.load(weight + columns) * inverse
    tl.store(mean + columns, average)
    tl.store(rstd + columns, inverse)
    tl.store(scale + columns, factor)
    tl.store(shift + columns, tl.load(bias + columns) - average * factor)
    unbiased = variance * (rows / tl.maximum(rows - 1, 1))
    before = tl.load(running_mean + columns)
    tl.store(running_mean + columns, before + momentum * (average - before))
    before = tl.load(running_var + columns)
    tl.store(running_var + columns, before + momentum * (unbiased - before))


@triton.jit
def _total(sums, columns, parts, channels, SHARES: tl.constexpr, NARROW: tl.constexpr):
    """The sums of all parts, for some columns."""
    total = tl.zeros([SHARES, NARROW], tl.float32)
    for first in range(0, parts, SHARES):
        part = first + tl.arange(0, SHARES)
        at = part[:, None] * channels + columns[None, :]
        total += tl.load(sums + at, mask=(part < parts)[:, None], other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _apply(
    x, shortcut, y, scale, shift, rows, channels,
    SUMMED: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """y = relu(scale x + shift + shortcut)."""
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None]
    at = row.to(tl.int64)[:, None] * channels + columns[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.load(scale + columns)[None, :] + tl.load(shift + columns)[None, :]
    if SUMMED:
        value += tl.load(shortcut + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _gradient(
    dy, value, seen, scale, shift, at, inside, columns, SUMMED: tl.constexpr, RELU: tl.constexpr
):
    """What of dy passed the ReLU: where y was positive, seen in y or computed again from x."""
    gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        if SUMMED:
            y = tl.load(seen + at, mask=inside, other=0.0).to(tl.float32)
        else:
            y = value * tl.load(scale + columns)[None, :] + tl.load(shift + columns)[None, :]
        gradient = tl.where(y > 0, gradient, 0.0)
    return gradient


@triton.jit
def _sum_gradients(
    dy, x, seen, scale, shift, mean, rstd, sums, products, rows, channels, per_part,
    SUMMED: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Of a part of the rows: the sums of the gradient and of its product with the normed x."""
    part = tl.program_id(0)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    average, inverse = tl.load(mean + columns)[None, :], tl.load(rstd + columns)[None, :]
    total = tl.zeros([ROWS, COLS], tl.float32)
    product = tl.zeros([ROWS, COLS], tl.float32)
    start = part * per_part
    for first in range(start, start + per_part, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None]
        at = row.to(tl.int64)[:, None] * channels + columns[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        gradient = _gradient(dy, value, seen, scale, shift, at, inside, columns, SUMMED, RELU)
        total += gradient
        product += gradient * (value - average) * inverse
    tl.store(sums + part * channels + columns, tl.sum(total, 0))
    tl.store(products + part * channels + columns, tl.sum(product, 0))


@triton.jit
def _coefficients(
    sums, products, mean, rstd, scale, dweight, dbias, slope, offset,
    parts, rows, channels, SHARES: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias; dx = scale gradient + slope x + offset."""
    columns = tl.program_id(0) * NARROW + tl.arange(0, NARROW)
    total = _total(sums, columns, parts, channels, SHARES, NARROW)
    product = _total(products, columns, parts, channels, SHARES, NARROW)
    tl.store(dbias + columns, total)
    tl.store(dweight + columns, product)
    factor = tl.load(scale + columns)
    steepness = -factor * tl.load(rstd + columns) * product / rows
    tl.store(slope + columns, steepness)
    tl.store(offset + columns, -factor * total / rows - steepness * tl.load(mean + columns))


@triton.jit
def _apply_gradients(
    dy, x, seen, scale, shift, slope, offset, dx, dshortcut, rows, channels,
    SUMMED: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The gradients of x and, where a ReLU follows the sum, of the shortcut."""
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (row < rows)[:, None]
    at = row.to(tl.int64)[:, None] * channels + columns[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    gradient = _gradient(dy, value, seen, scale, shift, at, inside, columns, SUMMED, RELU)
    if SUMMED:
        tl.store(dshortcut + at, gradient.to(dx.dtype.element_ty), mask=inside)
    own = gradient * tl.load(scale + columns)[None, :]
    own += value * tl.load(slope + columns)[None, :] + tl.load(offset + columns)[None, :]
    tl.store(dx + at, own.to(dx.dtype.element_ty), mask=inside)
