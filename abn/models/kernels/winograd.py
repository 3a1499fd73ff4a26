"""3x3 convolutions with fewer multiplications, for CPUs.

F(2 x 2, 3 x 3) of Lavin and Gray (CVPR 2016): a tile of 4 x 4 inputs gives 2 x 2 outputs by 16
multiplications instead of 36. For each of these 16 points all tiles and channels make one matrix
product, forwards, backwards and for the filters alike. Float32 stays exact to a millionth.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHANNELS = 256  # from this many on, products cost more than sums
LEAST = 2**26  # multiplications of a product from which it is faster
PART = 400_000  # values of a product's inputs at a time: they fit into the processor's cache

# G and A^T of equation 11, for rows and columns at once; B^T is `combined`.
FILTERS = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OUTPUTS = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1.0]])
FILTERS, OUTPUTS = torch.kron(FILTERS, FILTERS), torch.kron(OUTPUTS, OUTPUTS)


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with a border of zeros and no bias, `stride` 1 or 2."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == (1, 1) and suits(x, self.weight):
            return Winograd.apply(x, self.weight)
        return super().forward(x)


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether Winograd is faster for features `x` [B, C, H, W] (measured: docs/results.md)."""
    outputs, inputs, height, width = len(weight), *x.shape[1:]
    return (
        not torch.compiler.is_compiling()  # an exported network runs elsewhere, at other sizes
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(inputs, outputs) >= CHANNELS
        and height % 2 == width % 2 == 0
        and x.numel() // 4 * outputs >= LEAST
        and x.is_contiguous(memory_format=torch.channels_last)
    )


class Winograd(torch.autograd.Function):
    """`F.conv2d(x, weight, padding=1)` and its gradients, for H and W even."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return convolve(x, filter_points(weight).transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        return (
            convolve(grad, filter_points(weight.flip(2, 3))) if ctx.needs_input_grad[0] else None,
            filter_gradient(x, grad) if ctx.needs_input_grad[1] else None,
        )


def convolve(x: Tensor, filters: Tensor) -> Tensor:
    """Features `x` [B, C, H, W] and points of filters [16, C, K] to [B, K, H, W], channels last."""
    batch, _, height, width = x.shape
    y = x.new_empty(batch, height, width, filters.shape[2]).permute(0, 3, 1, 2)
    for part, into in parts(x, y):
        cells, products = cells_of(into), points(part) @ filters
        cells.copy_((OUTPUTS @ products.view(16, -1)).view(cells.shape))
    return y


def filter_points(weight: Tensor) -> Tensor:
    """The 16 points of filters [K, C, 3, 3]: [16, K, C]."""
    side_by_side = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (FILTERS @ side_by_side).view(16, *weight.shape[:2])


def filter_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the filters [K, C, 3, 3], from the inputs and the gradient of the outputs."""
    inputs, outputs = x.shape[1], grad.shape[1]
    total = x.new_zeros(16, outputs, inputs)
    for part, given in parts(x, grad):
        products = (OUTPUTS.T @ cells_of(given).reshape(4, -1)).view(16, -1, outputs)
        total.baddbmm_(products.transpose(1, 2), points(part))
    return (FILTERS.T @ total.view(16, -1)).view(3, 3, outputs, inputs).permute(2, 3, 0, 1)


def parts(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both batches in equal parts of at most about `PART` values a point."""
    count = -(-max(x.numel(), y.numel()) // (4 * PART))
    return zip(x.chunk(count), y.chunk(count), strict=True)


def points(x: Tensor) -> Tensor:
    """The 16 points of the T overlapping tiles of `x` [B, C, H, W]: [16, T, C]."""
    pixels = nn.functional.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    columns = combined(pixels, dim=2)  # [4, B, H + 2, W/2, C]
    return combined(columns, dim=2).view(16, -1, x.shape[1])


def combined(x: Tensor, dim: int) -> Tensor:
    """The 4 points along `dim` of tiles of 4, a stride of 2 apart, in a new first dimension."""
    a, b, c, d = x.unfold(dim, 4, 2).unbind(-1)
    out = x.new_empty(4, *a.shape)
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])
    return out


def cells_of(y: Tensor) -> Tensor:
    """A view of `y` [B, K, H, W], channels last, as its cells of 2 x 2: [2, 2, B, H/2, W/2, K]."""
    batch, outputs, height, width = y.shape
    cells = y.permute(0, 2, 3, 1).view(batch, height // 2, 2, width // 2, 2, outputs)
    return cells.permute(2, 4, 0, 1, 3, 5)
