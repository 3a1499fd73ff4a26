"""The fused kernels against torch in double precision; interpreted where there is no GPU."""

import pytest
import torch
from torch import Tensor, nn

from abn.runtime.rng import generator

fused = pytest.importorskip(
    "abn.models.kernels.triton_batch_norm", reason="needs Triton", exc_type=ImportError
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LAST = torch.channels_last
CASES = [  # B, C, H, W, shortcut, relu: one tile and less, many parts, several columns, odd rows
    (2, 64, 3, 3, False, True),
    (2, 64, 3, 3, True, True),
    (3, 128, 5, 7, False, False),
    (3, 128, 5, 7, True, False),
    (5, 192, 9, 11, True, True),
    (4, 64, 40, 40, False, True),
    (1, 2048, 9, 9, True, True),
]


def drawn(*shape: int, use: str, mean: float = 0.0) -> Tensor:
    values = torch.randn(shape, generator=generator(0, use)) + mean
    return values.to(DEVICE, torch.bfloat16)


def layer(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).to(DEVICE)
    with torch.no_grad():
        for number, values in enumerate((norm.weight, norm.bias, norm.running_mean)):
            assert values is not None
            values.copy_(torch.randn(channels, generator=generator(1, "layer", number)))
    return norm


def exact(norm: nn.BatchNorm2d, *given: Tensor | None, relu: bool) -> list[Tensor]:
    """Outputs, gradients and running statistics by torch in double precision."""
    twin = layer(norm.num_features).double()
    x, shortcut, dy = (t if t is None else t.double().detach() for t in given)
    leaves = [t.requires_grad_() for t in (x, shortcut) if t is not None]
    y = twin(leaves[0])
    y = y + leaves[1] if len(leaves) > 1 else y
    y = y.relu() if relu else y
    y.backward(dy)
    return told(y, leaves, twin)


def told(y: Tensor, leaves: list[Tensor], norm: nn.BatchNorm2d) -> list[Tensor]:
    found = [y, *(t.grad for t in leaves), norm.weight.grad, norm.bias.grad]
    return [t for t in (*found, norm.running_mean, norm.running_var) if t is not None]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_gradients_and_statistics_are_torchs(case: tuple[int, ...]) -> None:
    *shape, summed, relu = case
    norm = layer(shape[1])
    x = drawn(*shape, use="x", mean=3.0).contiguous(memory_format=LAST)
    shortcut = drawn(*shape, use="shortcut").contiguous(memory_format=LAST) if summed else None
    dy = drawn(*shape, use="dy")  # not channels last: it comes as it comes
    expected = exact(norm, x, shortcut, dy, relu=bool(relu))
    leaves = [t.requires_grad_() for t in (x, shortcut) if t is not None]
    y = fused.batch_norm(norm, x, shortcut, bool(relu))
    y.backward(dy)
    assert y.is_contiguous(memory_format=LAST) and int(norm.num_batches_tracked or 0) == 1
    for here, there in zip(told(y, leaves, norm), expected, strict=True):
        assert (here.double() - there).norm() <= 4e-3 * there.norm()  # bf16 has 8 bits


def test_a_mean_far_from_zero_costs_the_variance_no_digits() -> None:
    """16384, 16512, ... 17280: their squares alone would leave float32 few digits of it."""
    steps = torch.arange(8, dtype=torch.bfloat16, device=DEVICE) * 128
    x = (2**14 + steps).view(8, 1, 1, 1).expand(8, 64, 4, 4).contiguous(memory_format=LAST)
    norm = nn.BatchNorm2d(64, momentum=1.0).to(DEVICE)
    fused.batch_norm(norm, x, None, False)
    expected = x.double().var(dim=(0, 2, 3))
    torch.testing.assert_close(norm.running_var, expected.float())


def test_a_gradient_that_is_one_number_for_a_whole_map_is_understood() -> None:
    """As a mean over the map hands back: a view without memory of its own."""
    norm, other = layer(64), layer(64).double()
    x = drawn(2, 64, 4, 4, use="x").contiguous(memory_format=LAST).requires_grad_()
    twin = x.detach().double().requires_grad_()
    fused.batch_norm(norm, x, None, True).mean(dim=(2, 3)).square().sum().backward()
    other(twin).relu().mean(dim=(2, 3)).square().sum().backward()
    assert x.grad is not None and twin.grad is not None
    assert (x.grad.double() - twin.grad).norm() <= 1e-2 * twin.grad.norm()


def test_where_the_kernels_cannot_be_built_torchs_are_used_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fused.works.__wrapped__(DEVICE)
    monkeypatch.setattr(fused, "_sum", None)
    assert not fused.works.__wrapped__(DEVICE)
    assert capsys.readouterr().err.startswith("no fused kernels, torch's slower ones are used: ")


def test_the_same_inputs_give_the_same_bits() -> None:
    def once() -> list[Tensor]:
        norm = layer(64)
        x = drawn(4, 64, 40, 40, use="x").contiguous(memory_format=LAST).requires_grad_()
        y = fused.batch_norm(norm, x, None, True)
        y.backward(drawn(4, 64, 40, 40, use="dy"))
        return told(y, [x], norm)

    assert all(a.equal(b) for a, b in zip(once(), once(), strict=True))
