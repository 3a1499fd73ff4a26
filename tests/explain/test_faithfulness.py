"""Explanation scores against answers known by arithmetic."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from abn.explain import faithfulness, localisation, statistics
from abn.explain.case import Case
from abn.models.abn import Trace
from abn.runtime.rng import generator
from tests import toys

GRID = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])  # top left first, then along the rows


def brightness(images: Tensor) -> Tensor:
    """Class 1 in proportion to the mean pixel."""
    mean = images.mean((1, 2, 3))
    return torch.stack([1 - mean, mean], 1)


def corner(images: Tensor) -> Tensor:
    """Class 1 in proportion to the top left quarter alone."""
    side = images.shape[-1] // 2
    return brightness(images[..., :side, :side])


def curves(classify, maps: Tensor, steps: int = 4, images: Tensor | None = None):
    """The curves of class 1 between white images of 8 pixels and a black baseline."""
    images = torch.ones(len(maps), 3, 8, 8) if images is None else images
    labels = torch.ones(len(maps), dtype=torch.int64)
    places = {"map": faithfulness.places(maps, generator("curves"))}
    inputs = images, torch.zeros_like(images), places, labels, steps
    return faithfulness.perturbation_curves(classify, *inputs)["map"]


def test_cells_are_ranked_from_the_highest_down():
    assert faithfulness.ranks(GRID, generator(0)).tolist() == [[0, 1, 2, 3]]
    assert faithfulness.ranks(-GRID, generator(0)).tolist() == [[3, 2, 1, 0]]


def test_equal_cells_are_ordered_by_the_generator_alone():
    flat = torch.zeros(200, 2, 2)
    order = faithfulness.ranks(flat, generator(1))
    assert torch.equal(order, faithfulness.ranks(flat, generator(1)))
    assert not torch.equal(order, faithfulness.ranks(flat, generator(2)))
    assert order[:, 0].bincount(minlength=4).min() > 25  # every cell comes first sometimes


def test_a_sparse_map_removes_exactly_what_each_step_asks_for():
    sparse = torch.zeros(1, 8, 8)
    sparse[0, 0, :5] = 1
    insertion, _ = curves(brightness, sparse, steps=8)
    torch.testing.assert_close(insertion[0], torch.linspace(0, 1, 9).double())


def test_blur_is_a_gaussian_in_both_directions():
    point = torch.zeros(1, 1, 21, 31)
    point[..., 10, 15] = 1
    blurred = faithfulness.blur(point, 2.0)[0, 0]
    peak = blurred[10, 15]
    for y, x in [(0, 1), (1, 0), (2, 3), (-4, 2)]:
        expected = math.exp(-(y * y + x * x) / 8)
        assert (blurred[10 + y, 15 + x] / peak).item() == pytest.approx(expected, rel=1e-4)


def test_blur_reflects_at_the_edge():
    row = torch.rand(1, 1, 1, 12, generator=generator(0)).expand(1, 1, 12, 12)
    wide = torch.nn.functional.pad(row, (6, 6, 6, 6), mode="reflect")
    torch.testing.assert_close(
        faithfulness.blur(row, 1.0),
        faithfulness.blur(wide, 1.0)[..., 6:18, 6:18],
        rtol=1e-5,
        atol=1e-6,
    )


def test_finding_the_deciding_cell_first_or_last_gives_the_extreme_areas():
    insertion, deletion = curves(corner, torch.cat([GRID, -GRID]))
    assert insertion.tolist() == [[0, 1, 1, 1, 1], [0, 0, 0, 0, 1]]
    assert deletion.tolist() == [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert faithfulness.area(insertion).tolist() == [0.875, 0.125]
    assert faithfulness.area(deletion).tolist() == [0.125, 0.875]


def test_cells_are_blocks_of_pixels_also_on_sides_the_grid_does_not_divide():
    maps = torch.zeros(1, 2, 3)
    maps[0, 1, 2] = 1
    seen = []

    def record(images: Tensor) -> Tensor:
        seen.extend(images[:, 0])
        return brightness(images)

    curves(record, maps, steps=6, images=torch.ones(1, 3, 4, 7))
    first_cell = torch.zeros(4, 7)
    first_cell[2:, 5:] = 1
    assert any(torch.equal(picture, first_cell) for picture in seen)
    assert any(torch.equal(picture, 1 - first_cell) for picture in seen)


def test_a_picture_that_several_points_and_maps_share_is_classified_once():
    seen = []

    def record(images: Tensor) -> Tensor:
        seen.extend(images[:, 0].flatten(1).tolist())
        return brightness(images)

    images, labels = torch.ones(2, 3, 8, 8), torch.ones(2, dtype=torch.int64)
    maps = {"own": GRID, "twin": GRID * 9, "upside_down": -GRID}
    both = {name: each.repeat(2, 1, 1) for name, each in maps.items()}
    places = {name: faithfulness.places(each, generator(0)) for name, each in both.items()}
    found = faithfulness.perturbation_curves(record, images, images * 0, places, labels, 8)
    # cells 0 | 1 | 2 | 3 in this order: 0, 01, 012, all, 123, 23, 3, none; for either image
    assert len(seen) == 2 * 8 and list(found) == list(maps)
    assert torch.equal(found["own"][0], found["twin"][0])


GRIDS = [(4, 8), (9, 4), (16, 8), (25, 8), (36, 8), (49, 8), (1, 3)]


@pytest.mark.parametrize(("cells", "steps"), GRIDS)
def test_every_number_of_cells_that_a_curve_shows_comes_with_its_complement(cells, steps):
    points = faithfulness.counts(cells, steps)
    assert points == sorted({cells - count for count in points})
    assert (points[0], points[-1]) == (0, cells)
    assert all(round(step * cells / steps) in points for step in range(steps + 1))


def test_a_curve_is_straight_between_the_numbers_of_cells_it_shows():
    """Four cells, eight steps: every other point lies halfway between two cells."""
    insertion, deletion = curves(corner, GRID, steps=8)
    assert insertion.tolist() == [[0, 0.5, 1, 1, 1, 1, 1, 1, 1]]
    assert deletion.tolist() == [[1, 0.5, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("side", [2, 3, 5])
def test_the_expected_relevance_gain_of_a_random_order_is_nothing_on_any_grid(side):
    """Each map with its reverse: together they have every picture on both sides, to the bit."""
    maps = torch.rand(8, side, side, generator=generator("orders"))
    images = torch.rand(1, 3, 30, 30, generator=generator("picture")).repeat(16, 1, 1, 1)
    insertion, deletion = curves(corner, torch.cat([maps, -maps]), 4, images)
    gains = faithfulness.area(insertion) - faithfulness.area(deletion)
    assert gains[:8].abs().max() > 0.01
    torch.testing.assert_close(gains[:8], -gains[8:])


def test_an_increasing_affine_change_of_a_map_changes_no_rank_score():
    maps = (torch.rand(6, 4, 4, generator=generator("maps")) * 8).floor() / 8  # many ties
    moved = maps / 4 + 0.5
    masks = torch.rand(6, 32, 32, generator=generator("masks")) < 0.3
    assert torch.equal(
        faithfulness.ranks(maps, generator(0)), faithfulness.ranks(moved, generator(0))
    )
    assert torch.equal(localisation.auroc(maps, masks), localisation.auroc(moved, masks))
    assert localisation.pointing(maps, masks).equal(localisation.pointing(moved, masks))
    before, after = (localisation.rank_accuracy(m, masks) for m in (maps, moved))
    assert torch.equal(before, after)
    for before, after in zip(curves(corner, maps), curves(corner, moved), strict=True):
        assert torch.equal(before, after)


def test_gain_of_a_known_map():
    report = faithfulness.gain(torch.tensor([[[0.0, 0.0], [0.5, 0.5]], [[0.0, 0.0], [0.0, 1.0]]]))
    assert report["minimum"].tolist() == [0, 0]
    assert report["mean"].tolist() == [0.25, 0.25]
    assert report["maximum"].tolist() == [0.5, 1]
    assert report["ratio"].tolist() == [1.5, 2]
    assert report["entropy"].tolist() == pytest.approx([0.5, 0])


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_flat_map_gains_nothing_and_has_full_entropy(level):
    report = faithfulness.gain(torch.full((1, 3, 5), level))
    assert report["ratio"].item() == 1
    assert report["entropy"].item() == pytest.approx(1)
    assert faithfulness.gain(torch.full((1, 3, 5), level), looks=True)["ratio"].item() == 1


def test_the_gain_of_a_map_on_the_picture_is_the_map_itself():
    maps = torch.tensor([[[0.5, 1.0]], [[0.25, 0.75]], [[0.0, 1.0]]])
    assert faithfulness.gain(maps, looks=True)["ratio"].tolist() == [2, 3, math.inf]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_generator_on_the_cpu_serves_maps_on_the_gpu():
    maps = torch.rand(4, 4, 4, generator=generator("maps"))
    masks = torch.rand(4, 32, 32, generator=generator("masks")) < 0.3
    images = torch.rand(4, 3, 32, 32, generator=generator("images"))
    labels = torch.ones(4, dtype=torch.int64)

    def measured(device: str) -> list[Tensor]:
        m, k, i, y = (t.to(device) for t in (maps, masks, images, labels))
        key = generator("curves")
        places = {"map": faithfulness.places(m, key)}
        inputs = i, faithfulness.blur(i, 3.2), places, y, 8
        drawn = faithfulness.perturbation_curves(corner, *inputs)["map"]
        values = [
            *drawn,
            localisation.auroc(m, k),
            localisation.pointing(m, k),
            localisation.energy(m, k),
        ]
        interval = statistics.bootstrap(faithfulness.area(drawn[0]), generator("draws"))
        return [t.cpu() for t in (*values, *faithfulness.gain(m).values(), torch.tensor(interval))]

    for here, there in zip(measured("cpu"), measured("cuda"), strict=True):
        torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-6)


class Corner(toys.Network):
    """Class 1 in proportion to the brightness of the top left quarter, else class 0."""

    def trace(self, images: Tensor) -> Trace:
        bright = images[:, :, :16, :16].mean((1, 2, 3))
        logits = torch.stack([1 - bright, bright], 1).clamp_min(1e-6).log()
        return super().trace(images)._replace(logits=logits)


def test_the_scores_of_a_classifier_of_one_corner_are_known_by_hand(case: Case) -> None:
    """White images, hidden by their mean colour, which is white: nothing happens. In black images
    with a white corner the mean is 1/4, so hiding the corner's four cells takes p from 1 to 1/4.
    """
    images = torch.zeros(2, 3, 32, 32)
    images[0] = 1
    images[1, :, :16, :16] = 1
    two = case.samples.take(torch.arange(2))
    trace = two.trace._replace(logits=torch.tensor([[0.0, 1.0]] * 2))
    maps = torch.zeros(2, 4, 4)
    maps[:, :2, :2] = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    two = dataclasses.replace(two, images=images, trace=trace)
    case = Case(Corner().eval(), two, {"centre": maps}, case.budget, 16, 0, toys.WHOLE)
    scores = faithfulness.score(case)["centre"]
    # steps of 1/16; p falls in four of them, by 3/16 each, and stays: trapezoids
    fall = (1 + 13 / 16 + 10 / 16 + 7 / 16 + 4 / 16) - (1 + 4 / 16) / 2
    deletion = (fall + 12 * 4 / 16) / 16
    insertion = 1 + 1 / 4 - deletion  # what deletion takes away, insertion brings in that order
    assert scores["deletion_colour"].tolist() == pytest.approx([1, deletion], abs=1e-6)
    assert scores["insertion_colour"].tolist() == pytest.approx([1, insertion], abs=1e-6)
    assert scores["srg_colour"].tolist() == pytest.approx([0, insertion - deletion], abs=1e-6)
    start = case.once(faithfulness.curves)["centre", "_colour"].insertion[:, 0]
    assert start.tolist() == pytest.approx([1, 1 / 4])


def test_what_no_gate_of_the_attention_needs_is_measured_on_fewer_images(case: Case) -> None:
    few = dataclasses.replace(case, budget=case.budget._replace(rival_images=8, rise_images=4))
    counts = {
        (name, score): int((~values.isnan()).sum())
        for name, by_score in faithfulness.score(few).items()
        for score, values in by_score.items()
    }
    for name in ("attention", "att_cam", "centre", "sobel", "oracle"):
        assert counts[name, "srg"] == 40
    for name in ("hirescam", "gradcam", "random", "centre_2x2", "oracle_2x2"):
        assert counts[name, "srg"] == 8
    assert counts["rise", "srg"] == 4 and counts["attention", "srg_colour"] == 8
    assert ("sobel", "srg_colour") not in counts
