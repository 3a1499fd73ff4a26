"""All that changes during a training, as tensors and numbers to save and restore."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from abn.models.checkpoint import weights
from abn.training.distributed import World

Row = dict[str, float]  # scores of an epoch by name
ALWAYS = {"epoch", "size", "lr", "train_loss", "train_top1"}  # in every row


@dataclass
class State:
    """A training after some epochs and some steps of the next."""

    models: Mapping[str, nn.Module]  # "model", and "ema" if there is one
    optimizer: torch.optim.Optimizer
    history: list[Row] = field(default_factory=list)  # one row per finished epoch
    step_losses: list[Tensor] = field(default_factory=list)  # [loss, top-1] per step since then
    best: dict[str, Tensor] = field(default_factory=dict)  # weights of the best epoch, if wanted

    @property
    def position(self) -> tuple[int, int]:
        """Finished epochs, and steps of the next."""
        return len(self.history), len(self.step_losses)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as copies on the CPU."""
        tensors = {f"best/{key}": tensor for key, tensor in self.best.items()}
        for name, model in self.models.items():
            tensors |= {f"{name}/{key}": tensor for key, tensor in weights(model).items()}
        for name, parameter in self._parameters():
            if (momentum := self.optimizer.state[parameter].get("momentum_buffer")) is not None:
                tensors[f"momentum/{name}"] = momentum.to("cpu", copy=True).contiguous()
        losses = torch.stack(self.step_losses).cpu() if self.step_losses else torch.empty(0, 2)
        return tensors | {"step_losses": losses}

    def check(self, tensors: dict[str, Tensor], history: list[Row]) -> None:
        """ValueError, KeyError or TypeError unless `tensors` and `history` fit this training."""
        check_rows(history)
        expected = {"step_losses": torch.empty(len(tensors["step_losses"]), 2)}
        for name, model in self.models.items():
            expected |= _named(name, model.state_dict())
        best = _named("best", self.models["model"].state_dict())
        expected |= best if tensors.keys() & best.keys() else {}
        momentum = _named("momentum", dict(self._parameters()))  # of those that have had a gradient
        expected |= {name: momentum[name] for name in tensors.keys() & momentum.keys()}
        if odd := sorted(tensors.keys() ^ expected.keys()):
            raise ValueError(f"{odd[0]} is {'of no use' if odd[0] in tensors else 'missing'}")
        for name, tensor in tensors.items():
            wanted = expected[name]
            if (tensor.dtype, tensor.shape) != (wanted.dtype, wanted.shape):
                found = f"{tensor.dtype} {list(tensor.shape)}"
                raise ValueError(f"{name} is {found}, not {wanted.dtype} {list(wanted.shape)}")

    def restore(self, tensors: dict[str, Tensor], history: list[Row]) -> None:
        """Replace the present state by `tensors` and `history`, which were checked."""
        for name, model in self.models.items():
            model.load_state_dict(dict(_under(f"{name}/", tensors)))
        for name, parameter in self._parameters():
            if (momentum := tensors.get(f"momentum/{name}")) is not None:
                # In the parameter's memory layout: fused SGD walks through both in step.
                buffer = torch.empty_like(parameter).copy_(momentum)
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        device = next(self.models["model"].parameters()).device
        self.step_losses = list(tensors["step_losses"].to(device).unbind())
        self.best, self.history = dict(_under("best/", tensors)), history

    def broadcast(self, world: World) -> None:
        """Give every rank the state of rank 0, except `best`, which only rank 0 needs."""
        if world.size == 1:
            return
        device = next(self.models["model"].parameters()).device
        described = [self.history, len(self.step_losses), any(self.optimizer.state.values())]
        received = world.broadcast_str(json.dumps(described), device)
        self.history, steps, has_momentum = json.loads(received)
        for model in self.models.values():
            world.broadcast(model.state_dict().values())
        for _, parameter in self._parameters() if has_momentum else ():
            state = self.optimizer.state[parameter]
            world.broadcast([state.setdefault("momentum_buffer", torch.zeros_like(parameter))])
        empty = torch.empty(steps, 2, device=device)
        losses = torch.stack(self.step_losses) if self.step_losses else empty
        world.broadcast([losses])
        self.step_losses = list(losses.unbind())

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.models["model"].named_parameters()


def check_rows(history: list[Row]) -> None:
    """ValueError, KeyError or TypeError unless `history` has a row of scores for each epoch."""
    if not isinstance(history, list):
        raise TypeError("the history is no list of rows")
    for epoch, row in enumerate(history, start=1):
        if row["epoch"] != epoch or not row.keys() >= ALWAYS:
            raise ValueError(f"the history has no scores of epoch {epoch}")
        if odd := [key for key, value in row.items() if not math.isfinite(value)]:
            raise ValueError(f"{odd[0]} of epoch {epoch} is not finite")


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{key}": tensor for key, tensor in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names begin with `prefix`, without it."""
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor
