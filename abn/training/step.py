"""One step of training, as it is, compiled, or replayed as a CUDA graph."""

from dataclasses import dataclass

import torch
from torch import Tensor

from abn.config.params import Train
from abn.data.loader import Batch
from abn.models.abn import AttentionBranchNetwork, losses
from abn.runtime import progress
from abn.runtime.errors import ParamsError
from abn.training import flops, optim
from abn.training.distributed import ALONE, World

# Compiling takes 40 s for each size of the images and makes a step 8 % faster (ResNet-50, H200).
LONG = 500  # seconds of training per size from which it earns back its cost
RATE = 200e12  # FLOP/s to expect of it, that GPU's; a clock would not give the same twice
WARM = 3  # steps before one is recorded, as CUDA graphs need


@dataclass
class Step:
    """Forward, both losses, backward, SGD, average: all that a batch sets off.

    Returns [loss, share of hits] on the device, those of all processes, and never waits for it.
    """

    model: AttentionBranchNetwork
    optimizer: torch.optim.SGD
    average: optim.Average | None
    config: Train
    compiled: bool = False
    world: World = ALONE
    part: float = 0.0  # images of a batch that a process of several has on average

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.autocast = self.device.type == "cuda" and self.config.precision == "bf16"
        network = self.world.wrap(self.model)
        if self.compiled:
            torch.use_deterministic_algorithms(True)  # the compiler too
        self.network = torch.compile(network, dynamic=False) if self.compiled else network

    def __call__(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.network(batch.images)
            both = losses(output, batch.targets, self.config.label_smoothing)
        weight = len(batch.images) / self.part if self.part else 1.0
        loss = torch.stack(both).sum() * weight
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.average:
            self.average.update(self.model)
        hits = output.logits.argmax(1) == batch.targets.argmax(1)
        return self.world.mean(torch.stack([loss.detach(), hits.float().mean() * weight]))


class RecordedStep(Step):
    """A `Step` recorded once per size of the images and then replayed: one launch, not hundreds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for group in self.optimizer.param_groups:  # a number would be recorded, a tensor is read
            group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
        self.side = torch.cuda.Stream(self.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.shape, self.seen = torch.Size(), 0

    def __call__(self, batch: Batch) -> Tensor:
        if batch.images.shape != self.shape:
            self.shape, self.seen, self.graph = batch.images.shape, 0, None
        self.seen += 1
        if self.graph is None and self.seen != WARM + 1:
            return self._aside(batch)
        if self.graph is None and not self._record(batch):
            return self._aside(batch)
        assert self.graph is not None
        for mine, given in zip(self.inputs, batch, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return self.result.clone()

    def _aside(self, batch: Batch) -> Tensor:
        """The step as it is, on a stream of its own, where the allocator prepares for recording."""
        current = torch.cuda.current_stream(self.device)
        self.side.wait_stream(current)
        with torch.cuda.stream(self.side):
            result = super().__call__(batch)
        current.wait_stream(self.side)
        return result

    def _record(self, batch: Batch) -> bool:
        """Whether the step could be recorded; nothing is computed meanwhile."""
        self.inputs = Batch(*(given.clone() for given in batch))
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the thread that fetches the next batch may ask for memory meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.result = super().__call__(self.inputs)
        except RuntimeError as error:
            progress.say(f"no CUDA graph, goes on without: {str(error).splitlines()[0]}")
            return False
        self.graph = graph
        return True


def build(
    model: AttentionBranchNetwork,
    optimizer: torch.optim.SGD,
    average: optim.Average | None,
    config: Train,
    images: int,
    world: World = ALONE,
) -> Step:
    """The kind of step that suits the model's device, and `config.epochs` of so many `images`."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    compiled = on_gpu and (
        config.compile == "on" or (config.compile == "auto" and is_long(model, config, images))
    )
    if world.size > 1:  # what the processes tell each other is not recorded
        part = min(config.batch_size, images) / world.size
        if part < 1:
            what, where = (
                f"fewer than {world.size} processes",
                f"train.batch_size = {config.batch_size}",
            )
            raise ParamsError(what, where, "give a larger batch, or start fewer")
        return Step(model, optimizer, average, config, compiled, world, part)
    if not on_gpu or config.compile == "off":
        return Step(model, optimizer, average, config)
    progress.say(f"steps are replayed as a CUDA graph{', compiled' if compiled else ''}")
    return RecordedStep(model, optimizer, average, config, compiled)


def is_long(model: AttentionBranchNetwork, config: Train, images: int) -> bool:
    """Whether compiling earns back its cost in a training on so many `images`."""
    epochs = [optim.crop_size(config, epoch) for epoch in range(config.epochs)]
    work = sum(epochs.count(size) * flops.training(model, size) for size in set(epochs))
    return images * work / RATE > LONG * len(set(epochs))
