"""All that changes during a training, as tensors and numbers to save and restore."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from abn.models.checkpoint import weights
from abn.training.distributed import World

Row = dict[str, float]  # scores of an epoch by name


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

    def restore(self, tensors: dict[str, Tensor], history: list[Row]) -> None:
        """Replace the present state by `tensors` and `history`."""
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


def _under(prefix: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names begin with `prefix`, without it."""
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor
