"""Areas that are enough, and areas that can go, against rules whose answer is known."""

import pytest
import torch
from torch import Tensor

from abn.explain import sufficiency
from abn.explain.case import BUDGETS, Case, collect
from abn.explain.maps import compared_maps
from tests import toys
from tests.explain.lookers import Looker

SIDE = 32
RAMP = torch.linspace(0, 1, SIDE * SIDE).view(1, SIDE, SIDE)  # every pixel has its own value
IMAGE = torch.zeros(1, 3, SIDE, SIDE)
STEP = 1 / 128  # of the areas up to a quarter, as they are narrowed


def extents(rule, maps: Tensor = RAMP) -> sufficiency.Extents:
    """Of a decision that depends on the share shown alone."""

    def keeps(rows: Tensor, shown: Tensor) -> Tensor:
        return torch.tensor([rule(share) for share in shown.double().mean((1, 2)).tolist()])

    return sufficiency.extents(keeps, maps, IMAGE.expand(len(maps), -1, -1, -1))


def test_the_smallest_area_that_keeps_a_decision_is_found_and_the_rest_can_go():
    for least in (0.01, 0.1, 0.23, 0.25):
        found = extents(lambda share, least=least: share >= least)
        assert least <= found.sufficient.item() < least + STEP
        assert found.removable.item() == 1 - found.sufficient.item()
        assert found.mask.double().mean().item() == found.sufficient.item()
        assert RAMP[found.mask].min() > RAMP[~found.mask].max()  # the top of the map


def test_what_can_go_is_less_where_the_decision_is_lost_in_between():
    """Kept with a tenth to a fifth of the picture, and with six tenths or more."""
    found = extents(lambda share: 0.1 <= share <= 0.2 or share >= 0.6)
    assert 0.1 <= found.sufficient.item() < 0.1 + STEP
    assert 0.4 - 1 / 32 < found.removable.item() <= 0.4


def test_the_area_found_keeps_the_decision_however_wild_the_rule():
    def rule(share: float) -> bool:
        return share == 1 or (share > 0 and int(share * 1000) % 3 == 1)

    found = extents(rule)
    assert rule(found.sufficient.item()) and rule(1 - found.removable.item())
    assert found.removable.item() <= 1 - found.sufficient.item()


def test_nothing_is_said_where_everything_may_be_hidden():
    found = extents(lambda share: True)
    assert found.sufficient.isnan().all() and found.removable.isnan().all()
    assert not found.mask.any()


def test_pixels_of_equal_value_are_shown_together():
    flat, halves = torch.full((1, 4, 4), 0.3), torch.zeros(1, 2, 2)
    halves[0, 0] = 1
    rough = torch.nn.functional.interpolate(halves[None], (SIDE, SIDE))[0]  # of the image's size
    found = extents(lambda share: share >= 0.1, torch.cat([rough, flat.new_full(rough.shape, 0.3)]))
    assert found.sufficient.tolist() == [0.5, 1] and found.removable.tolist() == [0.5, 0]


def test_an_image_does_not_depend_on_the_others():
    maps = torch.cat([RAMP, RAMP.flip(1), RAMP.mT])

    def keeps(rows: Tensor, shown: Tensor) -> Tensor:
        return shown.double().mean((1, 2)) >= torch.tensor([0.3, 2, 0.0])[rows]  # none, never, all

    found = sufficiency.extents(keeps, maps, IMAGE.expand(3, -1, -1, -1))
    assert 0.3 <= found.sufficient[0] < 0.3 + 2 * STEP
    assert found.sufficient[1] == 1 and found.removable[1] == 0
    assert found.sufficient[2].isnan() and found.removable[2].isnan()


@pytest.fixture(scope="module")
def looking() -> Case:
    """Colours in a quarter of black images, and a network that sees nothing else."""
    split, model = toys.split(12), Looker().eval()
    assert split.masks is not None
    split.images[split.masks == 0] = 0
    samples = collect(model, split, torch.arange(12), toys.WHOLE)
    maps = compared_maps(model, samples, 0)
    return Case(model, samples, maps, BUDGETS["quick"], 4, 0, toys.WHOLE)


def test_the_mask_alone_as_the_map_keeps_the_decision(looking: Case) -> None:
    samples = looking.samples
    masks = sufficiency.sufficient_masks(looking.model, samples, looking.maps["oracle"])
    assert masks.shape == (12, SIDE, SIDE) and masks.dtype == torch.bool
    assert samples.objects is not None and (masks & ~samples.objects).sum() == 0
    attended = looking.model.attend(samples.images, samples.trace.features, masks[:, None].float())
    assert looking.model.perception_branch(attended).argmax(1).equal(samples.predicted)


def test_in_a_residual_network_what_is_hidden_is_blurred(case: Case) -> None:
    samples = case.samples
    masks = sufficiency.sufficient_masks(case.model, samples, case.maps["centre"])
    blurred = sufficiency.blur(samples.images, sufficiency.BLUR * SIDE)
    shown = torch.where(masks[:, None], samples.images, blurred)
    with torch.no_grad():
        decided = case.model(shown).logits.argmax(1)
    assert decided.equal(samples.predicted)  # also with an empty mask: the blur alone decides so


def test_every_map_has_both_areas_and_one_that_looks_has_them_in_both_ways(
    case: Case, looking: Case
) -> None:
    residual, looks = sufficiency.score(case), sufficiency.score(looking)
    coarse = {"centre_2x2", "sobel_2x2", "oracle_2x2"}
    assert {*residual} == {*case.maps} - coarse and {"gradcam", "random"} < {*residual}
    assert {*looks} == {name for name in looking.maps if not name.endswith("_32x32")}
    assert list(residual["sobel"]) == ["sufficient_area", "removable_area"]
    assert list(looks["sobel"])[2:] == ["sufficient_area_hidden", "removable_area_hidden"]
    oracle = looks["oracle"]["sufficient_area_hidden"]
    known = looking.samples.predicted != 0  # which is what a black picture is named
    assert oracle.isnan().equal(~known) and (oracle[known] <= 1 / 4).all()
    for areas in looks.values():
        both = areas["sufficient_area_hidden"] + areas["removable_area_hidden"]
        assert (both[known] <= 1).all()
