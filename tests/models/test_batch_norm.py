"""Norm, sum and ReLU in one call: the three one after the other, and when they are fused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from abn.models.kernels.batch_norm import batch_norm, is_fused
from abn.runtime.rng import generator
from abn.training.distributed import CpuSyncBatchNorm

GPU = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def drawn(use: str) -> Tensor:
    return torch.randn(2, 64, 5, 5, generator=generator(0, use))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("summed", [True, False])
def test_it_is_the_norm_then_the_sum_then_relu(training: bool, relu: bool, summed: bool) -> None:
    here, there = nn.BatchNorm2d(64).train(training), nn.BatchNorm2d(64).train(training)
    x, shortcut = drawn("x"), drawn("shortcut") if summed else None
    found = batch_norm(here, x, shortcut, relu)
    expected = there(x) + (shortcut if shortcut is not None else 0)
    assert found.equal(expected.relu() if relu else expected)
    assert all(here.state_dict()[name].equal(v) for name, v in there.state_dict().items())


def test_on_the_cpu_nothing_is_fused() -> None:
    x = drawn("x").bfloat16().contiguous(memory_format=torch.channels_last)
    assert not is_fused(nn.BatchNorm2d(64), x)


CHANGES: dict[str, Callable[[Tensor, nn.BatchNorm2d], tuple[Tensor, nn.BatchNorm2d]]] = {
    "float32": lambda x, norm: (x.float(), norm),
    "channels first": lambda x, norm: (x.contiguous(), norm),
    "ten channels": lambda x, norm: (x[:, :10].clone(), nn.BatchNorm2d(10)),
    "evaluation": lambda x, norm: (x, norm.eval()),
    "several processes": lambda x, norm: (x, CpuSyncBatchNorm(64)),
}


@needs_gpu
@pytest.mark.parametrize("change", CHANGES)
def test_on_a_gpu_only_training_in_bf16_channels_last_is_fused(change: str) -> None:
    x = drawn("x").to(GPU, torch.bfloat16).contiguous(memory_format=torch.channels_last)
    assert is_fused(nn.BatchNorm2d(64), x)
    assert not is_fused(*reversed(CHANGES[change](x, nn.BatchNorm2d(64))))


@needs_gpu
def test_fused_it_is_torchs_up_to_rounding() -> None:
    x = drawn("x").to(GPU, torch.bfloat16).contiguous(memory_format=torch.channels_last)
    here, there = nn.BatchNorm2d(64).to(GPU), nn.BatchNorm2d(64).to(GPU)
    found, expected = batch_norm(here, x, x), (there(x) + x).relu()
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)
