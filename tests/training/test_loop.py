"""The training loop: it learns, is reproducible, keeps the right epoch, stops on a NaN loss."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from abn.config.params import Params, Train
from abn.models import checkpoint
from abn.models.abn import Output
from abn.predict import Predictions
from abn.runtime.errors import UserError
from abn.runtime.signals import GracefulStop, Stopped
from abn.training import look, loop, optim
from abn.training.resume import ResumeStore
from abn.training.state import Row, State
from abn.training.step import Step
from tests import toys

ROWS: list[Row] = [
    {"epoch": 1, "size": 32, "train_loss": 3.0, "train_top1": 0.1},
    {"epoch": 2, "val_top1": 0.5},
    {"epoch": 3, "val_top1": 0.5},
    {"epoch": 4, "val_top1": 0.4},
]


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, epochs=5, batch_size=8, sizes=(32,), lr=0.05)


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., list[Row]]:
    """`fit(model, config, seed=0, **more)`: trained on 40 images of two colours."""

    def run(model: nn.Module, config: Train, seed: int = 0, **more: Any) -> list[Row]:
        splits = toys.split(40, classes=2), toys.split(20, classes=2, seed=1)
        return loop.fit(model, *splits, config, seed=seed, **more)

    return run


class LosesItsLoss(toys.Network):
    """A network whose logits are NaN or infinite from call `at` on."""

    def __init__(self, at: int) -> None:
        super().__init__(2)
        self.calls, self.at = 0, at

    def forward(self, images: Tensor) -> Output:
        self.calls += 1
        output = super().forward(images)
        return output._replace(logits=output.logits / (self.calls < self.at))


def test_two_colours_are_learned(fit: Any, config: Train) -> None:
    history = fit(toys.network(2), config)
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 2
    assert history[-1]["val_top1"] == history[-1]["val_attention_top1"] == 1


def test_every_epoch_has_one_row_and_one_callback(fit: Any, config: Train) -> None:
    calls: list[tuple[Row, float]] = []
    history = fit(toys.network(2), config, on_epoch=lambda *call: calls.append(call))
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert [row for row, _ in calls] == history
    assert all(images_per_second > 0 for _, images_per_second in calls)
    losses = {"val_loss", "val_loss_perception", "val_loss_attention"}
    for row in history:
        assert {"size", "lr", "train_loss", "train_top1", "val_top1", *losses} < row.keys()


def test_a_kill_after_the_callback_reports_the_epoch_again_and_loses_no_row(
    fit: Any, config: Train, tmp_path: Path
) -> None:
    epochs: list[float] = []

    def die(row: Row, images_per_second: float) -> None:
        epochs.append(row["epoch"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(toys.network(2), config, resume=ResumeStore(tmp_path), on_epoch=die)
    fit(
        toys.network(2),
        config,
        resume=ResumeStore(tmp_path),
        on_epoch=lambda row, _: epochs.append(row["epoch"]),
    )
    assert epochs == [1, 1, 2, 3, 4, 5]


def test_the_loss_is_the_mean_over_steps_of_the_sum_of_both_branches(
    fit: Any, config: Train, changed: Callable[..., Train]
) -> None:
    model = toys.network(2)
    for layer in (model.fc, model.att_conv2):  # undecided, and without a rate it stays so
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    (row,) = fit(model, changed(config, epochs=1, lr=1e-12))
    assert row["train_loss"] == pytest.approx(2 * math.log(2)) == row["val_loss"]
    assert row["val_loss_perception"] == row["val_loss_attention"] == pytest.approx(math.log(2))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(fit: Any, config: Train) -> None:
    first, again, other = (fit(toys.network(2), config, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_an_image_is_unlike_below_the_5_percent_quantile_of_the_validation_scores(
    config: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = toys.split(21, classes=1)
    logits = torch.arange(21.0)[:, None].flip(0)  # of one class: the logit is the energy score
    found = Predictions(logits, logits, torch.zeros(21, 1, 1), split.labels)
    monkeypatch.setattr(loop, "predict", lambda *_: found)
    assert loop.unlike_below(toys.network(1), split, config) == pytest.approx(1.0)  # of 0 to 20


def test_crops_grow_through_the_sizes(
    fit: Any, config: Train, changed: Callable[..., Train]
) -> None:
    growing = changed(config, sizes=(32, 48), grow_at=(0.5,))
    history = fit(toys.network(2), growing)
    assert [row["size"] for row in history] == [32, 32, 32, 48, 48]


def test_epochs_between_validations_are_not_validated_but_the_last_is(
    fit: Any, config: Train, changed: Callable[..., Train]
) -> None:
    history = fit(toys.network(2), changed(config, validate_every=2))
    assert [row["epoch"] for row in history if "val_top1" in row] == [2, 4, 5]


@pytest.mark.parametrize("every", [1, 2])
def test_select_best_keeps_the_best_epochs_weights(
    fit: Any, config: Train, changed: Callable[..., Train], every: int
) -> None:
    model, after = toys.network(2), {}

    def on_epoch(row: Row, images_per_second: float) -> None:
        after[row["epoch"]] = checkpoint.weights(model)

    history = fit(model, changed(config, select="best", validate_every=every), on_epoch=on_epoch)
    chosen = loop.best(history)["epoch"]
    assert chosen in range(every, 5, every)  # the colours are easy: the last only repeats it
    found = checkpoint.weights(model)
    assert all(tensor.equal(found[name]) for name, tensor in after[chosen].items())
    assert not after[5]["fc.weight"].equal(found["fc.weight"])


def test_a_moving_average_is_what_is_validated_saved_and_returned(
    fit: Any, config: Train, changed: Callable[..., Train], tmp_path: Path
) -> None:
    model, after = toys.network(2), [checkpoint.weights(toys.network(2))]
    config = changed(config, epochs=3, batch_size=40, ema=0.75, save_every=3)
    store = ResumeStore(tmp_path)
    history = fit(
        model, config, resume=store, on_epoch=lambda *_: after.append(checkpoint.weights(model))
    )
    shares = (0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25)  # of before and after each of 3 steps
    found = checkpoint.weights(model)
    for name in ("fc.weight", "conv1.weight", "bn1.running_var"):
        expected = sum(w * state[name] for w, state in zip(shares, after, strict=True))
        torch.testing.assert_close(found[name], expected)
    kept = store.snapshots()["epoch-0003"]
    assert all(tensor.equal(found[name]) for name, tensor in kept.items())
    judged = loop.validate(model, toys.split(20, classes=2, seed=1), config)
    assert judged == {name: value for name, value in history[-1].items() if "val" in name}


def test_select_best_keeps_the_moving_average_of_the_best_epoch(
    fit: Any, config: Train, changed: Callable[..., Train]
) -> None:
    model, val = toys.network(2), toys.split(20, classes=2, seed=1)
    config = changed(config, ema=0.9, select="best")
    best = loop.best(fit(model, config))
    assert loop.validate(model, val, config)["val_loss"] == best["val_loss"]


def test_validation_has_its_own_crop_and_resize(
    fit: Any, config: Train, changed: Callable[..., Train]
) -> None:
    def first(**view: int) -> float:
        return fit(toys.network(2), changed(config, epochs=1, **view))[0]["val_loss"]

    losses = {first(val_size=s, val_resize=r) for s, r in ((32, 32), (32, 64), (64, 64))}
    assert len(losses) == 3


def test_weights_are_saved_every_so_many_epochs(
    fit: Any, config: Train, changed: Callable[..., Train], tmp_path: Path
) -> None:
    store = ResumeStore(tmp_path)
    fit(toys.network(2), changed(config, save_every=2), resume=store)
    assert list(store.snapshots()) == ["epoch-0002", "epoch-0004"]


def test_what_look_validates_and_keeps_has_measured_statistics(
    fit: Any, config: Train, changed: Callable[..., Train], tmp_path: Path
) -> None:
    model, store = toys.network(2, attention="look"), ResumeStore(tmp_path)
    fit(model, changed(config, epochs=2, validate_every=2, save_every=1), resume=store)
    snapshots = store.snapshots().values()
    for kept in snapshots:
        trained = toys.network(2, attention="look")
        trained.load_state_dict(kept)
        look.measure_statistics(trained, toys.split(40, classes=2), config)
        assert torch.equal(trained.look_norms[0].running_mean, kept["look_norms.0.running_mean"])
    assert not torch.equal(*(kept["look_norms.0.running_mean"] for kept in snapshots))


@pytest.mark.parametrize("step", [1, 7, 50, 51, 60])
def test_a_nan_loss_ends_the_training_with_its_place_and_a_remedy(
    config: Train, changed: Callable[..., Train], tmp_path: Path, step: int
) -> None:
    model = LosesItsLoss(at=step)
    config = changed(config, batch_size=2)
    step_of = Step(model, optim.sgd(model, config), None, config)
    split = toys.split(120, classes=2)
    state = State({"model": model}, step_of.optimizer, history=[{}, {}])
    with pytest.raises(UserError, match=rf"^the loss is nan; epoch 3, step {step} \(lr") as error:
        loop.train_epoch(step_of, split, config, 0, state, ResumeStore(tmp_path), GracefulStop())
    assert "train.lr" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("signalled", [5, 7, 54, 60])
def test_no_state_with_a_nan_loss_is_saved_after_a_signal(
    config: Train, changed: Callable[..., Train], tmp_path: Path, signalled: int
) -> None:
    """The loss is NaN from step 5 on; the next regular check is after step 50."""
    stop, model = GracefulStop(), LosesItsLoss(at=5)
    model.register_forward_hook(lambda *_: setattr(stop, "requested", model.calls >= signalled))
    split, config = toys.split(120, classes=2), changed(config, batch_size=2)
    with pytest.raises((UserError, Stopped), match=r"^the loss is nan; epoch 1, step 5 \(lr"):
        loop.fit(model, split, split, config, seed=0, resume=ResumeStore(tmp_path / "a"), stop=stop)
    assert not list(tmp_path.glob("a/*"))


@pytest.mark.parametrize("at", [61, 65])
def test_a_signal_during_the_first_validation_saves_only_finite_losses(
    config: Train, changed: Callable[..., Train], tmp_path: Path, at: int
) -> None:
    """60 steps have a finite loss; the network gives NaN in validation, where a signal comes."""
    stop, model, store = GracefulStop(), LosesItsLoss(at=61), ResumeStore(tmp_path)
    split, config = toys.split(120, classes=2), changed(config, batch_size=2)

    def interrupt(*_: Any) -> None:
        if model.calls == at:
            stop._handle(15, None)

    model.register_forward_hook(interrupt)
    with pytest.raises(Stopped):
        loop.fit(model, split, split, config, seed=0, resume=store, stop=stop)
    state = State({"model": toys.network(2)}, optim.sgd(model, config))
    assert store.load(state) and state.position == (0, 60)
    assert torch.stack(state.step_losses).isfinite().all()


def test_of_equally_good_epochs_the_first_is_the_best() -> None:
    assert loop.best(ROWS)["epoch"] == 2


def test_the_summary_is_the_epoch_that_was_kept_and_what_it_was_selected_on(
    config: Train, changed: Callable[..., Train]
) -> None:
    last = loop.summary(ROWS, config, "val")
    assert (last["epoch"], last["selected_on"]) == (4, "nothing")
    best = loop.summary(ROWS, changed(config, select="best"), "holdout")
    assert (best["epoch"], best["selected_on"]) == (2, "holdout")


def test_an_epoch_is_one_line(config: Train) -> None:
    assert loop.describe(ROWS[0], config) == "epoch 1/5  32 px  loss 3.0000  top-1 0.1000"
    line = loop.describe(ROWS[0] | {"val_loss": 2.5, "val_top1": 0.5}, config)
    assert line.endswith("top-1 0.1000  val loss 2.5000  val top-1 0.5000")
