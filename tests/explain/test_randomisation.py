"""Networks with random weights, and how their maps change."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from abn.explain import randomisation
from abn.explain.case import BUDGETS, Case, Scores
from abn.explain.statistics import similarity
from abn.models.abn import AttentionBranchNetwork
from abn.runtime.rng import generator


def photos(count: int = 6, side: int = 64) -> Tensor:
    return torch.rand(count, 3, side, side, generator=generator("photos"))


@pytest.fixture(scope="module")
def model() -> AttentionBranchNetwork:
    torch.manual_seed(0)
    model = AttentionBranchNetwork("resnet18", num_classes=4).eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # as if trained
    return model


@torch.no_grad()
def attention(model: AttentionBranchNetwork, images: Tensor) -> Tensor:
    return model(images).attention[:, 0]


def random(model: AttentionBranchNetwork, part: str, seed: int = 0) -> AttentionBranchNetwork:
    modules = randomisation.PARTS[part]
    return randomisation.randomise(model, modules, photos(), generator(seed))


def test_the_parts_name_every_module_that_learns():
    model = AttentionBranchNetwork("resnet18", num_classes=2)
    learning = {name for name, child in model.named_children() if [*child.parameters()]}
    assert sorted(randomisation.PARTS["all"]) == sorted(learning)
    assert list(randomisation.CASCADE)[-2:] == ["attention", "perception"]
    assert not {*randomisation.CASCADE["attention"]} & {*randomisation.PARTS["perception"]}


def test_the_map_does_not_depend_on_the_perception_branch(model):
    """Random layer4 and fc change the logits and not one bit of the map."""
    images = photos()
    other = random(model, "perception")
    assert torch.equal(attention(other, images), attention(model, images))
    with torch.no_grad():
        assert not torch.allclose(other(images).logits, model(images).logits, atol=0.1)


def test_the_map_changes_with_the_attention_branch(model):
    images = photos()
    maps, others = attention(model, images), attention(random(model, "attention"), images)
    correlation = similarity({"map": maps}, {"map": others})["map"]
    assert correlation.abs().mean() < 0.7
    assert others.flatten(1).std(1).min() > 0.01  # not dead: a flat map would prove nothing


def test_randomising_changes_a_copy_and_only_the_named_modules(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = random(model, "attention").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in before.items():
        changed = name.split(".")[0] in randomisation.PARTS["attention"]
        assert changed or torch.equal(value, other[name])
        if changed and value.ndim == 4:
            assert not torch.equal(value, other[name])


def test_equal_generators_draw_equal_networks_and_the_cascades_steps_share_theirs(model):
    first, second = random(model, "all"), random(model, "all")
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(first.conv1.weight, random(model, "all", seed=1).conv1.weight)
    modules = randomisation.CASCADE["layer1"]
    step = randomisation.randomise(model, modules, photos(), generator(0))
    assert torch.equal(step.layer1[1].conv2.weight, first.layer1[1].conv2.weight)
    assert torch.equal(step.layer2[0].conv1.weight, model.layer2[0].conv1.weight)


def test_weights_are_drawn_as_a_new_network_would_have_them(model):
    torch.manual_seed(1)
    other, new = random(model, "perception"), AttentionBranchNetwork("resnet18", num_classes=4)
    drawn, fresh = other.layer4[1].conv2.weight, new.layer4[1].conv2.weight
    assert drawn.std().item() == pytest.approx(fresh.std().item(), rel=0.01)
    assert other.fc.weight.abs().max() <= 512**-0.5
    assert other.fc.weight.std().item() == pytest.approx(512**-0.5 / math.sqrt(3), rel=0.05)
    assert torch.equal(other.layer4[1].bn2.weight, torch.ones(512))
    assert not any(module.training for module in other.modules())


def test_the_new_norms_are_measured_on_the_images(model):
    images = photos()
    other = randomisation.randomise(model, ("conv1", "bn1"), images, generator(0))
    with torch.no_grad():
        out = other.bn1(other.conv1((images - other.mean) / other.std))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(64), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(64), atol=1e-3, rtol=0)


def randomised(case: Case, randomisations: int) -> Scores:
    budget = case.budget._replace(robustness_images=8, randomisations=randomisations)
    return randomisation.score(dataclasses.replace(case, budget=budget))


def test_every_draw_of_weights_is_scored_on_some_images(case: Case) -> None:
    one, three = (randomised(case, count) for count in (1, 3))
    unchanged = one["attention"]["randomised_perception"]
    assert unchanged[~unchanged.isnan()].tolist() == [1] * 8  # the map lies upstream
    left = three["att_cam"]["randomised_attention"]
    assert left.shape == (3, 40) and ((left >= 0) & (left < 1)).sum() > 16
    measured = ~left.isnan().all(0)
    assert measured.sum() == 8 and not left[0, measured].equal(left[1, measured])
    first = one["att_cam"]["randomised_attention"]
    assert first[0, measured].equal(left[0, measured])  # more draws are further draws


def test_no_profile_judges_by_fewer_than_five_draws_of_weights() -> None:
    assert all(budget.randomisations >= 5 for budget in BUDGETS.values())
