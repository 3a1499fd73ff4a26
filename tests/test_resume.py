"""An interrupted training goes on as if nothing had happened, and only if nothing changed."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from abn import checkpoint, optim, resume
from abn.model import AttentionBranchNetwork
from abn.params import Params, Train
from abn.resume import Row, Scratch
from abn.train import fit
from tests import toys

INPUTS: dict[str, Any] = {"recipe": {"seed": 0, "lr": 0.1}, "data": ["aa", "bb"], "device": "cpu"}


class Stop(Exception):
    """What comes between two epochs."""


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, epochs=3, batch_size=8, sizes=(32,), lr=0.02)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "resume/one")


def train(model: nn.Module, config: Train, scratch: Scratch, stop: int = 0) -> list[Row]:
    """Fit `model` to 16 images; in epoch `stop` someone presses Ctrl-C."""

    def watch(row: Row, speed: float) -> None:
        if row["epoch"] == stop:
            raise Stop

    return fit(model, toys.split(16), toys.split(8, seed=1), config, 0, scratch, watch)


def same(one: nn.Module, other: nn.Module) -> bool:
    weights = checkpoint.weights(other)
    return all(tensor.equal(weights[name]) for name, tensor in checkpoint.weights(one).items())


MIXED: dict[str, Any] = {"mixup": 0.2, "cutmix": 1.0, "mix_share": 0.5, "mix_until": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "select the best": {"select": "best"},
    "select the best of every second": {"select": "best", "validate_every": 2},
    "keep every epoch": {"save_every": 1},
    "without momentum": {"momentum": 0.0, "nesterov": False},
    "a moving average": {"ema": 0.75},
    "the best of a moving average": {"ema": 0.75, "select": "best", "save_every": 1},
    "all that is random": {"flip": "alternating", "jitter": 0.4, "erase": 0.5, **MIXED},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (2, 3)])
def test_an_interrupted_training_ends_with_the_same_bits(
    config: Train, changed: Callable[..., Train], tmp_path: Path, variant: str, stops: Any
) -> None:
    config = changed(config, **VARIANTS[variant])
    whole, parts = Scratch(tmp_path / "whole"), Scratch(tmp_path / "parts")
    model = toys.network()
    history = train(model, config, whole)
    for stop in stops:
        with pytest.raises(Stop):
            train(toys.network(), config, parts, stop)
    resumed = toys.network()
    assert train(resumed, config, parts) == history
    assert same(resumed, model)
    assert whole.snapshots().keys() == parts.snapshots().keys()
    for name, weights in whole.snapshots().items():
        assert all(tensor.equal(parts.kept(name)[key]) for key, tensor in weights.items())


def test_so_does_the_real_network(
    config: Train, changed: Callable[..., Train], tmp_path: Path
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        model = AttentionBranchNetwork("resnet18", 4)
        return model.to(memory_format=torch.channels_last)

    config = changed(config, epochs=2)
    model, resumed = network(), network()
    history = train(model, config, Scratch(tmp_path / "whole"))
    with pytest.raises(Stop):
        train(network(), config, Scratch(tmp_path / "parts"), stop=2)
    assert train(resumed, config, Scratch(tmp_path / "parts")) == history
    assert same(resumed, model)


def test_a_training_that_was_done_is_not_done_again(config: Train, scratch: Scratch) -> None:
    model, again = toys.network(), toys.network()
    history = train(model, config, scratch)
    assert train(again, config, scratch, stop=3) == history
    assert same(again, model)


def test_models_and_momentum_come_back_bit_for_bit(config: Train, scratch: Scratch) -> None:
    saved, found = (
        {"model": toys.network(seed=s), "average": toys.network(seed=s + 1)} for s in (0, 2)
    )
    one, other = (optim.sgd(models["model"], config) for models in (saved, found))
    saved["model"](torch.ones(2, 3, 32, 32)).logits.sum().backward()
    one.step()
    scratch.save(saved, one, [{"epoch": 1}])
    assert scratch.load(found, other) == [{"epoch": 1}]
    assert same(saved["model"], found["model"]) and same(saved["average"], found["average"])
    for ours, theirs in zip(saved["model"].parameters(), found["model"].parameters(), strict=True):
        if ours.grad is not None:
            momentum = other.state[theirs]["momentum_buffer"]
            assert momentum.equal(one.state[ours]["momentum_buffer"])
            assert momentum.stride() == theirs.stride()  # fused SGD walks through both in step


def test_nothing_saved_is_a_fresh_start(config: Train, scratch: Scratch) -> None:
    model = toys.network()
    assert scratch.load({"model": model}, optim.sgd(model, config)) == []
    assert same(model, toys.network())


@pytest.mark.parametrize("content", [b"", b"text", b"cut"])
def test_a_damaged_state_is_a_fresh_start_that_says_so(
    config: Train, scratch: Scratch, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    train(toys.network(), config, scratch)
    state = scratch.folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] if content == b"cut" else content)
    model = toys.network()
    capsys.readouterr()
    assert scratch.load({"model": model}, optim.sgd(model, config)) == []
    assert same(model, toys.network())
    (line,) = capsys.readouterr().err.splitlines()
    assert "state.safetensors: not readable" in line and "training starts afresh" in line


def test_a_save_that_was_cut_off_leaves_the_one_before(config: Train, scratch: Scratch) -> None:
    history = train(toys.network(), config, scratch)
    (scratch.folder / "state.part").write_bytes(b"half")
    model = toys.network()
    assert scratch.load({"model": model}, optim.sgd(model, config)) == history


def test_kept_weights_come_back_by_name(scratch: Scratch) -> None:
    scratch.keep("epoch-0010", toys.network(seed=1))
    scratch.keep("epoch-0002", toys.network(seed=2))
    scratch.keep("best", toys.network(seed=3))
    assert list(scratch.snapshots()) == ["epoch-0002", "epoch-0010"]
    model = toys.network()
    model.load_state_dict(scratch.kept("best"))
    assert same(model, toys.network(seed=3))


def test_a_removed_training_is_forgotten(config: Train, scratch: Scratch) -> None:
    scratch.remove()  # nothing there yet
    train(toys.network(), config, scratch)
    scratch.remove()
    assert not scratch.folder.exists()


def test_a_fingerprint_is_a_name_for_a_folder_that_repeats() -> None:
    name = resume.fingerprint(**INPUTS)
    assert len(name) == 16 and set(name) <= set("0123456789abcdef")
    assert name == resume.fingerprint({"lr": 0.1, "seed": 0}, ["aa", "bb"], "cpu")


CHANGES: dict[str, Any] = {
    "recipe": {"seed": 0, "lr": 0.2},
    "data": ["aa", "cc"],
    "device": "cuda:0 (some GPU)",
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_input_has_another_fingerprint(name: str) -> None:
    assert resume.fingerprint(**INPUTS | {name: CHANGES[name]}) != resume.fingerprint(**INPUTS)


def test_another_version_of_torch_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = resume.fingerprint(**INPUTS)
    monkeypatch.setattr(torch, "__version__", "1.0")
    assert resume.fingerprint(**INPUTS) != before


@pytest.mark.parametrize("name", ["abn.extra", "stages.extra", "__main__"])
def test_edited_code_has_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    module = ModuleType(name)
    module.__file__ = str(tmp_path / "extra.py")
    monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "extra.py").write_text("one = 1")
    before = resume.fingerprint(**INPUTS)
    (tmp_path / "extra.py").write_text("one = 2")
    assert resume.fingerprint(**INPUTS) != before
