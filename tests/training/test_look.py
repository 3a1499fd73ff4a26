"""How a step of `attention: look` shows its pictures: whose map, and from when on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from abn.config.params import Params, Train
from abn.training import optim
from abn.training.distributed import SINGLE
from abn.training.look import LookingNetwork
from abn.training.step import Step
from tests import toys

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network() -> LookingNetwork:
    network = LookingNetwork(toys.network(attention="look").train(), SINGLE, 4)
    network.looking = True
    return network


def test_a_picture_is_seen_under_the_map_of_the_one_before_it(network: LookingNetwork) -> None:
    seen: list[Tensor] = []
    attend = network.model.attend
    network.model.attend = lambda *call: seen.append(call[2]) or attend(*call)  # type: ignore[method-assign, func-returns-value]
    attention = network(IMAGES).attention
    assert torch.equal(seen[0], attention[[3, 0, 1, 2]])
    assert attention.std() > 0.1


def test_the_decision_does_not_train_the_map(network: LookingNetwork) -> None:
    network(IMAGES).logits.sum().backward()
    assert network.model.att_conv2.weight.grad is None
    assert network.model.conv1.weight.grad is not None


def test_before_it_looks_twice_it_decides_on_the_first_look(network: LookingNetwork) -> None:
    network.looking = False
    logits = network(IMAGES).logits
    model = network.model
    assert torch.equal(logits, model.perception_branch(model.features(IMAGES)))


def test_until_then_the_second_look_has_the_statistics_of_the_first(
    network: LookingNetwork,
) -> None:
    network.looking = False
    network(IMAGES)
    first, second = network.model.bn1, network.model.look_norms[0]
    assert first.running_mean is not None and first.running_mean.any()
    pairs = zip(first.buffers(), second.buffers(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_it_looks_twice_after_the_share_of_the_training_that_is_asked_for(
    params: Params, changed: Callable[..., Train]
) -> None:
    look = params.train.look.model_copy(update={"start": 0.3})
    config = changed(params.train, epochs=4, batch_size=4, look=look)
    model = toys.network(attention="look")
    step = Step(model, optim.sgd(model, config), None, config)
    assert step.look is not None
    looking = []
    for epoch in range(4):
        step.begin(epoch)
        looking.append(step.look.looking)
    assert looking == [False, False, True, True]
