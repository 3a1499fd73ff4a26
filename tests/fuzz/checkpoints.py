"""Checkpoints with other bytes, tensors or words: the network that wrote them, or one line."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save
from torch import Tensor

from abn.models import checkpoint
from abn.runtime.errors import DataError
from tests import toys
from tests.fuzz._bytes import damaged
from tests.models.test_checkpoint import META, toy_network

WORDS = [None, True, 0, -1, 1.5, 2**70, "", "a", "resnet18", "\x1b[2J", "k" * 5000, [], {}, ["a"]]
WORDS += [[[]], {"a": 1}, ["red", "red"], ["a", "b", "c", "d"], [0.5], float("nan"), "[" * 500]
TYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64]
SIZES = [0, 1, 7, 8, 9, 100, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 100_000_000, (1 << 63) - 1]


def example(draws: random.Random, folder: Path) -> None:
    path = folder / "model.safetensors"
    make = draws.choice([_other_bytes, _other_layout, _other_tensors, _other_words])
    path.write_bytes(make(draws))
    with mock.patch.object(checkpoint, "AttentionBranchNetwork", toy_network):
        try:
            found = checkpoint.load(path, toys.CPU)
        except DataError as error:
            line = error.line()
            assert line.startswith("error[DATA] ") and line.isprintable() and len(line) < 1000, line
            return
    assert len(found.classes) == len(set(found.classes)) > 0
    assert {"seed", "train", "data"} <= found.params.keys()
    for name, tensor in found.model.state_dict().items():
        assert tensor.dtype == _state()[name].dtype and tensor.shape == _state()[name].shape
        assert tensor.isfinite().all()


@cache
def _state() -> dict[str, Tensor]:
    return checkpoint.weights(toys.network())


@cache
def _whole() -> bytes:
    return save(_state(), {"abn": json.dumps(META)})


def _other_bytes(draws: random.Random) -> bytes:
    """Damage anywhere, more of it in the header."""
    end = 8 + int.from_bytes(_whole()[:8], "little")
    if draws.random() < 0.3:
        return damaged(_whole(), draws, 4)
    header = damaged(_whole()[8:end], draws, 3)
    length = len(header) if draws.random() < 0.9 else draws.choice(SIZES)
    return length.to_bytes(8, "little") + header + _whole()[end:]


def _other_layout(draws: random.Random) -> bytes:
    """A header of JSON that says something else of the tensors."""
    end = 8 + int.from_bytes(_whole()[:8], "little")
    header = json.loads(_whole()[8:end])
    for _ in range(draws.randint(1, 3)):
        name = draws.choice(list(header))
        match draws.randrange(4):
            case 0:
                header[name] = draws.choice(WORDS)
            case 1:
                header[draws.choice(["", "a", "\x1b", "k" * 5000, "fc.bias"])] = header.pop(name)
            case 2 if isinstance(header[name], dict) and "shape" in header[name]:
                key = draws.choice(["dtype", "shape", "data_offsets"])
                numbers = [draws.choice([0, 1, -1, 8, 4, 2**63, 2**64]) for _ in range(2)]
                header[name][key] = draws.choice([*WORDS, numbers, "F64", "F8_E5M2", "BF16", "U8"])
            case _:
                del header[name]
        if not header:
            break
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + _whole()[end:]


def _other_tensors(draws: random.Random) -> bytes:
    """A sound file of tensors that are missing, too many, or of another type, shape or value."""
    state = {name: tensor.clone() for name, tensor in _state().items()}
    name = draws.choice(list(state))
    wrong = draws.choice([float("nan"), float("inf"), -1.0, 1e38])
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda tensor: tensor.to(draws.choice(TYPES)),
        lambda tensor: tensor.reshape(-1),
        lambda tensor: tensor[None],
        lambda tensor: torch.cat([tensor.reshape(-1)] * 2),
        lambda tensor: torch.empty(0),
        lambda tensor: torch.full_like(tensor.float(), wrong),
    ]
    changed = draws.choice(changes)(state.pop(name))
    if draws.random() < 0.9:
        state[draws.choice([name, name, name, "more", f"{name}.x"])] = changed.contiguous()
    return save(state, {"abn": json.dumps(META)})


def _other_words(draws: random.Random) -> bytes:
    """A sound file that says something else of its tensors."""
    meta: Any = json.loads(json.dumps(META))
    section = draws.choice([meta, meta, meta["params"], meta["params"]["train"]])
    key = draws.choice(list(section))
    section[key] = draws.choice(WORDS)
    if draws.random() < 0.2:
        del section[key]
    text = json.dumps(meta)
    if draws.random() < 0.3:
        text = damaged(text.encode(), draws, 3).decode(errors="replace")
    return save(_state(), draws.choice([{"abn": text}] * 9 + [{}, {"ABN": text}, {"abn": ""}]))
