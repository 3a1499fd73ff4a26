"""Data-parallel training: several processes train one network; a single one is a world of one.

torchrun starts the processes and gives each its rank. All draw the same batches and each computes
its shard. Gradients, batch norms and scores are those of the whole batch, so a world of any size
learns the same network, up to rounding.
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
from abn.runtime.errors import ChangedError

TIMEOUT = 300  # seconds a process waits for the others; ABN_TIMEOUT overrides it


class World(NamedTuple):
    """This process among all that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0: the one process that writes files and prints."""
        return self.rank == 0

    def shard(self, count: int) -> tuple[int, int]:
        """First and end index of this rank's shard of `count` items; sizes differ by at most 1."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over all ranks; overwrites `values`."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """All `total` rows [total, ...] in order; `rows` are those of this rank's shard."""
        if self.size == 1:
            return rows
        shards = [World(rank, self.size).shard(total) for rank in range(self.size)]
        counts = [last - first for first, last in shards]
        padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def previous(self, rows: Tensor, total: int) -> Tensor:
        """For each of this rank's `rows` of a batch of `total`: the row before it in the batch."""
        first, last = self.shard(total)
        return self.gather(rows, total).roll(1, 0)[first:last]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                content = tensor.contiguous()
                dist.broadcast(content, 0)
                tensor.copy_(content)

    def broadcast_str(self, text: str, device: torch.device) -> str:
        """The `text` of rank 0, as bytes: torch's way to broadcast objects would unpickle them."""
        if self.size == 1:
            return text
        size = torch.tensor([len(text.encode())], device=device)
        self.broadcast([size])
        content = torch.zeros(int(size), dtype=torch.uint8, device=device)
        if self.is_main:
            content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
        self.broadcast([content])
        return bytes(content.tolist()).decode()

    def require_same(self, fingerprint: str, device: torch.device) -> None:
        """ChangedError unless the `fingerprint` of the training is that of rank 0."""
        if self.broadcast_str(fingerprint, device) != fingerprint:
            what = "params, code, data, versions or kind of machine differ from rank 0"
            raise ChangedError(what, f"rank {self.rank}", "make them the same on every machine")

    def wrap(self, model: nn.Module, images: int) -> nn.Module:
        """`model` with gradients averaged over all ranks in each backward pass.

        This rank's shard of a batch has `images` images.

        DDP sums gradients in buckets, which it rebuilds after its first pass. Two passes here make
        it do so now. So a resumed training has the same bits as one that was never interrupted.
        """
        if self.size == 1:
            return model
        wrapped = DistributedDataParallel(model)
        kept = [buffer.clone() for buffer in model.buffers()]
        device = next(model.parameters()).device
        for _ in range(2):
            output = wrapped(torch.zeros(images, 3, 64, 64, device=device))
            (output.logits.sum() + output.attention_logits.sum()).backward()
        for buffer, before in zip(model.buffers(), kept, strict=True):
            buffer.copy_(before)
        model.zero_grad(set_to_none=True)
        return wrapped


SINGLE = World()


@contextmanager
def world() -> Iterator[World]:
    """The world that torchrun's environment variables describe."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE
        return
    timeout = timedelta(seconds=env.number("ABN_TIMEOUT", TIMEOUT, least=1))
    cpu = not torch.cuda.is_available() or os.environ.get("ABN_DEVICE") == "cpu"
    # On GPUs too gloo is there: the predictions that ranks gather are on the CPU, and NCCL takes
    # none of those. The barrier is gloo's as well.
    dist.init_process_group("gloo" if cpu else "cpu:gloo,cuda:nccl", timeout=timeout)
    yield World(dist.get_rank(), size, int(os.environ["LOCAL_RANK"]))
    dist.barrier()  # no rank leaves while another needs it
    dist.destroy_process_group()  # not after an error: it would wait for dead ranks


def convert_sync_batchnorm(model: nn.Module, world: World) -> None:
    """Make the batch norms of `model` use the images of all ranks; in place."""
    if world.size == 1:
        return
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # in place below the top module
        return
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CpuSyncBatchNorm


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all ranks: torch's SyncBatchNorm is for GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise features [n, C, h, w] of this rank by all ranks' statistics; n may differ."""
        if not self.training:
            return super().forward(x)
        count = _Sum.apply(x.new_tensor(float(x.numel() // x.shape[1])))
        mean = _Sum.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        self._update_running(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics as torch does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is summed too, as every rank's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        total = share.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient.contiguous())
