"""Trained weights: a safetensors file whose one header key says what they are weights of."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from abn.config.params import Arch
from abn.models.abn import AttentionBranchNetwork
from abn.runtime import files
from abn.runtime.errors import DataError

OTHER = "name another file, or train anew"  # remedy
LONGEST = 1 << 20  # bytes of a header; that of a ResNet-152 has a tenth
KINDS = {torch.float32: "F32", torch.int64: "I64"}  # of the network's tensors, in safetensors


class Loop(BaseModel):
    """Of params.train, what the report tells."""

    epochs: int
    batch_size: int
    sizes: list[int]


class Drawn(BaseModel):
    """Of params.data, what the report tells."""

    holdout: float


class Recipe(BaseModel):
    """Of the parameters of a training, what later stages need; there are more."""

    seed: int
    train: Loop
    data: Drawn


def _distinct(classes: tuple[str, ...]) -> tuple[str, ...]:
    if not all(classes) or len(set(classes)) < len(classes):
        raise ValueError("an empty name, or one twice")
    return classes


class Header(BaseModel):
    """What a file says about its weights."""

    arch: Arch
    classes: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)]
    params: Recipe


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
    """The network at `path`, in eval mode on `device`; DataError when it is no such file.

    Nothing is taken from the file before all that its header says has been checked.
    """
    if not path.is_file():
        raise DataError("no such checkpoint", path, "run `dvc repro train`, or name another file")
    try:
        _check_length(path)
        with safe_open(path, framework="pt") as file:
            header, params = _header(file.metadata() or {})
            if 4 * len(header.classes) ** 2 > path.stat().st_size:  # a weight for each pair
                raise ValueError(f"too small for {len(header.classes)} classes")
            model = AttentionBranchNetwork(header.arch, len(header.classes))
            _compare(path, _layout(file), model.state_dict())
            state = {name: file.get_tensor(name) for name in file.offset_keys()}
    except (SafetensorError, ValueError) as error:
        raise DataError(f"not a checkpoint of this project ({_said(error)})", path, OTHER) from None
    _check_finite(path, state)
    model.load_state_dict(state)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Trained(model.eval(), header.arch, header.classes, params)


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


def _check_length(path: Path) -> None:
    """ValueError where the header of `path` is longer than any that was written here."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LONGEST:
        raise ValueError(f"a header of {length} bytes")


def _header(metadata: dict[str, str]) -> tuple[Header, dict[str, Any]]:
    """What the one key of the header says: typed, and the parameters as they are."""
    if (text := metadata.get("abn")) is None:
        raise ValueError("its header does not say so")
    header = Header.model_validate_json(text, strict=True)
    return header, json.loads(text)["params"]


def _layout(file: Any) -> dict[str, str]:
    """The type and shape of each tensor, as safetensors writes them: "F32 [64, 3, 7, 7]"."""
    slices = {name: file.get_slice(name) for name in file.offset_keys()}
    return {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in slices.items()}


def _compare(path: Path, found: dict[str, str], wanted: dict[str, Tensor]) -> None:
    """DataError on the first tensor that is missing, unknown or of another type or shape."""
    needed = {name: f"{KINDS[t.dtype]} {list(t.shape)}" for name, t in wanted.items()}
    for name in sorted(found.keys() | needed.keys()):
        has, needs = found.get(name, "nothing"), needed.get(name, "nothing")
        if has != needs:
            what = f"{name[:60]} holds {has[:60]} where the network has {needs}"
            raise DataError(what, path, OTHER)


def _check_finite(path: Path, state: dict[str, Tensor]) -> None:
    """DataError on the first tensor with a value that is no number: all it says would be false."""
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise DataError(f"{name} holds values that are not finite", path, OTHER)


def _said(error: Exception) -> str:
    """`error` in one short line."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "its header"
        return f"{key}: {first['msg'][:200]}"
    return str(error)[:200]
