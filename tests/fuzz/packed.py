"""Packed data sets with other bytes, tensors or words: a split that fits together, or one line."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from abn.data import packed
from abn.runtime.errors import DataError
from tests import toys
from tests.fuzz._bytes import damaged

COUNT, SIDE = 6, 8
WORDS = [None, True, 0, 2**70, "", "a", "\x1b[2J", "k" * 5000, [], {}, ["red"], [[]], [1, 2, 3, 4]]
WORDS += [["red", "red", "a", "b"], ["", "a", "b", "c"], "[" * 500]
TYPES = [torch.float16, torch.float32, torch.float64, torch.int8, torch.int32, torch.bool]
VALUES = [float("nan"), float("inf"), 0, -1, 4, 2**40]


def example(draws: random.Random, folder: Path) -> None:
    path = folder / "train.safetensors"
    make = draws.choice([_other_bytes, _other_tensors, _other_words])
    path.write_bytes(make(draws, _whole(folder)))
    try:
        split = packed.read(path)
    except DataError as error:
        line = error.line()
        assert line.startswith("error[DATA] ") and line.isprintable() and len(line) < 1000, line
        return
    count, side = split.images.shape[:2]
    assert split.images.shape == (count, side, side, 3) and split.images.dtype == torch.uint8
    assert split.labels.shape == (count,) and split.labels.dtype == torch.int64
    assert split.aspect.shape == (count,) and split.aspect.dtype == torch.float32
    assert split.aspect.isfinite().all() and (split.aspect > 0).all()
    assert all(0 <= label < len(split.classes) for label in split.labels.tolist())
    if split.masks is not None:
        assert split.masks.shape == (count, side, side) and split.masks.dtype == torch.uint8
    words = (*split.classes, split.source, split.digest)
    assert all(isinstance(word, str) for word in words) and all(split.classes)
    assert len(set(split.classes)) == len(split.classes)


@cache
def _whole(folder: Path) -> bytes:
    return toys.pack(folder / "whole", toys.split(COUNT, size=SIDE)).read_bytes()


def _meta(content: bytes) -> dict[str, Any]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8:end])["__metadata__"]["abn"])


def _other_bytes(draws: random.Random, content: bytes) -> bytes:
    """Damage anywhere, more of it in the header."""
    end = 8 + int.from_bytes(content[:8], "little")
    if draws.random() < 0.3:
        return damaged(content, draws, 4)
    header = damaged(content[8:end], draws, 3)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _other_tensors(draws: random.Random, content: bytes) -> bytes:
    """A sound file of tensors that are missing, too many, or of another type, shape or value."""
    state = load(content)
    name, wrong = draws.choice(list(state)), draws.choice(VALUES)
    changes: list[Callable[[Tensor], Tensor]] = [
        lambda tensor: tensor.to(draws.choice(TYPES)),
        lambda tensor: tensor.reshape(-1),
        lambda tensor: tensor[None],
        lambda tensor: tensor[:-1],
        lambda tensor: tensor[:0],
        lambda tensor: tensor.double().fill_(wrong).to(tensor.dtype),
    ]
    changed = draws.choice(changes)(state.pop(name)).contiguous()
    if draws.random() < 0.9:
        state[draws.choice([name, name, name, "more"])] = changed
    return save(state, {"abn": json.dumps(_meta(content))})


def _other_words(draws: random.Random, content: bytes) -> bytes:
    """A sound file that says something else of its tensors."""
    meta = _meta(content)
    key = draws.choice(list(meta))
    meta[key] = draws.choice(WORDS)
    if draws.random() < 0.2:
        del meta[key]
    text = draws.choice([json.dumps(meta)] * 8 + ["", "[]", "[" * 100_000, "null"])
    return save(load(content), draws.choice([{"abn": text}] * 9 + [{}]))
