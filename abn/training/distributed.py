"""A world of processes that train one network together; alone, it is a world of one.

torchrun starts the processes and tells each its place. They draw the same batches, each computes
its part, and gradients, norms and scores are those of the whole: a world of any size learns the
same, up to rounding.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from abn.runtime import env

TIMEOUT = 300  # seconds that a process waits for the others, unless ABN_TIMEOUT says otherwise
WARM_UP = 2  # passes after which DDP has settled the order in which it adds up gradients


class World(NamedTuple):
    """This process's place among all that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those on this machine

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def part(self, count: int) -> tuple[int, int]:
        """Where this process's share of `count` things begins and ends; shares differ by one."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """The `rows` [n, ...] of all processes one after the other; n may differ by one."""
        if self.size == 1:
            return rows
        count = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.empty_like(count) for _ in range(self.size)]
        dist.all_gather(counts, count)
        most = max(int(n) for n in counts)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` with those of the main process."""
        if self.size > 1:
            for tensor in tensors:
                content = tensor.contiguous()
                dist.broadcast(content, 0)
                tensor.copy_(content)

    def text_from_main(self, text: str, device: torch.device) -> str:
        """The main process's `text`."""
        if self.size == 1:
            return text
        size = torch.tensor([len(text.encode())], device=device)
        self.copy_from_main([size])
        content = torch.zeros(int(size), dtype=torch.uint8, device=device)
        if self.is_main:
            content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
        self.copy_from_main([content])
        return bytes(content.tolist()).decode()

    def agrees(self, text: str, device: torch.device) -> bool:
        """Whether this process has the main one's `text`."""
        return self.text_from_main(text, device) == text

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model`, its gradients averaged over all processes in each backward pass."""
        if self.size == 1:
            return model
        wrapped = DistributedDataParallel(model)
        _settle(wrapped, model)
        return wrapped


ALONE = World()


@contextmanager
def world() -> Iterator[World]:
    """The world that torchrun's environment describes, while it lasts."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    timeout = timedelta(seconds=env.number("ABN_TIMEOUT", TIMEOUT, least=1))
    cpu = not torch.cuda.is_available() or os.environ.get("ABN_DEVICE") == "cpu"
    dist.init_process_group("gloo" if cpu else "nccl", timeout=timeout)
    yield World(dist.get_rank(), size, int(os.environ["LOCAL_RANK"]))
    dist.barrier()  # nobody leaves while another still needs it
    dist.destroy_process_group()  # not after an error: it would wait for those that are gone


def synchronise(model: nn.Module, world: World) -> None:
    """Let the batch norms of `model` norm over the images of all processes."""
    if world.size == 1:
        return
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place, for all below the top
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedNorm


class SharedNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, which torch has for GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, C, h, w] of this process, normed over everyone's; n may differ."""
        if not self.training:
            return super().forward(x)
        count = _Sum.apply(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _Sum.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        self._note(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as torch does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes: everyone's loss depends on everyone's share of it."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        total = share.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient.contiguous())


def _settle(wrapped: nn.Module, model: nn.Module) -> None:
    """Let DDP choose its buckets now: it does so after a first pass, which changes the bits after.

    So a training that goes on adds up in the same order as one that was never interrupted.
    """
    kept = [buffer.clone() for buffer in model.buffers()]
    device = next(model.parameters()).device
    for _ in range(WARM_UP):
        output = wrapped(torch.zeros(2, 3, 64, 64, device=device))
        (output.logits.sum() + output.attention_logits.sum()).backward()
    for buffer, before in zip(model.buffers(), kept, strict=True):
        buffer.copy_(before)
    model.zero_grad(set_to_none=True)
