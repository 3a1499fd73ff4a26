"""What an unfinished training leaves behind, so that the same command goes on where it stopped.

It lives outside DVC's outputs, in a folder named by a fingerprint of everything the result depends
on, is loaded only for that fingerprint, and goes when the training is done.
"""

import hashlib
import json
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from abn import checkpoint, progress
from abn.checkpoint import weights

Row = dict[str, float]


def fingerprint(recipe: dict[str, Any], data: list[str], device: str) -> str:
    """A name for one training: its params, digests of its data, its code, versions and device."""
    versions = [platform.python_version(), torch.__version__]
    machine = [device, torch.backends.cpu.get_cpu_capability()]
    inputs = [recipe, data, _code(), versions, machine]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _code() -> dict[str, str]:
    """Digests of this project's modules that are loaded by now."""
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for name, file in files.items()
        if file and name.partition(".")[0] in ("__main__", "abn", "stages")
    }


class Scratch:
    """The folder of one unfinished training: its state after an epoch, and the weights it keeps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self, models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, history: list[Row]
    ) -> None:
        """Replace the saved state by the present one, at once or not at all."""
        state = {
            f"{name}/{key}": tensor
            for name, model in models.items()
            for key, tensor in weights(model).items()
        }
        for index, fields in optimizer.state_dict()["state"].items():
            momentum = fields["momentum_buffer"]
            state[f"momentum/{index}"] = momentum.to("cpu", copy=True).contiguous()
        self._write("state", state, history)

    def load(self, models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> list[Row]:
        """Put the saved state into all of them and return its history; [] where there is none."""
        try:
            header, state = checkpoint.read(self._path("state"))
            history: list[Row] = json.loads(header["history"])
        except FileNotFoundError:
            return []
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            progress.say(f"{self._path('state')}: not readable ({error}); training starts afresh")
            return []
        for name, model in models.items():
            model.load_state_dict(dict(_under(f"{name}/", state)))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for index, tensor in _under("momentum/", state):
            parameter = parameters[int(index)]
            # In the parameter's layout: fused SGD walks through the memory of both in step.
            momentum = torch.empty_like(parameter).copy_(tensor)
            optimizer.state[parameter]["momentum_buffer"] = momentum
        return history

    def keep(self, name: str, model: nn.Module) -> None:
        """Keep `model`'s weights as they are now under `name`."""
        self._write(name, weights(model), [])

    def kept(self, name: str) -> dict[str, Tensor]:
        """The weights kept under `name`."""
        return checkpoint.read(self._path(name))[1]

    def snapshots(self) -> dict[str, dict[str, Tensor]]:
        """The weights kept of single epochs, by name."""
        names = sorted(path.stem for path in self.folder.glob("epoch-*.safetensors"))
        return {name: self.kept(name) for name in names}

    def remove(self) -> None:
        """Forget this training."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _write(self, name: str, tensors: dict[str, Tensor], history: list[Row]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{name}.part"
        save_file(tensors, part, metadata={"history": json.dumps(history)})
        part.replace(self._path(name))


def _under(prefix: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors whose names begin with `prefix`, without it."""
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor
