"""Localisation scores against answers known by arithmetic."""

import dataclasses

import pytest
import torch
from torch import Tensor

from abn.explain import localisation
from abn.explain.case import BUDGETS, Case, Samples
from abn.runtime.rng import generator
from tests import toys
from tests.explain.lookers import Fixed, Looker

GRID = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])  # top left first, then along the rows


def half_mask() -> torch.Tensor:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :, :4] = True
    return mask


def test_auroc_of_a_perfect_an_inverted_and_a_flat_map():
    perfect = torch.tensor([[1.0, 0.0]]).expand(2, 2).unsqueeze(0)
    maps = torch.cat([perfect, 1 - perfect, torch.full((1, 2, 2), 0.3)])
    assert localisation.auroc(maps, half_mask().expand(3, 8, 8)).tolist() == [1, 0, 0.5]


def test_auroc_is_the_share_of_pairs_won_exactly():
    maps = torch.randint(0, 3, (1, 120, 120), generator=generator("map")).float()
    mask = torch.rand(1, 120, 120, generator=generator("mask")) < 0.3
    inside, outside = maps[mask].unsqueeze(1), maps[~mask]
    won, drawn = (inside > outside).sum().item(), (inside == outside).sum().item()
    wins = won + drawn / 2
    assert torch.tensor(wins).item() != wins  # a count too long for float32
    expected = wins / (len(inside) * len(outside))
    assert localisation.auroc(maps, mask).item() == pytest.approx(expected, abs=1e-12)


def test_auroc_without_an_inside_or_an_outside_is_not_a_number():
    masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)]).bool()
    assert localisation.auroc(GRID.expand(2, 2, 2), masks).isnan().all()


def test_pointing_looks_at_the_centre_pixel_of_the_top_cell():
    maps = torch.eye(6).view(6, 2, 3)
    masks = torch.zeros(6, 8, 12, dtype=torch.bool)
    for cell in range(6):
        masks[cell, 2 + 4 * (cell // 3), 2 + 4 * (cell % 3)] = True
    assert localisation.pointing(maps, masks).tolist() == [1] * 6
    assert not localisation.pointing(maps, ~masks).any()


def test_of_cells_that_tie_for_the_top_the_share_that_hits_counts():
    maps = torch.zeros(2, 2, 3)
    maps[1, 0] = 1  # three cells, of which the mask has one
    masks = torch.zeros(2, 8, 12, dtype=torch.bool)
    masks[:, 2, 2] = True
    assert localisation.pointing(maps, masks).tolist() == pytest.approx([1 / 6, 1 / 3])


def test_the_centre_control_points_at_the_centre_also_where_no_cell_is_there(case: Case) -> None:
    masks = torch.zeros(40, 32, 32, dtype=torch.uint8)
    masks[:, 15:18, 15:18] = 1  # the centres of the four middle cells lie outside
    samples = dataclasses.replace(case.samples, masks=masks)
    train = dataclasses.replace(case, samples=samples)
    located = localisation.score(dataclasses.replace(train, train=train))
    for name in ("centre", "centre_2x2"):
        assert located[name]["pointing"].tolist() == [1] * 40
    assert not localisation.pointing(case.maps["centre"], masks == 1).any()


def test_only_images_that_have_a_mask_are_located(case: Case) -> None:
    assert case.samples.masks is not None
    known = torch.arange(40) < 25
    samples = dataclasses.replace(case.samples, masks=case.samples.masks * known[:, None, None])
    train = dataclasses.replace(case, samples=samples)
    whole = localisation.score(dataclasses.replace(case, train=case))
    some = localisation.score(dataclasses.replace(train, train=train))
    for name, scored in whole.items():
        for score, values in scored.items():
            if score not in ("grid_pointing", "iou"):  # one of mosaics, one by a threshold
                expected = values.where(known, torch.nan)
                torch.testing.assert_close(some[name][score], expected, equal_nan=True)
    maps = {name: each[:25] for name, each in case.maps.items()}
    few = dataclasses.replace(case, samples=samples.take(torch.arange(25)), maps=maps)
    alone = localisation.score(dataclasses.replace(few, train=few))
    iou = some["attention"]["iou"]
    torch.testing.assert_close(iou[:25], alone["attention"]["iou"])
    assert iou[25:].isnan().all()


def test_without_training_images_that_have_a_mask_there_is_no_iou(case: Case) -> None:
    scored = localisation.score(case)["attention"]
    assert {"auroc", "pointing"} <= scored.keys() and "iou" not in scored


def test_energy_counts_the_mass_above_the_minimum():
    left = torch.tensor([[0.5, 0.25]]).expand(2, 2).unsqueeze(0)
    flat = torch.full((1, 2, 2), 0.3)
    maps = torch.cat([left, flat])
    masks = half_mask().repeat(2, 1, 1)
    masks[1, :, 2:] = False
    share, area_share = localisation.energy(maps, masks).tolist()
    weights = [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0]  # bilinear, from one cell to the next
    assert share == pytest.approx(sum(weights[:4]) / sum(weights))
    assert area_share == pytest.approx(0.25)


def test_rank_accuracy_counts_the_highest_pixels_that_are_inside():
    maps = torch.arange(16.0).view(1, 4, 4).repeat(3, 1, 1)  # the highest last
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[0, 3] = True  # the four highest
    masks[1, 2:, :2] = True  # 8 9 12 13, of the four highest two
    masks[2, 0] = True  # the four lowest
    assert localisation.rank_accuracy(maps, masks).tolist() == [1, 0.5, 0]


def test_of_tied_pixels_as_many_are_inside_as_is_to_be_expected():
    maps = torch.zeros(2, 4, 4)
    maps[1, 0, 0] = 1
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[:, 0] = True
    flat, peaked = localisation.rank_accuracy(maps, masks).tolist()
    assert flat == pytest.approx(0.25)  # chance: the mask's own share
    assert peaked == pytest.approx((1 + 3 * 3 / 15) / 4)


def test_without_an_inside_rank_accuracy_is_not_a_number():
    assert localisation.rank_accuracy(GRID, torch.zeros(1, 8, 8, dtype=torch.bool)).isnan().all()


def test_a_tolerance_forgives_pointing_beside_the_object():
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 4, 4] = True  # the top cell's centre is 2 pixels off, at (2, 2)
    assert not localisation.pointing(GRID, localisation.dilated(masks, 1)).any()
    assert localisation.pointing(GRID, localisation.dilated(masks, 2)).tolist() == [1]
    assert localisation.dilated(masks, 2).sum() == 25


def test_raw_energy_counts_what_the_minimum_adds_everywhere():
    maps = torch.tensor([[[0.75, 0.25]]]).expand(1, 2, 2)
    inside = localisation.energy_raw(maps, half_mask()).item()
    assert inside == pytest.approx((0.75 * 2 + 0.6875 + 0.5625) / 4)
    assert localisation.energy(maps, half_mask()).item() > inside
    negative = torch.tensor([[[1.0, -1.0]]]).expand(1, 2, 2)
    assert localisation.energy_raw(negative, half_mask()).item() == 1  # -1 is no mass


def test_iou_by_hand():
    maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    masks = torch.tensor([[[True, True], [False, False]]])
    assert localisation.iou(maps, masks, 0.5).item() == 0.5
    assert localisation.iou(maps * 7 - 3, masks, 0.5).item() == 0.5  # any scale
    assert localisation.iou(maps, masks, 0.0).item() == 0.5  # all four of which two
    assert localisation.iou(torch.zeros(1, 2, 2), masks, 0.5).item() == 0


def test_the_best_threshold_cuts_where_the_object_ends():
    column = torch.tensor([[1.0, 0.8, 0.4, 0.0]])
    maps, masks = column.expand(1, 4, 4), torch.tensor([[1, 1, 0, 0]]).bool().expand(1, 4, 4)
    best = localisation.best_threshold(maps, masks)
    assert 0.4 < best <= 0.8 and localisation.iou(maps, masks, best).item() == 1


def test_every_score_of_a_perfect_map_is_at_its_best():
    maps = torch.zeros(1, 8, 8)
    maps[:, :, :4] = 1
    values = {k: v.item() for k, v in localisation.scores(maps, half_mask(), 0.5).items()}
    assert values.pop("lift") == 2  # all of the mass on half of the area
    assert values == dict.fromkeys(values, 1.0) and "iou" in values


def coloured(count: int = 40, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Images of 4 x 6 pixels that hold their own index, and their labels in turn."""
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 6)
    return images, torch.arange(count) % classes


def test_a_mosaic_is_four_correct_images_of_four_classes_with_their_labels():
    images, labels = coloured()
    correct = torch.arange(40) % 3 > 0
    whole, classes = localisation.mosaics(images, labels, correct, 30, generator(0))
    assert whole.shape == (30, 3, 8, 12) and classes.shape == (30, 4)
    corners = whole[:, 0, [0, 0, 4, 4], [0, 6, 0, 6]].long()
    assert torch.equal(labels[corners], classes) and correct[corners].all()
    assert all(len(set(four)) == 4 for four in classes.tolist())
    assert len(corners.unique()) > 20  # any of the 26 may be drawn
    upper = whole[:, 0, :4].unflatten(2, (2, 6))
    assert torch.equal(upper, corners[:, None, :2, None].expand(-1, 4, -1, 6).float())


def test_there_is_no_mosaic_without_four_classes_known():
    images, labels = coloured()
    assert localisation.mosaics(images, labels, labels < 3, 5, generator(0)) is None
    assert localisation.mosaics(images, labels, labels < 4, 5, generator(0)) is not None
    assert localisation.mosaics(images, labels, labels < 0, 5, generator(0)) is None


def test_grid_pointing_is_the_share_of_the_positive_mass_in_the_own_quadrant():
    maps = torch.zeros(1, 4, 4, 4)
    maps[0, 0, 1, 1] = 5  # all of it
    maps[0, 1, 0, 2:], maps[0, 1, 3, 0], maps[0, 1, 3, 3] = 1, 2, -9  # half of it
    maps[0, 2] = 1  # everywhere
    maps[0, 3] = -1  # none
    mean = (1 + 0.5 + 0.25 + 0.25) / 4  # a mosaic is one observation, not four
    assert localisation.grid_pointing(maps).tolist() == pytest.approx([mean])


def test_a_middle_row_or_column_counts_half_on_either_side():
    maps = torch.zeros(1, 4, 3, 3)
    maps[:, :, 1, 0] = 1
    assert localisation.grid_pointing(maps).tolist() == pytest.approx([(0.5 + 0 + 0.5 + 0) / 4])


def test_an_explainer_that_finds_its_class_in_the_mosaic_points_to_it():
    images, labels = coloured()
    whole, classes = localisation.mosaics(images, labels, labels >= 0, 30, generator(0))

    def explain(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        own = images[:, 0] % 5 == classes.view(-1, 1, 1)
        return {"finder": own.float(), "blind": torch.ones_like(images[:, 0])}

    values = localisation.mosaic_pointing(explain, whole, classes)
    assert values["finder"].tolist() == [1] * 30
    assert values["blind"].tolist() == pytest.approx([0.25] * 30)


def test_a_decision_that_follows_the_map_follows_all_four_and_one_that_does_not_just_one():
    """Each class's map shows its own quadrant of the mosaic and hides the others."""
    split = toys.split(8)
    images = (split.images / 255).permute(0, 3, 1, 2)
    correct = torch.ones(8, dtype=torch.bool)
    grids = localisation.mosaics(images, split.labels, correct, 14, generator(0))
    assert localisation.class_follow(Looker(), *grids).tolist() == [1] * 14
    assert localisation.class_follow(Fixed(), *grids).tolist() == [0.25] * 14


def test_without_four_classes_and_masks_nothing_is_located(samples: Samples) -> None:
    three = samples.take((samples.labels < 3).nonzero()[:, 0])
    case = Case(toys.network().eval(), three, {}, BUDGETS["quick"], 4, 0, toys.WHOLE)
    assert localisation.score(case) == {}
