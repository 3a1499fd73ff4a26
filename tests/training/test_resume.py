"""An interrupted training continues as if nothing had happened, and only if nothing changed."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from abn.config.params import Params, Train
from abn.models import checkpoint
from abn.runtime import files, locks
from abn.runtime.errors import BusyError, DataError, ParamsError
from abn.runtime.signals import GracefulStop, Stopped
from abn.training import optim, resume
from abn.training.loop import fit
from abn.training.resume import ResumeStore
from abn.training.state import Row, State
from abn.training.step import Step
from tests import toys


class Killed(Exception):
    """The process is gone before it could save anything."""


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, epochs=3, batch_size=8, sizes=(32,), lr=0.02)


@pytest.fixture
def store(tmp_path: Path) -> ResumeStore:
    return ResumeStore(tmp_path / "resume/one")


def train(
    model: nn.Module, config: Train, store: ResumeStore, images: int = 32, **more: Any
) -> list[Row]:
    """Fit `model` to `images` images, in steps of 8."""
    splits = toys.split(images), toys.split(8, seed=1)
    return fit(model, *splits, config, seed=0, resume=store, **more)


def interrupted(
    step: int, how: str, monkeypatch: pytest.MonkeyPatch, *call: Any, **more: Any
) -> None:
    """`train(*call)` whose `step`-th step, from 1 on, is its last: killed, or asked to stop."""
    count, original, stop = [0], Step.__call__, GracefulStop()

    def counting(self: Step, batch: Any) -> Tensor:
        count[0] += 1
        if count[0] == step and how == "asked to stop":
            stop._handle(15, None)
        result = original(self, batch)
        if count[0] == step and how == "killed":
            raise Killed
        return result

    with monkeypatch.context() as patch, pytest.raises((Killed, Stopped)):
        patch.setattr(Step, "__call__", counting)
        train(*call, stop=stop, **more)


def same(one: nn.Module, other: nn.Module) -> bool:
    weights = checkpoint.weights(other)
    return all(tensor.equal(weights[name]) for name, tensor in checkpoint.weights(one).items())


def row(epoch: int) -> Row:
    return {"epoch": epoch, "size": 32, "lr": 0.1, "train_loss": 0.5, "train_top1": 0.5}


def state_of(model: nn.Module, config: Train, epochs: int = 0) -> State:
    history = [row(epoch + 1) for epoch in range(epochs)]
    return State({"model": model}, optim.sgd(model, config), history)


MIXED: dict[str, Any] = {"mixup": 0.2, "cutmix": 1.0, "mix_share": 0.5, "mix_until": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "select the best": {"select": "best"},
    "select the best of every second": {"select": "best", "validate_every": 2},
    "save every epoch": {"save_every": 1},
    "without momentum": {"momentum": 0.0, "nesterov": False},
    "the best of a moving average": {"ema": 0.75, "select": "best", "save_every": 1},
    "masks of some images": {"attention_loss": 0.5, "attention_masks": 0.5, "erase": 0.5},
    "look": {},
    "sam": {"sam": 0.05, "sam_from": 0.3, "ema": 0.75},
    "muon": {"optimizer": "muon"},
    "look with muon and sam": {"optimizer": "muon", "sam": 0.05},
    "all that is random": {"flip": "alternating", "jitter": 0.4, "trivial": 0.5, "erase": 0.5}
    | MIXED,
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("how", "every"), [("killed", 600), ("killed", 0), ("asked to stop", 600)])
def test_an_interrupted_training_ends_with_the_same_bits(
    config: Train,
    changed: Callable[..., Train],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variant: str,
    how: str,
    every: float,
) -> None:
    """Between epochs, within one, and twice; by default after each of the 12 steps."""
    config = changed(config, **VARIANTS[variant])
    attention = "look" if variant.startswith("look") else "residual"
    network: Callable[[], toys.Network] = partial(toys.network, attention=attention)
    reference, model = ResumeStore(tmp_path / "reference"), network()
    history = train(model, config, reference)
    each_step = [(step,) for step in range(1, 13)] if variant == "default" else [(4,), (6,)]
    for steps in [*each_step, (3, 4)]:
        folder = tmp_path / f"interrupted-{steps}"
        for step in steps:
            store = ResumeStore(folder, every)
            interrupted(step, how, monkeypatch, network(), config, store)
        resumed, last = network(), ResumeStore(folder, every)
        assert train(resumed, config, last) == history
        assert same(resumed, model)
        snapshots = last.snapshots()
        assert snapshots.keys() == reference.snapshots().keys()
        for name, weights in reference.snapshots().items():
            assert all(tensor.equal(snapshots[name][key]) for key, tensor in weights.items())


@pytest.mark.parametrize("how", ["killed", "asked to stop"])
@pytest.mark.parametrize(("attention", "freeze"), [("residual", "layer1"), ("look", "none")])
def test_a_fine_tuning_that_was_interrupted_ends_with_the_same_bits(
    config: Train,
    changed: Callable[..., Train],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attention: Any,
    freeze: str,
    how: str,
) -> None:
    """A start from a file, frozen parts, a rate for what is new, weights of unequal classes."""
    start = toys.start(tmp_path / "starts", attention)
    config = changed(config, **start, freeze=freeze, new_lr=4.0, balance="weights", ema=0.75)
    unequal = {"images": 35}  # 9, 9, 9 and 8 of the four classes
    model, new = toys.begun(config, attention=attention)
    assert new >= {"fc.weight", "fc.bias", "att_conv2.weight"} and "layer1.weight" not in new
    first = checkpoint.weights(model)
    history = train(model, config, ResumeStore(tmp_path / "reference"), new=new, **unequal)
    learnt = {name for name, x in checkpoint.weights(model).items() if not x.equal(first[name])}
    held = {"conv1.weight", "bn1.weight", "bn1.running_mean", "layer1.weight"}
    assert "fc.weight" in learnt and held & learnt == (set() if freeze != "none" else held)
    for steps in [(2,), (4,), (3, 7)]:
        store = ResumeStore(tmp_path / f"interrupted-{steps}", every=0)
        for step in steps:
            again = toys.begun(config, attention=attention)[0]
            interrupted(step, how, monkeypatch, again, config, store, new=new, **unequal)
        resumed = toys.begun(config, attention=attention)[0]
        assert train(resumed, config, store, new=new, **unequal) == history
        assert same(resumed, model)


def test_a_signal_lets_the_step_finish_and_saves_it(
    config: Train, store: ResumeStore, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    interrupted(6, "asked to stop", monkeypatch, toys.network(), config, store)
    train(toys.network(), config, store)
    assert "RESUMED after epoch 1, step 2 of the next" in capsys.readouterr().err


def test_a_finished_training_is_not_repeated(
    config: Train, store: ResumeStore, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """DVC may have died before it recorded the outputs; then it removes them and runs again."""
    model, again = toys.network(), toys.network()
    history = train(model, config, store)
    store.mark_done()
    monkeypatch.setattr(Step, "__call__", None)
    assert train(again, config, store) == history
    assert same(again, model)
    assert "RESUMED after epoch 3, step 0 of the next; ABN_RESUME=never" in (
        capsys.readouterr().err
    )


def test_a_state_comes_back_bit_for_bit(config: Train, store: ResumeStore) -> None:
    saved, loaded = (
        State(
            {"model": toys.network(seed=s), "ema": toys.network(seed=s + 1)},
            torch.optim.SGD([torch.zeros(1)]),
        )
        for s in (0, 2)
    )
    for state in (saved, loaded):
        state.optimizer = optim.sgd(state.models["model"], config)
    saved.models["model"](torch.ones(2, 3, 32, 32)).logits.sum().backward()
    saved.optimizer.step()
    saved.history, saved.step_losses = [row(1)], [torch.tensor([0.3, 0.7])]
    saved.best = checkpoint.weights(toys.network(seed=4))
    store.save(saved)
    assert store.load(loaded) and loaded.position == (1, 1)
    assert all(same(saved.models[name], loaded.models[name]) for name in saved.models)
    assert loaded.history == saved.history and all(
        tensor.equal(loaded.best[name]) for name, tensor in saved.best.items()
    )
    assert torch.stack(loaded.step_losses).equal(torch.stack(saved.step_losses))
    for (_, one), (_, other) in zip(saved._parameters(), loaded._parameters(), strict=True):
        if one.grad is not None:
            momentum = loaded.optimizer.state[other]["momentum_buffer"]
            assert momentum.equal(saved.optimizer.state[one]["momentum_buffer"])
            assert momentum.stride() == other.stride()  # fused SGD walks through both in step


def names(store: ResumeStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_the_last_two_states_are_kept_and_one_when_done(config: Train, tmp_path: Path) -> None:
    store = ResumeStore(tmp_path, every=0)
    train(toys.network(), config, store)
    states = ["state-0002-00000004.safetensors", "state-0003-00000000.safetensors"]
    assert names(store) == states
    store.mark_done()
    assert names(store) == ["done", states[1]]


def two_states(store: ResumeStore, config: Train) -> nn.Module:
    """Save the weights of seed 1, then of seed 2; returns those of seed 1."""
    first = toys.network(seed=1)
    store.save(state_of(first, config, epochs=1))
    store.save(state_of(toys.network(seed=2), config, epochs=2))
    return first


def damaged(content: bytes) -> list[bytes]:
    """`content` with one bit flipped, and cut off, each at 100 random places and in the header."""
    draws = torch.Generator().manual_seed(0)
    places = torch.randint(len(content), (100,), generator=draws).tolist()
    header = torch.randint(8 + int.from_bytes(content[:8], "little"), (100,), generator=draws)
    flips = [*places, *header.tolist()]
    flipped = [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in flips]
    return flipped + [content[:i] for i in places]


def test_a_damaged_state_is_set_aside_and_the_one_before_is_used(
    config: Train, store: ResumeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    first = two_states(store, config)
    path = store.folder / "state-0002-00000000.safetensors"
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        state = state_of(toys.network(), config)
        assert store.load(state) and len(state.history) == 1
        assert same(state.models["model"], first)
        assert "set aside, the state before it is used" in capsys.readouterr().err
        assert path.with_suffix(".bad").read_bytes() == content


def poisoned(name: str, change: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    def edit(tensors: dict[str, Tensor], history: list[Any]) -> None:
        tensors[name] = change(tensors[name])

    return edit


POISON: dict[str, Callable[..., Any]] = {
    "not finite": poisoned("model/layer1.weight", lambda t: t * torch.nan),
    "not torch.float32": poisoned("model/layer1.weight", lambda t: t.double()),
    "is torch.float32 [1": poisoned("model/layer1.weight", lambda t: t.reshape(1, -1)),
    "layer1.weight is missing": lambda tensors, history: tensors.pop("model/layer1.weight"),
    "more is of no use": lambda tensors, history: tensors.update(more=torch.zeros(1)),
    "is missing": lambda tensors, history: tensors.update({"best/layer1.weight": torch.zeros(1)}),
    "step_losses is": poisoned("step_losses", lambda t: torch.zeros(0, 3)),
    "another state": poisoned("step_losses", lambda t: torch.zeros(3, 2)),
    "'step_losses'": lambda tensors, history: tensors.pop("step_losses"),
    "no scores of epoch 1": lambda tensors, history: history.reverse(),
    "no scores of epoch 2": lambda tensors, history: history[1].pop("lr"),
    "train_loss of epoch 2 is not finite": lambda t, history: history[1].update(train_loss=1e999),
    "must be real number": lambda tensors, history: history[1].update(val_top1="0.9"),
    "indices": lambda tensors, history: history.__setitem__(0, "junk"),
    "": lambda tensors, history: history.clear(),
}


@pytest.mark.parametrize("reason", POISON)
def test_a_state_with_the_right_checksum_and_a_wrong_content_is_set_aside(
    config: Train, store: ResumeStore, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    first = two_states(store, config)
    path = store.folder / "state-0002-00000000.safetensors"
    tensors, history = resume._read(path)
    POISON[reason](tensors, history)
    store._write(path.stem, tensors, history)
    state = state_of(toys.network(), config)
    assert store.load(state) and len(state.history) == 1 and not state.step_losses
    assert same(state.models["model"], first)
    said = capsys.readouterr().err
    assert reason in said and "set aside, the state before it is used" in said


@pytest.mark.parametrize("header", ["[]", "1", "null", "{}", "[" * 9999, '{"history": 1}', "x"])
def test_a_state_whose_header_is_junk_is_set_aside(
    config: Train, store: ResumeStore, header: str
) -> None:
    store.save(state_of(toys.network(), config, epochs=1))
    path = store.folder / "state-0002-00000000.safetensors"
    checkpoint.write(path, {"a": torch.zeros(1)}, {"state": header})
    assert store.load(state_of(toys.network(), config))
    assert path.with_suffix(".bad").exists()


def test_a_snapshot_that_is_not_finite_is_an_error_with_a_remedy(store: ResumeStore) -> None:
    store.save_snapshot(1, {"a": torch.tensor([1.0, torch.inf])})
    with pytest.raises(DataError, match=r"damaged: a holds values .* finite.*ABN_RESUME=never"):
        store.snapshots()


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(
    config: Train, store: ResumeStore
) -> None:
    store.save(state_of(toys.network(), config, epochs=1))
    (store.folder / ".tmpAbCdEf").write_bytes(b"half")  # safetensors' temporary file
    files.partial(store.folder / "state-0003-00000000.safetensors").write_bytes(b"half")
    (store.folder / "notes.part").touch()
    store.load(state_of(toys.network(), config))
    assert names(store) == ["notes.part", "state-0001-00000000.safetensors"]


def test_a_full_disk_costs_a_warning_and_no_state(
    config: Train, store: ResumeStore, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model = toys.network(seed=1)
    store.save(state_of(model, config, epochs=1))

    def full(tensors: Any, path: Path, **options: Any) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    store.save(state_of(toys.network(seed=2), config, epochs=2))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("state not saved (No space left on device); training continues")
    assert names(store) == ["state-0001-00000000.safetensors"]
    state = state_of(toys.network(), config)
    assert store.load(state) and same(state.models["model"], model)


def test_saving_takes_no_more_than_its_share_of_the_time(
    store: ResumeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    store.last, store.cost = 0.0, 10.0  # seconds: 2 % of 500
    for now[0], due, at_the_end in ((499, False, False), (501, False, True), (601, True, True)):
        assert (store.due(), store.due(epoch_ends=True)) == (due, at_the_end)
    store.cost = 20.0
    assert not store.due() and not store.due(epoch_ends=True)
    store.every = 0
    assert store.due()


def test_snapshots_come_back_by_name(store: ResumeStore) -> None:
    store.save_snapshot(10, checkpoint.weights(toys.network(seed=1)))
    store.save_snapshot(2, checkpoint.weights(toys.network(seed=2)))
    snapshots = store.snapshots()
    assert list(snapshots) == ["epoch-0002", "epoch-0010"]
    model = toys.network()
    model.load_state_dict(snapshots["epoch-0002"])
    assert same(model, toys.network(seed=2))


def test_a_damaged_snapshot_is_an_error_with_a_remedy(store: ResumeStore) -> None:
    store.save_snapshot(1, {"a": torch.zeros(100)})
    (store.folder / "epoch-0001.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"damaged: .*epoch-0001.*ABN_RESUME=never"):
        store.snapshots()


def test_a_finished_training_with_a_damaged_state_starts_again(
    config: Train, store: ResumeStore
) -> None:
    store.save(state_of(toys.network(), config, epochs=1))
    store.mark_done()
    (store.folder / "state-0001-00000000.safetensors").write_bytes(b"half")
    assert not store.load(state_of(toys.network(), config))
    assert names(store) == ["state-0001-00000000.bad"]


def test_resume_never_starts_again(
    config: Train, store: ResumeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_states(store, config)
    store.save_snapshot(1, {})
    store.mark_done()
    monkeypatch.setenv("ABN_RESUME", "never")
    with resume.open_store(store.folder) as opened:
        assert names(opened) == ["lock"]
        assert not opened.load(state_of(toys.network(), config))


def test_another_word_in_abn_resume_is_refused_and_nothing_is_removed(
    config: Train, store: ResumeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_states(store, config)
    monkeypatch.setenv("ABN_RESUME", "nver")
    with pytest.raises(ParamsError, match="ABN_RESUME=nver; use never"):
        resume.open_store(store.folder).__enter__()
    assert len(names(store)) == 2


def test_clearing_interrupted_anywhere_leaves_a_whole_state_or_none(
    config: Train, changed: Callable[..., Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state needs the snapshots of the epochs before it."""
    config, unlink, count = changed(config, save_every=1), Path.unlink, [0]

    def counting(path: Path, **options: Any) -> None:
        if path.exists():
            count[0] -= 1
        if count[0] < 0:
            raise Killed
        unlink(path, **options)

    for removed in range(7):
        store = ResumeStore(tmp_path / str(removed), every=0)
        train(toys.network(), config, store)
        assert len(names(store)) == 5  # two states, three snapshots
        count[0] = removed
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", counting)
            with suppress(Killed):
                store.clear()
        found = store.load(state_of(toys.network(), config))
        assert not found or len(store.snapshots()) == 3, f"{removed} files were removed"
    assert names(store) == []


def test_the_same_training_does_not_run_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABN_WAIT", "0.1")
    message = f"same training is under way; process {os.getpid()};"
    with (
        resume.open_store(tmp_path / "one"),
        pytest.raises(BusyError, match=message),
        resume.open_store(tmp_path / "one"),
    ):
        pass


def trainings(root: Path, names: str) -> Path:
    """Folders with a state of 100 bytes, oldest first; returns the last. "f..." has finished."""
    for age, name in enumerate(names.split()):
        folder = root / f"{name:0>16}"
        folder.mkdir()
        (folder / "state-0001-00000000.safetensors").write_bytes(bytes(100))
        if name.startswith("f"):
            (folder / "done").touch()
        os.utime(folder, (0, 1000 + age))
    return folder


def remaining(root: Path) -> str:
    """The names of the folders, without the zeros that make them long enough."""
    return " ".join(sorted(path.name.lstrip("0") for path in root.iterdir()))


def test_the_newest_three_finished_trainings_are_kept(tmp_path: Path) -> None:
    current = trainings(tmp_path, "f1 f2 a1 f3 f4 f5 c")
    resume.make_room(tmp_path, current)
    assert remaining(tmp_path) == "a1 c f3 f4 f5"


def test_over_the_size_limit_the_oldest_go_finished_ones_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainings(tmp_path, "c a1 a2 f1 f2")
    for limit, kept in {420: "a1 a2 c f2", 220: "a2 c", 50: "c"}.items():
        resume.make_room(tmp_path, tmp_path / f"{'c':0>16}", max_bytes=limit)
        assert remaining(tmp_path) == kept
    lines = capsys.readouterr().err.splitlines()
    assert [re.findall(r"0(a\d): unfinished and old", line) for line in lines] == [["a1"], ["a2"]]


def test_running_trainings_copies_and_unknown_files_are_never_removed(tmp_path: Path) -> None:
    current = trainings(tmp_path, "b1 a1 copy c")
    (tmp_path / f"{'a1':0>16}" / "notes.txt").touch()
    with locks.alone(tmp_path / f"{'b1':0>16}" / "lock", "it"):
        resume.make_room(tmp_path, current, max_bytes=0)
    files = sorted(str(path.relative_to(tmp_path)).lstrip("0") for path in tmp_path.glob("*/*"))
    state = "state-0001-00000000.safetensors"
    assert files == ["a1/notes.txt", f"b1/{state}", f"c/{state}", f"copy/{state}"]


def test_a_fingerprint_depends_on_each_input_but_not_on_the_order_of_keys() -> None:
    inputs = [{"lr": 0.1, "seed": 0}, {"loop.py": "ab"}, ["aa", "bb"], ["cpu (2 threads)"]]
    name = resume.fingerprint(*inputs)
    assert re.fullmatch("[0-9a-f]{16}", name)
    assert name == resume.fingerprint({"seed": 0, "lr": 0.1}, *inputs[1:])
    for place in range(len(inputs)):
        assert name != resume.fingerprint(*inputs[:place], ["other"], *inputs[place + 1 :])
