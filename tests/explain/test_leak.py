"""What a network names on empty pictures, under maps that give the class away or do not."""

import torch

from abn.explain import leak
from abn.explain.case import BUDGETS, Case, collect
from abn.explain.maps import compared_maps
from tests import toys
from tests.explain.lookers import Fixed, Looker, Outline


def cased(model: Looker) -> Case:
    """The network on images that are black around their objects, each in its class's quarter."""
    split = toys.split(16)
    assert split.masks is not None
    split.images[split.masks == 0] = 0
    samples = collect(model.eval(), split, torch.arange(16), toys.WHOLE)
    return Case(model, samples, {}, BUDGETS["quick"], 4, 0, toys.WHOLE)


def test_a_network_that_decides_by_the_outline_names_the_class_of_an_empty_picture() -> None:
    scores = leak.score(cased(Outline()))
    assert list(scores) == ["attention"]
    for name in ("leak_noise", "leak_grey"):
        assert scores["attention"][name].tolist() == [1] * 16
        assert scores["attention"][name].dtype == torch.float64


def test_a_network_that_decides_by_the_colour_says_one_thing_of_every_grey_picture() -> None:
    case = cased(Looker())
    assert case.samples.predicted.equal(case.samples.labels)
    answers = case.once(leak.answers)["grey"]
    assert len(answers.unique()) == 1
    scores = leak.score(case)["attention"]
    assert scores["leak_grey"].mean().item() == leak.chance(answers, case.samples.predicted) == 0.25


def test_what_it_names_is_compared_with_what_it_predicted() -> None:
    scores = leak.score(cased(Fixed()))["attention"]
    assert scores["leak_noise"].tolist() == scores["leak_grey"].tolist() == [1] * 16


def test_chance_is_the_agreement_of_answers_that_have_nothing_to_do_with_each_other() -> None:
    answers, predicted = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 1, 1, 2])
    assert leak.chance(answers, predicted) == 3 / 4 * 1 / 4 + 1 / 4 * 1 / 4
    assert leak.chance(predicted, answers) == leak.chance(answers, predicted)


def test_the_picture_under_the_map_is_the_same_for_the_same_seed() -> None:
    first, second = (leak.answers(cased(Outline()))["noise"] for _ in range(2))
    assert first.equal(second)


def test_a_network_whose_map_is_not_on_the_picture_is_not_asked() -> None:
    split, model = toys.split(8), toys.network().eval()
    samples = collect(model, split, torch.arange(8), toys.WHOLE)
    maps = compared_maps(model, samples, 0)
    case = Case(model, samples, maps, BUDGETS["quick"], 4, 0, toys.WHOLE)
    assert leak.score(case) == {}
