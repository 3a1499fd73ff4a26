"""Trained weights: a safetensors file whose one header key says what they are weights of."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from abn import files
from abn.errors import DataError
from abn.model import AttentionBranchNetwork
from abn.resnet import ARCHS

OTHER = "name another file, or train anew"  # remedy


class Trained(NamedTuple):
    """A network in eval mode and what it was trained on."""

    model: AttentionBranchNetwork
    arch: str
    classes: tuple[str, ...]
    params: dict[str, Any]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of `model`'s state on the CPU, in the plain layout that files have."""
    state = model.state_dict()
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def save_all(
    folder: Path,
    snapshots: dict[str, dict[str, Tensor]],
    arch: str,
    classes: tuple[str, ...],
    params: dict[str, Any],
) -> None:
    """Write NAME.safetensors for each of `snapshots`; `folder` is replaced, whole or not at all.

    The same weights give the same bytes.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    meta = json.dumps({"arch": arch, "classes": classes, "params": params}, sort_keys=True)
    for name, state in snapshots.items():
        path = part / f"{name}.safetensors"
        write(path, state, {"abn": meta})
        files.sync(path)
    files.sync(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    files.sync(folder.absolute().parent)


def load(path: Path, device: torch.device) -> Trained:
    """The network at `path`, in eval mode on `device`; DataError when it is no such file."""
    if not path.is_file():
        raise DataError("no such checkpoint", path, "run `dvc repro train`, or name another file")
    try:
        header, state = read(path)
        meta = json.loads(header["abn"])
        arch, classes, params = meta["arch"], tuple(meta["classes"]), meta["params"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a checkpoint of this project ({error})", path, OTHER) from None
    if arch not in ARCHS:
        raise DataError(f"unknown arch {arch!r}", path, f"known are {', '.join(ARCHS)}")
    model = AttentionBranchNetwork(arch, len(classes))
    _compare(path, state, model.state_dict())
    model.load_state_dict(state)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trained(model.eval(), arch, classes, params)


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header of a safetensors file and all its tensors; SafetensorError where it is none."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.offset_keys()}


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """A safetensors file; of `header` keys there must be one, because several come in any order.

    Raises OSError where the disk refuses.
    """
    try:
        save_file(tensors, path, metadata=header)
    except SafetensorError as error:
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    path.chmod(0o644)  # safetensors leaves 0600


def sha256(path: Path) -> str:
    """The content of `path` in 64 hexadecimal digits: a model's name in tracking."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _compare(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """DataError on the first tensor that is missing, unknown or of another shape."""
    for name in sorted(found.keys() | wanted.keys()):
        has = tuple(found[name].shape) if name in found else "nothing"
        needs = tuple(wanted[name].shape) if name in wanted else "nothing"
        if has != needs:
            raise DataError(f"{name} holds {has} where the network has {needs}", path, OTHER)
