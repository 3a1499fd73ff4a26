"""How a step of `attention: look` shows its pictures: whose map, and from when on."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from abn.config.params import Params, Train
from abn.data import loader
from abn.models.abn import AttentionBranchNetwork
from abn.training import look, optim
from abn.training.distributed import SINGLE
from abn.training.look import LookingNetwork
from abn.training.step import Step
from tests import toys

IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def config(params: Params, changed: Callable[..., Train]) -> Train:
    return changed(params.train, batch_size=4, val_size=32, val_resize=32)


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


def test_the_statistics_are_means_over_pictures_under_their_own_maps(config: Train) -> None:
    model, split = toys.network(attention="look").train(), toys.split(count=8)
    model(torch.rand(8, 3, 32, 32))  # running statistics, which are to be replaced
    look.measure_statistics(model, split, config)
    images = loader.transform(split.images, split.aspect, toys.WHOLE)
    with torch.no_grad():
        attention = model.attention_branch(model.features(images))[1]
        mask = F.interpolate(attention, (32, 32), mode="bilinear", align_corners=False)
        x = model.conv1(images * mask)
    (second, first), batches = (model.look_norms[0], model.bn1), (x[::2], x[1::2])
    assert second.running_mean is not None and second.running_var is not None
    torch.testing.assert_close(second.running_mean, x.mean((0, 2, 3)))
    variances = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in batches])
    torch.testing.assert_close(second.running_var, variances.mean(0))
    assert int(second.num_batches_tracked) == 2 and int(first.num_batches_tracked) == 1


def test_measuring_changes_only_what_the_decision_is_normalised_by(config: Train) -> None:
    model = AttentionBranchNetwork("resnet18", 4, attention="look").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    look.measure_statistics(model, toys.split(count=8), config)
    now = model.state_dict()
    changed = {name for name in now if not torch.equal(before[name], now[name])}
    assert {name.split(".")[0] for name in changed} == {"look_norms", "layer4"}
    assert not changed & {name for name, _ in model.named_parameters()}
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_the_official_network_has_nothing_to_measure(config: Train) -> None:
    model = toys.network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    look.measure_statistics(model, toys.split(count=8), config)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


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
