"""Other maps with the same features: effects known by arithmetic on networks of one line."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from abn.explain import interventions
from abn.explain.case import BUDGETS, Case, collect
from abn.explain.interventions import PAIRINGS, SHUFFLES, Effect
from abn.models.abn import AttentionBranchNetwork
from abn.runtime.rng import generator
from tests import toys
from tests.explain.lookers import Looker

N, K, SIDE = 60, 3, 4  # more images than a batch


class Linear(AttentionBranchNetwork):
    """Logits are the attended features of the first K channels, summed: linear in the map."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def perception_branch(self, attended: Tensor) -> Tensor:
        return attended[:, :K].sum((2, 3))


def features() -> Tensor:
    return torch.randn(N, K, SIDE, SIDE, generator=generator("features"))


def attention() -> Tensor:
    return torch.rand(N, SIDE, SIDE, generator=generator("attention"))


def labels() -> Tensor:
    return torch.arange(N) % K


def intervene(seen: Tensor, *inputs) -> dict[str, Effect]:
    """What `Linear` makes of the features `seen`, under other maps; it looks at no image."""
    return interventions.intervene(Linear(), torch.empty(len(seen), 3, 1, 1), seen, *inputs)


def replaced(maps: Tensor | None = None, class_map: Tensor | None = None) -> dict[str, Tensor]:
    maps = attention() if maps is None else maps
    class_map = maps.square() if class_map is None else class_map
    return interventions.replacements(maps, class_map, None, generator("draws"))


def effect(model, maps: Tensor, before: Tensor | None = None) -> Effect:
    """What `maps` [N, h, w] do in place of `before`."""
    before = attention() if before is None else before
    images = torch.empty(N, 3, 1, 1)
    inputs = model, images, features(), before, {"it": maps.unsqueeze(0)}, labels()
    return interventions.intervene(*inputs)["it"]


def test_zero_and_mean_are_flat():
    maps = replaced()
    assert not maps["zero"].any()
    means = attention().mean((1, 2))
    torch.testing.assert_close(maps["mean"][0], means.view(N, 1, 1).expand(N, SIDE, SIDE))


def test_a_shuffle_keeps_each_images_cells_and_moves_them_another_way_each_time():
    shuffled = replaced()["shuffled"].flatten(2)
    own = attention().flatten(1)
    assert torch.equal(shuffled.sort(2).values, own.sort(1).values.expand(SHUFFLES, -1, -1))
    assert (shuffled != own).any(2).all()
    assert not torch.equal(shuffled[0], shuffled[1])
    orders = own.argsort(1).argsort(1).take_along_dim(shuffled[0].argsort(1), 1)
    assert not torch.equal(orders[0], orders[1])  # each image has an order of its own


def test_the_inverse_swaps_high_and_low_within_the_range_and_undoes_itself():
    maps, inverted = attention(), replaced()["inverted"][0]
    torch.testing.assert_close(inverted.amin((1, 2)), maps.amin((1, 2)))
    torch.testing.assert_close(inverted.amax((1, 2)), maps.amax((1, 2)))
    assert torch.equal(inverted.flatten(1).argmax(1), maps.flatten(1).argmin(1))
    torch.testing.assert_close(replaced(inverted)["inverted"][0], maps)


@pytest.mark.parametrize("count", [2, 3, N])
def test_every_image_gets_the_map_of_another_and_every_map_is_used_once(count):
    maps = attention()[:count]
    another = replaced(maps)["another"][0]
    assert (another != maps).flatten(1).any(1).all()
    assert torch.equal(
        another.flatten(1).sum(1).sort().values, maps.flatten(1).sum(1).sort().values
    )


def test_class_map_and_oracle_come_in_the_maps_own_range():
    maps = torch.tensor([[[0.2, 0.6], [0.3, 0.4]]])
    drawn = torch.tensor([[[-5.0, 5.0], [0.0, -2.5]]])
    objects = torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])
    given = interventions.replacements(maps, drawn, objects, generator(0))
    torch.testing.assert_close(given["att_cam"][0], torch.tensor([[[0.2, 0.6], [0.4, 0.3]]]))
    torch.testing.assert_close(given["oracle"][0], torch.tensor([[[0.6, 0.2], [0.4, 0.2]]]))


def test_a_flat_class_map_is_the_maps_minimum_everywhere():
    flat = replaced(class_map=torch.full((N, SIDE, SIDE), 7.0))["att_cam"][0]
    torch.testing.assert_close(flat, attention().amin((1, 2), keepdim=True).expand_as(flat))


def test_the_zero_map_gives_what_the_plain_features_say():
    measured = effect(Linear(), torch.zeros(N, SIDE, SIDE))
    plain = Linear().perception_branch(features()).argmax(1)
    attended = Linear().perception_branch(features() * (1 + attention().unsqueeze(1))).argmax(1)
    assert torch.equal(measured.correct, (plain == labels()).double())
    assert torch.equal(measured.flips, (plain != attended).double())
    assert 0 < measured.flips.mean() < 1


def test_a_map_that_replaces_itself_changes_nothing():
    measured = effect(Linear(), attention())
    assert not (measured.flips.any() or measured.probability.any() or measured.divergence.any())
    measured = intervene(features(), attention(), replaced(), labels())["none"]
    assert not (measured.flips.any() or measured.probability.any() or measured.divergence.any())


def test_the_change_is_of_the_class_predicted_before_and_known_by_hand():
    """One cell, two classes: logits (log 3, 0) without gain, (2 log 3, 0) with a map of one."""
    cell = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1)
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1, 1)
    measured = intervene(cell, one, {"it": zero}, torch.tensor([0]))["it"]
    assert measured.probability.item() == pytest.approx(3 / 4 - 9 / 10)
    divergence = 0.9 * math.log(0.9 / 0.75) + 0.1 * math.log(0.1 / 0.25)
    assert measured.divergence.item() == pytest.approx(divergence)
    assert (measured.flips.item(), measured.correct.item()) == (0, 1)


def test_a_gain_that_favours_the_other_class_flips_the_decision_to_it():
    """The first class has 5 in the left cell, the second 4 in the right one."""
    seen = torch.tensor([[[[5.0, 0.0]], [[0.0, 4.0]]]])
    before, after = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[[0.0, 1.0]]]])
    measured = intervene(seen, before, {"it": after}, torch.tensor([1]))["it"]
    assert (measured.flips.item(), measured.correct.item()) == (1, 1)
    assert measured.probability.item() < -0.9  # from exp(10 - 4) to exp(5 - 8)


def test_the_effect_of_many_draws_is_their_mean():
    zero, own = torch.zeros(N, SIDE, SIDE), attention()
    draws = {"it": torch.stack([zero, own])}
    both = intervene(features(), own, draws, labels())["it"]
    for mean, first, second in zip(
        both, effect(Linear(), zero), effect(Linear(), own), strict=True
    ):
        torch.testing.assert_close(mean, (first + second) / 2)


def test_the_distance_of_the_branches_is_the_jensen_shannon_divergence():
    """(1/2, 1/2) and (3/4, 1/4), whose mean is (5/8, 3/8)."""
    first, second = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    left = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    right = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    assert interventions.branch_agreement(first, second)[1].item() == pytest.approx(
        (left + right) / 2
    )


def test_the_map_of_another_image_is_drawn_over_several_pairings():
    another = replaced()["another"]
    assert another.shape == (PAIRINGS, N, SIDE, SIDE) and PAIRINGS >= 5
    assert not another[0].equal(another[1])
    assert (another != attention()).flatten(2).any(2).all()


def test_a_map_that_is_the_same_is_not_shown_again():
    seen = []

    class Counting(Linear):
        def perception_branch(self, attended: Tensor) -> Tensor:
            seen.append(len(attended))
            return super().perception_branch(attended)

    other = attention()
    other[7:10] = 0
    effect(Counting(), other)
    assert sum(seen) == N + 3


def test_a_network_that_looks_is_also_given_its_map_of_the_second_class() -> None:
    """Half red, half green, more of it red: the map of green hides the red half, and green wins."""
    split = toys.split(4)
    images = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    images[:, :, :24, 0] = images[:, :, 24:, 1] = 200
    split = dataclasses.replace(split, images=images, masks=None)
    model = Looker().eval()
    samples = collect(model, split, torch.arange(4), toys.WHOLE)
    case = Case(model, samples, {}, BUDGETS["quick"], 4, 0, toys.WHOLE)
    effects = interventions.effects(case)
    assert samples.predicted.tolist() == [0] * 4
    assert effects["other_class"].flips.tolist() == [1] * 4
    assert (effects["other_class"].probability < 0).all()
    assert effects["none"].flips.tolist() == [0] * 4


def test_a_network_with_one_map_for_all_classes_has_none_of_another_class(case: Case) -> None:
    assert "other_class" not in interventions.effects(case)


def test_the_map_is_replaced_by_the_oracle_only_where_there_are_masks(case: Case) -> None:
    assert "oracle" in interventions.effects(case)
    samples = dataclasses.replace(case.samples, masks=None)
    blind = interventions.effects(dataclasses.replace(case, samples=samples))
    assert "oracle" not in blind and blind["none"].flips.sum() == 0
