"""An interrupted training goes on as if nothing had happened, and only if nothing changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from abn import retention
from abn.config.params import Params, Train
from abn.models import checkpoint
from abn.models.abn import AttentionBranchNetwork
from abn.runtime.errors import BusyError, DataError, NotFiniteError
from abn.runtime.signals import Stopped, Stopper
from abn.training import optim, resume
from abn.training.distributed import World
from abn.training.loop import fit
from abn.training.resume import Row, Scratch, State
from abn.training.step import Step
from tests import toys

INPUTS: dict[str, Any] = {
    "params": {"lr": 0.1, "seed": 0},
    "code": {"abn/training/loop.py": "ab"},
    "data": ["aa", "bb"],
    "machine": ["cpu (2 threads)"],
}


class Killed(Exception):
    """The process is gone before it could save anything."""


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, epochs=3, batch_size=8, sizes=(32,), lr=0.02)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "resume/one")


def train(model: nn.Module, config: Train, scratch: Scratch, images: int = 32) -> list[Row]:
    """Fit `model` to so many images, in steps of 8."""
    splits = toys.split(images), toys.split(8, seed=1)
    return fit(model, *splits, config, 0, scratch, lambda row, speed: None)


def interrupted(step: int, way: str, monkeypatch: pytest.MonkeyPatch, *call: Any) -> None:
    """`train(*call)`, whose `step`-th step, from 1 on, is its last: killed, or asked to stop."""
    count, whole = [0], Step.__call__

    def counting(self: Step, batch: Any) -> Tensor:
        count[0] += 1
        if count[0] == step and way == "asked to stop":
            call[2].stopper._note(15, None)
        result = whole(self, batch)
        if count[0] == step and way == "killed":
            raise Killed
        return result

    with monkeypatch.context() as patch, pytest.raises((Killed, Stopped)):
        patch.setattr(Step, "__call__", counting)
        train(*call)


def same(one: nn.Module, other: nn.Module) -> bool:
    weights = checkpoint.weights(other)
    return all(tensor.equal(weights[name]) for name, tensor in checkpoint.weights(one).items())


def state_of(model: nn.Module, config: Train, **more: Any) -> State:
    return State({"model": model}, optim.sgd(model, config), **more)


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
@pytest.mark.parametrize(("way", "every"), [("killed", 600), ("killed", 0), ("asked to stop", 600)])
def test_an_interrupted_training_ends_with_the_same_bits(
    config: Train,
    changed: Callable[..., Train],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    way: str,
    every: float,
) -> None:
    """Between epochs and in the middle of one, twice too; as usual, after each of its 12 steps."""
    config = changed(config, **VARIANTS[variant])
    whole, model = Scratch(tmp_path / "whole"), toys.network()
    history = train(model, config, whole)
    every_step = [(step,) for step in range(1, 13)] if variant == "as usual" else [(4,), (6,)]
    for steps in [*every_step, (3, 4)]:
        parts = tmp_path / f"parts-{steps}"
        for step in steps:
            scratch = Scratch(parts, every, stopper=Stopper())
            interrupted(step, way, monkeypatch, toys.network(), config, scratch)
        resumed, last = toys.network(), Scratch(parts, every)
        assert train(resumed, config, last) == history
        assert same(resumed, model)
        kept = last.snapshots()
        assert kept.keys() == whole.snapshots().keys()
        for name, weights in whole.snapshots().items():
            assert all(tensor.equal(kept[name][key]) for key, tensor in weights.items())


def test_so_does_the_real_network(
    config: Train, changed: Callable[..., Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        model = AttentionBranchNetwork("resnet18", 4)
        return model.to(memory_format=torch.channels_last)

    config = changed(config, epochs=2)
    model, resumed = network(), network()
    history = train(model, config, Scratch(tmp_path / "whole"), 16)
    parts = Scratch(tmp_path / "parts", stopper=Stopper())
    interrupted(1, "asked to stop", monkeypatch, network(), config, parts, 16)
    assert train(resumed, config, Scratch(tmp_path / "parts"), 16) == history
    assert same(resumed, model)


def test_who_is_asked_to_stop_finishes_the_step_and_saves_it(
    config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    scratch = Scratch(tmp_path, stopper=Stopper())
    interrupted(6, "asked to stop", monkeypatch, toys.network(), config, scratch)
    train(toys.network(), config, Scratch(tmp_path))
    assert "RESUMED after epoch 1, step 2 of the next" in capsys.readouterr().err


def test_a_training_that_was_done_is_not_done_again(
    config: Train, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, again = toys.network(), toys.network()
    history = train(model, config, scratch)
    monkeypatch.setattr(Step, "__call__", None)
    assert train(again, config, scratch) == history
    assert same(again, model)


def test_all_of_a_state_comes_back_bit_for_bit(config: Train, scratch: Scratch) -> None:
    ours, theirs = (
        State(
            {"model": toys.network(seed=s), "average": toys.network(seed=s + 1)},
            torch.optim.SGD([torch.zeros(1)]),
        )
        for s in (0, 2)
    )
    for state in (ours, theirs):
        state.optimizer = optim.sgd(state.models["model"], config)
    ours.models["model"](torch.ones(2, 3, 32, 32)).logits.sum().backward()
    ours.optimizer.step()
    ours.history, ours.seen = [{"epoch": 1, "loss": 0.1}], [torch.tensor([0.3, 0.7])]
    ours.best = {"a": torch.arange(3.0)}
    scratch.save(ours)
    assert scratch.load(theirs) == "RESUMED after epoch 1, step 1 of the next"
    assert all(same(ours.models[name], theirs.models[name]) for name in ours.models)
    assert theirs.history == ours.history and theirs.best["a"].equal(ours.best["a"])
    assert torch.stack(theirs.seen).equal(torch.stack(ours.seen))
    for (_, one), (_, other) in zip(ours._parameters(), theirs._parameters(), strict=True):
        if one.grad is not None:
            momentum = theirs.optimizer.state[other]["momentum_buffer"]
            assert momentum.equal(ours.optimizer.state[one]["momentum_buffer"])
            assert momentum.stride() == other.stride()  # fused SGD walks through both in step


def test_nothing_saved_is_a_fresh_start(config: Train, scratch: Scratch) -> None:
    model = toys.network()
    assert scratch.load(state_of(model, config)) == "FRESH"
    assert same(model, toys.network())


def states(scratch: Scratch) -> list[str]:
    return sorted(path.name for path in scratch.folder.iterdir())


def test_the_last_two_states_are_kept_each_with_its_record(config: Train, tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, every=0)
    train(toys.network(), config, scratch)
    names = ["state-0002-00000004", "state-0003-00000000"]
    assert states(scratch) == [f"{n}.{kind}" for n in names for kind in ("json", "safetensors")]


def two_states(scratch: Scratch, config: Train) -> nn.Module:
    """Commit the weights of seed 1, then of seed 2; give back those of seed 1."""
    first = toys.network(seed=1)
    scratch.save(state_of(first, config, history=[{"epoch": 1}]))
    scratch.save(state_of(toys.network(seed=2), config, history=[{"epoch": 1}, {"epoch": 2}]))
    return first


def damages(content: bytes, draws: Any) -> list[bytes]:
    """`content` with one byte changed, and cut, each in 100 places."""
    places = torch.randint(len(content), (100,), generator=draws).tolist()
    flipped = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in places]
    return flipped + [content[:i] for i in places]


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_state_with_one_false_byte_is_set_aside_and_the_one_before_is_used(
    config: Train, scratch: Scratch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    first = two_states(scratch, config)
    file = scratch.folder / f"state-0002-00000000.{kind}"
    record = file.with_suffix(".json")
    content, recorded = file.read_bytes(), record.read_bytes()
    data = file.with_suffix(".safetensors").read_bytes()
    for damaged in damages(content, torch.Generator().manual_seed(0)):
        record.write_bytes(recorded)
        file.with_suffix(".safetensors").write_bytes(data)
        file.write_bytes(damaged)
        found = state_of(toys.network(), config)
        assert scratch.load(found).startswith("RESUMED after epoch 1,")
        assert same(found.models["model"], first)
        assert "set aside, the one before is used" in capsys.readouterr().err
        assert record.with_suffix(".bad").exists()


def test_a_state_whose_record_is_missing_does_not_count(config: Train, scratch: Scratch) -> None:
    first = two_states(scratch, config)
    (scratch.folder / "state-0002-00000000.json").unlink()
    (scratch.folder / ".tmpAbCdEf").write_bytes(b"half")  # as safetensors leaves it when killed
    (scratch.folder / "state-0003-00000000.safetensors.part").write_bytes(b"half")
    found = state_of(toys.network(), config)
    assert scratch.load(found).startswith("RESUMED after epoch 1,")
    assert same(found.models["model"], first)
    assert states(scratch) == ["state-0001-00000000.json", "state-0001-00000000.safetensors"]


def test_a_disk_that_is_full_costs_a_warning_and_no_state(
    config: Train, scratch: Scratch, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model = toys.network(seed=1)
    scratch.save(state_of(model, config, history=[{"epoch": 1}]))

    def full(tensors: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    scratch.save(state_of(toys.network(seed=2), config, history=[{"epoch": 1}, {"epoch": 2}]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("no checkpoint (No space left on device); training goes on")
    assert len(states(scratch)) == 2
    found = state_of(toys.network(), config)
    scratch.load(found)
    assert same(found.models["model"], model)


def test_a_state_is_never_saved_once_the_loss_is_lost(
    config: Train, changed: Callable[..., Train], tmp_path: Path
) -> None:
    wild, scratch = changed(config, lr=1e30, warmup=0.0), Scratch(tmp_path, every=0)
    with pytest.raises(NotFiniteError):
        train(toys.network(), wild, scratch)
    for record in scratch._records("state-"):
        assert all(tensor.isfinite().all() for tensor in [scratch._read(record)[0]["seen"]])


def test_saving_takes_no_more_than_its_share_of_the_time(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    scratch.last, scratch.cost = 0.0, 10.0  # seconds: 2 % of 500
    for now[0], due, at_the_end in ((499, False, False), (501, False, True), (601, True, True)):
        assert (scratch.due(), scratch.due(epoch_ends=True)) == (due, at_the_end)
    scratch.cost = 20.0
    assert not scratch.due() and not scratch.due(epoch_ends=True)
    scratch.every = 0
    assert scratch.due()


def test_kept_weights_come_back_by_name(scratch: Scratch) -> None:
    scratch.keep("epoch-0010", checkpoint.weights(toys.network(seed=1)))
    scratch.keep("epoch-0002", checkpoint.weights(toys.network(seed=2)))
    found = scratch.snapshots()
    assert list(found) == ["epoch-0002", "epoch-0010"]
    model = toys.network()
    model.load_state_dict(found["epoch-0002"])
    assert same(model, toys.network(seed=2))


def test_damaged_kept_weights_are_refused(scratch: Scratch) -> None:
    scratch.keep("epoch-0001", {"a": torch.zeros(100)})
    (scratch.folder / "epoch-0001.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"damaged: .*epoch-0001.*ABN_RESUME=never"):
        scratch.snapshots()


@pytest.fixture
def ended(config: Train, tmp_path: Path) -> Path:
    """The folder of a training that has ended, beside its weights."""
    folder, weights = tmp_path / ".resume" / "one", tmp_path / "weights"
    weights.write_bytes(b"weights")
    with resume.training(folder) as scratch:
        train(toys.network(), config, scratch)
        scratch.finish(weights)
    return folder


def test_of_a_training_that_has_ended_the_last_state_stays_until_its_weights_are_evaluated(
    config: Train, ended: Path, tmp_path: Path
) -> None:
    """DVC may have died, or had no room, before it recorded them, and removes them to run again."""
    assert states(Scratch(ended)) == [
        "done", *(f"state-0003-00000000.{kind}" for kind in ("json", "safetensors"))
    ]  # fmt: skip
    with resume.training(ended) as scratch:
        said = scratch.load(state_of(toys.network(), config))
    assert said == "RESUMED after epoch 3, step 0 of the next: it had ended; " + (
        "ABN_RESUME=never trains anew"
    )
    retention.forget(ended.parent, checkpoint.sha256(tmp_path / "weights"))
    assert not ended.exists()


def test_the_next_training_takes_away_what_has_ended(ended: Path) -> None:
    with resume.training(ended.with_name("two")):
        assert not ended.exists()


def test_a_state_that_is_damaged_after_the_end_is_a_fresh_start_that_has_not_ended(
    config: Train, ended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ended / "state-0003-00000000.safetensors").write_bytes(b"half")
    assert Scratch(ended).load(state_of(toys.network(), config)) == "FRESH"
    assert not (ended / "done").exists()


def test_only_the_main_process_touches_what_has_ended(
    config: Train, ended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(State, "share", lambda state, world: None)
    Scratch(ended, world=World(rank=1, size=2)).load(state_of(toys.network(), config))
    assert len(states(Scratch(ended))) == 3


def test_trained_anew_nothing_of_what_has_ended_is_used(
    config: Train, ended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABN_RESUME", "never")
    with resume.training(ended) as scratch:
        assert scratch.load(state_of(toys.network(), config)) == "FRESH"


def test_a_training_that_does_not_end_well_leaves_all(config: Train, tmp_path: Path) -> None:
    folder = tmp_path / ".resume" / "one"
    with pytest.raises(Killed), resume.training(folder) as scratch:
        train(toys.network(), config, scratch)
        raise Killed
    assert len(states(scratch)) == 2 * len(scratch._records("state-")) > 0
    with resume.training(folder) as scratch:
        assert scratch.load(state_of(toys.network(), config)).startswith("RESUMED after epoch 3")


def test_a_scratch_whose_removal_is_interrupted_is_whole_or_a_fresh_start(
    config: Train, changed: Callable[..., Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, whole, count = changed(config, save_every=1), os.unlink, [0]

    def unlink(path: Any, **options: Any) -> None:
        count[0] -= 1
        if count[0] < 0:
            raise Killed
        whole(path, **options)

    for removed in range(9):  # the mark, a state and three epochs, two files each
        folder = tmp_path / str(removed) / "one"
        with resume.training(folder) as scratch:
            train(toys.network(), config, scratch)
            scratch.finish(Path(__file__))
        count[0] = removed
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "unlink", unlink)
            retention.forget(folder.parent)
        found = scratch.load(state_of(toys.network(), config))
        assert found == "FRESH" or len(scratch.snapshots()) == 3, f"{removed} files were removed"


def test_resume_never_clears_what_was_there(
    config: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_states(Scratch(tmp_path / "one"), config)
    monkeypatch.setenv("ABN_RESUME", "never")
    with resume.training(tmp_path / "one") as scratch:
        assert scratch.load(state_of(toys.network(), config)) == "FRESH"


def test_the_same_training_is_not_done_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABN_WAIT", "0.1")
    message = f"same training is under way; process {os.getpid()};"
    with (
        resume.training(tmp_path / "one"),
        pytest.raises(BusyError, match=message),
        resume.training(tmp_path / "one"),
    ):
        pass


def test_a_fingerprint_is_a_name_for_a_folder_that_repeats() -> None:
    name = resume.fingerprint(**INPUTS)
    assert len(name) == 16 and set(name) <= set("0123456789abcdef")
    again = json.loads(json.dumps(INPUTS)) | {"params": {"seed": 0, "lr": 0.1}}
    assert name == resume.fingerprint(**again)


CHANGES: dict[str, Any] = {
    "params": {"lr": 0.2, "seed": 0},
    "code": {"abn/training/loop.py": "ac"},
    "data": ["aa", "cc"],
    "machine": ["cpu (1 threads)"],
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_input_has_another_fingerprint(name: str) -> None:
    assert resume.fingerprint(**INPUTS | {name: CHANGES[name]}) != resume.fingerprint(**INPUTS)
