"""Rates, crop sizes, steps and averages of weights at points computed by hand."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from abn.models.abn import AttentionBranchNetwork
from abn.training import optim

EPOCHS = 90


@pytest.fixture
def steps(params, changed):
    """The original recipe: 0.1, a tenth of that after 30 and again after 60 of 90 epochs."""
    recipe = {"epochs": EPOCHS, "lr": 0.1, "schedule": "step", "gamma": 0.1, "warmup": 0.0}
    return changed(params.train, milestones=(31, 61), **recipe)


@pytest.fixture
def cosine(params, changed):
    return changed(params.train, epochs=10, lr=0.4, schedule="cosine", warmup=0.2)


@pytest.mark.parametrize(
    "epoch, rate",
    [(0, 0.1), (1, 0.1), (30.999, 0.1), (31, 0.01), (60.999, 0.01), (61, 0.001), (89.999, 0.001)],
)
def test_steps_fall_at_the_milestones(steps, epoch, rate):
    assert optim.learning_rate(steps, epoch / EPOCHS) == pytest.approx(rate)


def test_a_milestone_is_never_missed_by_rounding(steps, changed):
    for epochs in range(2, 100):
        for milestone in range(1, epochs):
            config = changed(steps, epochs=epochs, milestones=(milestone,))
            assert optim.learning_rate(config, milestone / epochs) == pytest.approx(0.01)


@pytest.mark.parametrize("progress, rate", [(0, 0), (0.05, 0.025), (0.1, 0.05), (0.199, 0.0995)])
def test_warmup_rises_linearly_from_zero(steps, changed, progress, rate):
    assert optim.learning_rate(changed(steps, warmup=0.2), progress) == pytest.approx(rate)


@pytest.mark.parametrize(
    "progress, rate",
    # the cosine of 0, 60, 90, 120 and 180 degrees
    [(0.1, 0.2), (0.2, 0.4), (0.2 + 0.8 / 3, 0.3), (0.6, 0.2), (1 - 0.8 / 3, 0.1), (1, 0)],
)
def test_the_cosine_falls_from_the_peak_after_warmup_to_zero_at_the_end(cosine, progress, rate):
    assert optim.learning_rate(cosine, progress) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize(
    "epoch, size", [(0, 64), (4, 64), (5, 96), (6, 96), (7, 96), (8, 128), (9, 128)]
)
def test_crops_grow_at_the_epoch_that_begins_at_the_share(params, changed, epoch, size):
    config = changed(params.train, epochs=10, sizes=(64, 96, 128), grow_at=(0.5, 0.75))
    assert optim.crop_size(config, epoch) == size


def test_a_share_that_floats_cannot_hold_still_begins_with_its_epoch(params, changed):
    for epochs in range(2, 100):
        for epoch in range(1, epochs):
            share = round(epoch / epochs, 12)  # as someone may write it
            config = changed(params.train, epochs=epochs, sizes=(64, 96), grow_at=(share,))
            assert [optim.crop_size(config, epoch - 1), optim.crop_size(config, epoch)] == [64, 96]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return AttentionBranchNetwork("resnet18", num_classes=2)


def decays(optimizer: torch.optim.SGD) -> dict[int, float]:
    """The weight decay of every parameter, by its identity."""
    groups = optimizer.param_groups
    return {id(p): group["weight_decay"] for group in groups for p in group["params"]}


def test_norms_and_biases_are_free_of_weight_decay(params, changed, network):
    config = changed(params.train, weight_decay=0.01, decay_norm_and_bias=False)
    found = decays(optim.sgd(network, config))
    for name, parameter in network.named_parameters():
        norm_or_bias = "bn" in name or "downsample.1" in name or name.endswith("bias")
        assert found.pop(id(parameter)) == (0.0 if norm_or_bias else 0.01), name
    assert found == {}


def test_norms_and_biases_decay_where_the_recipe_says_so(params, changed, network):
    config = changed(params.train, weight_decay=0.01, decay_norm_and_bias=True)
    found = decays(optim.sgd(network, config))
    assert found == {id(parameter): 0.01 for parameter in network.parameters()}


def test_what_is_new_learns_faster_by_its_factor(params, changed, network):
    config = changed(params.train, lr=0.5, new_lr=10.0, weight_decay=0.01)
    optimizer = optim.sgd(network, config, new={"fc.weight", "fc.bias"})
    optim.set_rate(optimizer, 0.25)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert rates.pop(id(parameter)) == (2.5 if name.startswith("fc.") else 0.25), name
    assert rates == {}
    found = decays(optimizer)
    assert (found[id(network.fc.weight)], found[id(network.fc.bias)]) == (0.01, 0.0)


def test_two_steps_by_hand(params, changed):
    recipe = {"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.2}
    config = changed(params.train, decay_norm_and_bias=False, **recipe)
    model = nn.Linear(1, 1)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.ones_like(parameter)
    optimizer = optim.sgd(model, config)
    optimizer.step()
    optimizer.step()
    # bias: velocities 1, 1.5; each step is lr * (1 + 0.5 * velocity)
    assert model.bias.item() == pytest.approx(1 - 0.1 * 1.5 - 0.1 * 1.75)
    # weight: gradients 1.2 and 1 + 0.2 * 0.82 = 1.164; velocities 1.2, 1.764
    assert model.weight.item() == pytest.approx(1 - 0.1 * 1.8 - 0.1 * (1.164 + 0.882))


def test_a_rate_that_is_a_tensor_stays_the_one_it_is(params, network):
    optimizer = optim.sgd(network, params.train)
    rates = [torch.tensor(1.0), torch.tensor(2.0)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optim.set_rate(optimizer, 0.125)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        assert group["lr"] is rate and rate.item() == 0.125


def with_gradients():
    """Two kernels, whose gradients have the length 5 together, a bias, and running statistics."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1, bias=False))
    gradients = (3.0, 100.0, 100.0, 100.0, 4.0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        nn.init.ones_(parameter)
        parameter.grad = torch.full_like(parameter, gradient)
    return model


def test_uphill_is_a_step_of_the_radius_along_the_gradient_of_all_kernels():
    model = with_gradients()
    with optim.uphill(model, 0.5):
        found = [parameter.item() for parameter in model.parameters()]
    # 3/5 and 4/5 of the radius; weights and biases of norms and the layer's bias stay
    assert found == pytest.approx([1.3, 1, 1, 1, 1.4])


@pytest.mark.parametrize("error", [None, KeyError])
def test_after_uphill_weights_and_statistics_are_what_they_were_to_the_bit(error):
    model = with_gradients()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error) if error else nullcontext(), optim.uphill(model, 0.3):
        model(torch.tensor([[1.0], [5.0]])).sum().backward()
        assert not model[1].running_mean.equal(before["1.running_mean"])
        if error:
            raise error
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_what_is_frozen_has_no_gradient_and_stays_uphill():
    model = with_gradients()
    model[2].requires_grad_(False)
    model[2].weight.grad = None
    with optim.uphill(model, 0.5):
        assert (model[0].weight.item(), model[2].weight.item()) == (1.5, 1)


def test_without_a_gradient_uphill_is_where_it_was():
    model = with_gradients()
    for parameter in model.parameters():
        parameter.grad.zero_()
    with optim.uphill(model, 0.5):
        assert all(parameter.item() == 1 for parameter in model.parameters())


def test_muon_moves_the_kernels_of_the_blocks_at_its_own_rate(params, changed, network):
    recipe = {"optimizer": "muon", "lr": 0.5, "muon_lr": 0.05, "weight_decay": 0.01}
    optimizer = optim.optimizer(network, changed(params.train, **recipe))
    optim.set_rate(optimizer, 0.25)  # half of the peak
    groups = optimizer.param_groups
    found = {id(p): (g["muon"], g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        block, norm = "layer" in name and parameter.ndim == 4, parameter.ndim == 1
        expected = (block, pytest.approx(0.025 if block else 0.25), 0.0 if norm else 0.01)
        assert found.pop(id(parameter)) == expected, name
    assert found == {}


def test_by_default_the_optimizer_is_sgd(params, network):
    optimizer = optim.optimizer(network, params.train)
    assert type(optimizer) is torch.optim.SGD
    assert not any(group["muon"] for group in optimizer.param_groups)


@torch.no_grad()
def test_a_moving_average_computed_by_hand():
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight), nn.init.ones_(model.bias)
    ema = optim.EMA(model, decay=0.5)
    for weight in (1.0, 2.0, 3.0):
        model.weight.fill_(weight)
        ema.update(model)
    # 0 -> 0.5 -> 1.25 -> 2.125
    assert (ema.model.weight.item(), ema.model.bias.item()) == (2.125, 1.0)
    assert (model.weight.item(), model.bias.item()) == (3.0, 1.0)
