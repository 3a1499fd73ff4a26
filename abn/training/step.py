"""One training step: eager, compiled, or replayed as a CUDA graph."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abn.config.params import Train
from abn.data.loader import Batch
from abn.data.packed import Split
from abn.models.abn import AttentionBranchNetwork, losses
from abn.runtime import progress
from abn.runtime.errors import ParamsError
from abn.training import flops, map_losses, optim
from abn.training.distributed import SINGLE, World
from abn.training.look import LookingNetwork

# Compiling takes 40 s for each size of the images and makes a step 8 % faster (ResNet-50, H200).
LONG = 500  # seconds of training per size from which compiling pays off
RATE = 200e12  # FLOP/s assumed, of that GPU; a measurement would differ between runs
WARM_UP = 3  # eager steps that CUDA graphs need before capture


@dataclass
class Step:
    """Forward, loss of both branches, backward, SGD, moving average.

    With SAM the gradient is that of the same batch a little uphill; the loss is where the weights
    are. Returns [loss, top-1] over all ranks, a tensor on the device; never waits for the GPU.
    """

    model: AttentionBranchNetwork
    optimizer: torch.optim.SGD
    ema: optim.EMA | None
    config: Train
    compiled: bool = False
    world: World = SINGLE
    batch: int = 0  # images of a batch on all ranks; 0: train.batch_size
    weights: Tensor | None = None  # float32 [K] of the classes in the loss; None: all 1

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.autocast = self.device.type == "cuda" and self.config.precision == "bf16"
        self.batch = self.batch or self.config.batch_size
        self.look: LookingNetwork | None = None
        self.sharp = False  # whether SAM is on
        network: nn.Module = self.model
        if self.model.looks:
            self.look = LookingNetwork(self.model, self.world, self.batch)
            network = self.look
        first, last = self.world.shard(self.batch)
        network = self.world.wrap(network, last - first)
        if self.compiled:
            torch.use_deterministic_algorithms(True)  # the compiler too
        self.network = torch.compile(network, dynamic=False) if self.compiled else network

    def begin(self, epoch: int) -> None:
        """Before the steps of `epoch`: whether the network looks twice in them, and SAM is on."""
        config = self.config
        self.sharp = config.sam > 0 and epoch >= config.sam_from * config.epochs
        if self.look is not None:
            self.look.looking = epoch >= config.look.start * config.epochs

    def __call__(self, batch: Batch) -> Tensor:
        scores = self._gradient(batch)
        if self.sharp:
            with optim.uphill(self.model, self.config.sam):
                self._gradient(batch)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model)
        return self.world.mean(scores)

    def _gradient(self, batch: Batch) -> Tensor:
        """Give the parameters the gradient of the loss on `batch`; this rank's [loss, top-1]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.network(batch.images)
            both = losses(output, batch.targets, self.config.label_smoothing, self.weights)
        weight = len(batch.images) * self.world.size / self.batch if self.world.size > 1 else 1.0
        loss = torch.stack(both).sum() * weight
        if batch.masks is not None:
            misplaced = map_losses.misplacement(output, batch, self.model.looks, self.world)
            loss = loss + self.config.attention_loss * misplaced
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        hits = output.logits.argmax(1) == batch.targets.argmax(1)
        return torch.stack([loss.detach(), hits.float().mean() * weight])


class CudaGraphStep(Step):
    """A `Step` captured as a CUDA graph, once per image size, and replayed in one launch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for group in self.optimizer.param_groups:  # a float would be captured as a constant
            group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
        self.side = torch.cuda.Stream(self.device)
        self.graph: torch.cuda.CUDAGraph | None = None
        # Of the images; whether there are masks; looks twice; SAM is on. Steps with this layout.
        self.layout, self.steps = (torch.Size(), False, False, False), 0

    def __call__(self, batch: Batch) -> Tensor:
        looking = self.look is not None and self.look.looking
        layout = batch.images.shape, batch.masks is not None, looking, self.sharp
        if layout != self.layout:
            self.layout, self.steps, self.graph = layout, 0, None
        self.steps += 1
        if self.graph is None and (self.steps != WARM_UP + 1 or not self._capture(batch)):
            return self._eager(batch)
        assert self.graph is not None
        for static, given in zip(self.inputs, batch, strict=True):
            if static is not None and given is not None:
                static.copy_(given)
        self.graph.replay()
        return self.result.clone()

    def _eager(self, batch: Batch) -> Tensor:
        """The step without a graph, on a side stream, as warming up before capture requires."""
        current = torch.cuda.current_stream(self.device)
        self.side.wait_stream(current)
        with torch.cuda.stream(self.side):
            result = super().__call__(batch)
        current.wait_stream(self.side)
        return result

    def _capture(self, batch: Batch) -> bool:
        """Capture the step without computing it; False where CUDA refuses."""
        masks = None if batch.masks is None else batch.masks.clone()
        self.inputs = Batch(batch.images.clone(), batch.targets.clone(), masks)
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the thread that fetches the next batch may allocate memory meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.result = super().__call__(self.inputs)
        except RuntimeError as error:
            progress.say(f"no CUDA graph, steps stay eager: {str(error).splitlines()[0]}")
            return False
        self.graph = graph
        return True


def build(
    model: AttentionBranchNetwork,
    optimizer: torch.optim.SGD,
    ema: optim.EMA | None,
    config: Train,
    images: int,
    world: World = SINGLE,
    weights: Tensor | None = None,
) -> Step:
    """The kind of step for the model's device and `config.epochs` over `images` images.

    Raises ParamsError where a batch has fewer images than there are ranks.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    compiled = on_gpu and (
        config.compile == "on" or (config.compile == "auto" and is_long(model, config, images))
    )
    batch = min(config.batch_size, images)
    if batch < world.size:
        what, key = f"smaller than {world.size} processes", "train.batch_size"
        remedy = "use a larger batch or fewer processes"
        raise ParamsError(what, f"{key} = {config.batch_size}", remedy)
    # Communication between ranks is not captured.
    if world.size > 1 or not on_gpu or config.compile == "off":
        return Step(model, optimizer, ema, config, compiled, world, batch, weights)
    progress.say(f"steps are replayed as a CUDA graph{', compiled' if compiled else ''}")
    return CudaGraphStep(model, optimizer, ema, config, compiled, world, batch, weights)


def class_weights(split: Split, config: Train, device: torch.device) -> Tensor | None:
    """float32 [K]: N / (K n) for a class of n of the N images, so that all classes weigh the same.

    The mean over the images is 1. A class without images weighs nothing. None: no weights.
    """
    if config.balance != "weights":
        return None
    counts = split.labels.cpu().bincount(minlength=len(split.classes)).double()
    present = counts > 0
    weights = torch.where(present, len(split) / (present.sum() * counts.clamp(min=1)), 0.0)
    return weights.float().to(device)


def is_long(model: AttentionBranchNetwork, config: Train, images: int) -> bool:
    """Whether compiling pays off in a training on `images` images."""
    epochs = [optim.crop_size(config, epoch) for epoch in range(config.epochs)]
    work = sum(epochs.count(size) * flops.training(model, size) for size in set(epochs))
    return images * work / RATE > LONG * len(set(epochs))
