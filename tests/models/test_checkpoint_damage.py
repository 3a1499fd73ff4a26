"""Damaged checkpoints: the network that was saved, or one line."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from abn.models import checkpoint
from abn.runtime.errors import DataError
from tests import toys
from tests.damage import damaged

HEADER: dict[str, Any] = {
    "arch": "resnet18",
    "classes": toys.NAMES,
    "params": {
        "seed": 0,
        "train": {"epochs": 2, "batch_size": 8, "sizes": [32]},
        "data": {"holdout": 0.0},
    },
}
WORDS = [None, True, -1, 1.5, 2**70, "", "\x1b[2J", "k" * 5000, [], {}, [[]], ["red", "red"]]
VALUES = [float("nan"), float("inf"), 1e38]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where to write a checkpoint of a small network, which stands in for the real one."""
    stand_in = lambda arch, classes, *_, **__: toys.Network(classes)  # noqa: E731
    monkeypatch.setattr(checkpoint, "AttentionBranchNetwork", stand_in)
    return tmp_path / "model.safetensors"


def other_bytes(draws: random.Random) -> bytes:
    """Damage anywhere, more often in the header."""
    content = save(checkpoint.weights(toys.network()), {"abn": json.dumps(HEADER)})
    if draws.random() < 0.3:
        return damaged(content, draws, 4)
    end = 8 + int.from_bytes(content[:8], "little")
    header = damaged(content[8:end], draws, 3)
    return len(header).to_bytes(8, "little") + header + content[end:]


def other_tensors(draws: random.Random) -> bytes:
    """A tensor that is missing, extra, or of another type, shape or value."""
    state = checkpoint.weights(toys.network())
    name = draws.choice(list(state))
    tensor = state.pop(name)
    types = [torch.float16, torch.float64, torch.int8, torch.bool]
    changes = [
        tensor.to(draws.choice(types)),
        tensor.reshape(-1),
        tensor[None],
        torch.empty(0),
        torch.full_like(tensor.float(), draws.choice(VALUES)),
    ]
    if draws.random() < 0.9:
        state[draws.choice([name, name, "extra"])] = draws.choice(changes).contiguous()
    return save(state, {"abn": json.dumps(HEADER)})


def other_words(draws: random.Random) -> bytes:
    """A header that says something else."""
    header = json.loads(json.dumps(HEADER))
    section = draws.choice([header, header["params"], header["params"]["train"]])
    section[draws.choice(list(section))] = draws.choice(WORDS)
    text = json.dumps(header)
    metadata = draws.choice([{"abn": text}] * 6 + [{}, {"abn": text[:-9]}, {"abn": "[" * 100_000}])
    return save(checkpoint.weights(toys.network()), metadata)


@pytest.mark.parametrize("make", [other_bytes, other_tensors, other_words])
def test_a_damaged_checkpoint_is_the_saved_network_or_one_line(path: Path, make: Any) -> None:
    expected = toys.network().state_dict()
    for seed in range(60):
        path.write_bytes(make(random.Random(seed)))
        try:
            trained = checkpoint.load(path, toys.CPU)
        except DataError as error:
            assert error.line().isprintable() and len(error.line()) < 1000
        else:
            state = trained.model.state_dict()
            assert all(state[name].shape == tensor.shape for name, tensor in expected.items())
            assert all(tensor.isfinite().all() for tensor in state.values())
            assert len(trained.classes) == len(state["fc.bias"])
