"""3x3 convolutions with fewer multiplications: the same results, and when they are used."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from abn.models.kernels import winograd
from abn.models.kernels.winograd import Conv3x3, Winograd, suits
from abn.runtime.rng import generator


def drawn(use: str, *shape: int) -> Tensor:
    """Normal numbers, channels last."""
    numbers = torch.randn(shape, generator=generator(0, use))
    return numbers.contiguous(memory_format=torch.channels_last)


def results(convolve: Callable[..., Tensor], x: Tensor, weight: Tensor) -> list[Tensor]:
    """The convolution and the gradients of both its inputs, in their dtype."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = convolve(x, weight)
    y.backward(drawn("gradient", *y.shape).to(y.dtype))
    return [y.detach(), x.grad, weight.grad]


def direct(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


# Batch, inputs, outputs, height, width: one cell, unlike sides, more outputs, fewer.
SHAPES = [(1, 1, 1, 2, 2), (3, 8, 8, 6, 4), (5, 4, 12, 4, 8), (2, 12, 4, 10, 10)]


@pytest.mark.parametrize("part", [1, 100, 400_000])
@pytest.mark.parametrize("batch, inputs, outputs, height, width", SHAPES)
def test_it_is_the_convolution_with_both_its_gradients(
    batch: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    part: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "PART", part)
    x, weight = drawn("x", batch, inputs, height, width), drawn("w", outputs, inputs, 3, 3)
    found = results(Winograd.apply, x, weight)
    for mine, exact in zip(found, results(direct, x.double(), weight.double()), strict=True):
        assert mine.shape == exact.shape
        torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)


def test_where_all_numbers_are_whole_not_a_bit_is_lost() -> None:
    x, weight = drawn("x", 2, 8, 6, 6).round(), 4 * drawn("w", 8, 8, 3, 3).round()
    assert Winograd.apply(x, weight).equal(direct(x, weight))


def test_over_many_channels_it_stays_exact_to_a_millionth() -> None:
    x, weight = drawn("x", 8, 512, 8, 8), drawn("w", 512, 512, 3, 3)
    exact = results(direct, x.double(), weight.double())
    for mine, right in zip(results(Winograd.apply, x, weight), exact, strict=True):
        assert (mine.double() - right).square().mean().sqrt() < 1e-6 * right.square().mean().sqrt()


def test_twice_the_same_bits() -> None:
    x, weight = drawn("x", 8, 256, 8, 8), drawn("w", 256, 256, 3, 3)
    first, second = (results(Winograd.apply, x, weight) for _ in range(2))
    assert all(one.equal(other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("asked", ["x", "weight"])
def test_only_the_gradient_that_is_asked_for_is_computed(asked: str) -> None:
    inputs = {"x": drawn("x", 2, 4, 4, 4), "weight": drawn("w", 4, 4, 3, 3)}
    inputs[asked].requires_grad_()
    Winograd.apply(*inputs.values()).sum().backward()
    assert [name for name, tensor in inputs.items() if tensor.grad is not None] == [asked]


X, WEIGHT = drawn("x", 16, 256, 16, 16), drawn("w", 256, 256, 3, 3)  # 2**10 tiles, 2**26 products


def test_it_serves_where_many_channels_meet_many_tiles() -> None:
    assert suits(X, WEIGHT)
    layer = Conv3x3(256, 256)
    assert "Winograd" in type(layer(X).grad_fn).__name__


@pytest.mark.parametrize(
    "x, weight",
    [
        (X[:15], WEIGHT),
        (X[:, :128].contiguous(memory_format=torch.channels_last), WEIGHT[:, :128]),
        (X, WEIGHT[:128]),
        (drawn("x", 64, 256, 17, 16), WEIGHT),
        (X.contiguous(), WEIGHT),
        (X.double(), WEIGHT.double()),
        (X.bfloat16(), WEIGHT.bfloat16()),
        (X.to("meta"), WEIGHT.to("meta")),
    ],
    ids=[
        "few tiles",
        "few inputs",
        "few outputs",
        "an odd side",
        "channels first",
        "float64",
        "bfloat16",
        "another device",
    ],
)
def test_everything_else_is_torchs(x: Tensor, weight: Tensor) -> None:
    assert not suits(x, weight)


def test_a_stride_is_torchs() -> None:
    layer = Conv3x3(256, 256, stride=2)
    assert layer(X).shape == (16, 256, 8, 8)
    assert "Winograd" not in type(layer(X).grad_fn).__name__
