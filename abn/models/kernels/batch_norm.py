"""Batch norm, sum with a shortcut and ReLU: one fused kernel where it is faster, else torch's."""

import importlib.util
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HAS_TRITON = importlib.util.find_spec("triton") is not None


def batch_norm(
    norm: nn.Module, x: Tensor, shortcut: Tensor | None = None, relu: bool = True
) -> Tensor:
    """`norm` of features `x` [B, C, H, W], plus `shortcut` of their shape, then ReLU if `relu`."""
    if is_fused(norm, x):
        from abn.models.kernels import triton_batch_norm

        return triton_batch_norm.batch_norm(norm, x, shortcut, relu)
    y: Tensor = norm(x)
    y = y if shortcut is None else y + shortcut
    return F.relu(y, inplace=True) if relu else y


def is_fused(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    """Whether the fused kernels apply: training in bf16 on one GPU, not compiled."""
    suits = (
        HAS_TRITON
        and x.is_cuda
        and x.dtype == torch.bfloat16
        and type(norm) is nn.BatchNorm2d  # not a batch norm over several processes
        and norm.training
        and x.shape[1] % 64 == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )
    if not suits:
        return False
    from abn.models.kernels import triton_batch_norm  # here, because Triton is for GPUs only

    return triton_batch_norm.works(x.device)
