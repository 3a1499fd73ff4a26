"""Robustness scores against answers known by arithmetic, on toy explainers."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from abn.explain import robustness
from abn.explain.case import Case
from abn.runtime.rng import generator

SIDE, CELL = 32, 8  # maps of 4 x 4


def photos(count: int = 6, side: int = SIDE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=generator("photos"))


def brightness(images: Tensor) -> dict[str, Tensor]:
    """Each cell's mean: follows the image wherever it goes."""
    return {"map": F.avg_pool2d(images.double().mean(1), CELL)}


def fixed(pattern: list[float]):
    """An explainer that sees only where a cell is: `pattern` along every row."""
    row = torch.tensor(pattern, dtype=torch.float32)
    return lambda images: {"map": row.repeat(len(images), 4, 1)}


def always(images: Tensor) -> Tensor:
    """A classifier that never changes its mind."""
    return torch.tensor([[0.2, 0.8]]).repeat(len(images), 1)


def test_a_map_that_never_changes_is_not_sensitive():
    values = robustness.sensitivity(fixed([1, 2, 3, 4]), always, photos(), 3, generator(0))
    assert values["map"].tolist() == [0] * 6


def test_sensitivity_is_the_largest_relative_change_of_the_draws():
    moved = []

    def explain(images: Tensor) -> dict[str, Tensor]:
        moved.append(images)
        return {"map": images.double().mean(1), "twice": 2 * images.double().mean(1)}

    values = robustness.sensitivity(explain, always, photos(), 4, generator(0), radius=0.1)
    still, *others = (images.double().mean(1).flatten(1) for images in moved)
    changes = torch.stack([(other - still).norm(dim=1) / still.norm(dim=1) for other in others])
    assert len(others) == 4
    torch.testing.assert_close(values["map"], changes.amax(0))
    torch.testing.assert_close(values["twice"], values["map"])


def test_the_noise_stays_within_its_radius_and_the_images_in_their_range():
    moved, images = [], photos()

    def explain(images: Tensor) -> dict[str, Tensor]:
        moved.append(images)
        return brightness(images)

    robustness.sensitivity(explain, always, images, 2, generator(0), radius=0.1)
    for other in moved[1:]:
        assert other.amin() == 0 and other.amax() == 1  # clipped
        assert 0.099 < (other - images).abs().amax() < 0.1001
        assert abs((other - images).mean().item()) < 0.001  # as often up as down


def test_a_draw_that_changes_the_prediction_does_not_count():
    """The map jumps a hundredfold with the prediction, and only then."""
    grey, predictions = torch.full((20, 3, SIDE, SIDE), 0.5), []

    def classify(images: Tensor) -> Tensor:
        bright = (images.double().mean((1, 2, 3)) > 0.5).double()
        predictions.append(bright)
        return torch.stack([1 - bright, bright], 1)

    def explain(images: Tensor) -> dict[str, Tensor]:
        return {"map": (1 + 99 * classify(images)[:, 1]).view(-1, 1, 1).expand(-1, 4, 4)}

    values = robustness.sensitivity(explain, classify, grey, 8, generator(0))
    assert torch.stack(predictions[2:]).any(0).all()  # it changed for every image
    assert values["map"].tolist() == [0] * 20


def test_sensitivity_is_unknown_where_no_draw_counts_or_the_map_is_empty():
    calls = []

    def fickle(images: Tensor) -> Tensor:
        calls.append(images)
        return always(images).roll(int(len(calls) > 1), 1)

    values = robustness.sensitivity(brightness, fickle, photos(), 3, generator(0))
    assert values["map"].isnan().all()

    def noise(images: Tensor) -> dict[str, Tensor]:
        return {"map": (images[:, 0] - 0.5).relu()}

    values = robustness.sensitivity(noise, always, torch.full((6, 3, 4, 4), 0.5), 3, generator(0))
    assert values["map"].isnan().all()


def test_a_map_of_the_content_follows_a_mirrored_image_and_one_of_the_place_does_not():
    assert robustness.flip_equivariance(brightness, photos())["map"].tolist() == [1] * 6
    assert robustness.flip_equivariance(fixed([1, 2, 3, 4]), photos())["map"].tolist() == [-1] * 6


def test_a_map_of_the_content_follows_a_shifted_image_and_one_of_the_place_does_not():
    assert robustness.shift_equivariance(brightness, photos())["map"].tolist() == [1] * 6
    values = robustness.shift_equivariance(fixed([1, 9, 1, 9]), photos())["map"]
    assert values.tolist() == [-1] * 6  # 9 1 9 against 1 9 1


def test_a_shift_moves_the_image_right_and_repeats_its_left_edge():
    seen = []

    def explain(images: Tensor) -> dict[str, Tensor]:
        seen.append(images)
        return brightness(images)

    robustness.shift_equivariance(explain, photos())
    before, after = seen
    assert torch.equal(after[..., CELL:], before[..., :-CELL])
    assert torch.equal(after[..., :CELL], before[..., :1].expand(-1, -1, -1, CELL))


def test_each_map_is_shifted_by_a_cell_of_its_own_grid():
    """Half a coarse cell would mix two columns: moved by a whole one, the map follows exactly."""

    def explain(images: Tensor) -> dict[str, Tensor]:
        coarse = F.avg_pool2d(images.double().mean(1), 2 * CELL)
        return brightness(images) | {"coarse": coarse}

    values = robustness.shift_equivariance(explain, photos())
    assert values["map"].tolist() == [1] * 6 and values["coarse"].tolist() == [1] * 6


def test_robustness_is_scored_on_some_images_and_nan_on_the_others(case: Case) -> None:
    few = dataclasses.replace(case, budget=case.budget._replace(robustness_images=8))
    for scores in robustness.score(few).values():
        assert scores["flip"].shape == (40,) and scores["flip"].dtype == torch.float64
        assert (~scores["flip"].isnan()).sum() <= 8
    assert (~robustness.score(few)["attention"]["sensitivity"].isnan()).sum() == 8
