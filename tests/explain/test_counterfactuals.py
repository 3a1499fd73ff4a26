"""Pictures rendered without a part, and the scores that follow from them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor

from abn.config.params import Params, Shapes
from abn.data import packed
from abn.data.packed import Split
from abn.datasets import pack, shapes
from abn.explain import counterfactuals
from abn.explain.case import Case, Pictures
from abn.runtime.errors import UserError
from abn.runtime.rng import generator

INDEX = torch.tensor([3, 7, 12, 25])
NAN = torch.nan


@pytest.fixture
def config(params: Params, changed: Callable[..., Any]) -> Shapes:
    """Pictures with a patch, and some with distractors."""
    return changed(params.data.shapes, shortcut=0.5, distractors=3, train=2, val=30)


def drawn(config: Shapes, index: int, **change: Any) -> np.ndarray:
    return shapes.render(5, "val", index, 32, config, **change).image


def same(canvases: Tensor, images: list[np.ndarray]) -> bool:
    return np.array_equal(canvases.numpy(), np.stack(images))


def parts_of(values: Tensor) -> dict[str, Tensor]:
    return dict(zip("abcd", values.double().T.contiguous(), strict=False))


def test_pictures_come_whole_and_without_each_part(config: Shapes) -> None:
    whole, masks, without = counterfactuals.parts(config, 5, 32, INDEX)
    assert whole.shape == (4, 32, 32, 3) and whole.dtype == masks.dtype == torch.uint8
    assert same(whole, [drawn(config, i) for i in INDEX.tolist()])
    assert list(without) == ["background", "distractors", "target", "patch"]
    for part in ("distractors", "target", "patch"):
        assert same(without[part], [drawn(config, i, without=[part]) for i in INDEX.tolist()])
    swapped = [drawn(config, i, redrawn={"background": i + 1}) for i in INDEX.tolist()]
    assert same(without["background"], swapped)


def test_a_set_without_a_shortcut_has_no_patch(config: Shapes, changed: Callable[..., Any]) -> None:
    pictures = counterfactuals.parts(changed(config, shortcut=None), 5, 32, INDEX)
    assert list(pictures.without) == ["background", "distractors", "target"]
    assert int(pictures.masks.max()) <= 2


def test_pictures_drawn_again_are_those_that_were_packed(
    params: Params, config: Shapes, changed: Callable[..., Any], tmp_path: Path
) -> None:
    described = changed(params.data, shapes=config, size=32, seed=5)
    source = pack.open_source(described, tmp_path)
    pack.pack(source, 32, {split: tmp_path / split for split in source.files})
    canvases = packed.read(tmp_path / "val").images[INDEX]
    counterfactuals.check(counterfactuals.parts(config, 5, 32, INDEX).whole, canvases)
    other = changed(config, clutter=config.clutter + 0.01)
    with pytest.raises(UserError, match="run `dvc repro`"):
        counterfactuals.check(counterfactuals.parts(other, 5, 32, INDEX).whole, canvases)


def test_regions_are_where_the_mask_says() -> None:
    values = counterfactuals.regions(torch.tensor([[[0, 1], [2, 3]]]), ["target", "patch"])
    assert values["target"].tolist() == [[[False, True], [False, False]]]
    assert values["patch"].tolist() == [[[False, False], [False, True]]]


def test_importance_is_the_fall_of_the_classs_logit_and_unknown_where_there_is_no_part() -> None:
    whole = torch.tensor([[5.0, 1.0], [2.0, 3.0]])
    without = {"target": torch.tensor([[1.0, 9.0], [0.0, 3.5]]), "patch": torch.zeros(2, 2)}
    masks = {"target": torch.ones(2, 1, 2).bool(), "patch": torch.tensor([[[0, 1]], [[0, 0]]]) > 0}
    values = counterfactuals.importance(whole, without, torch.tensor([0, 1]), masks)
    assert values["target"].tolist() == [4.0, -0.5]
    assert values["patch"][0] == 5 and values["patch"][1].isnan()


def test_density_is_the_mean_over_a_part_relative_to_the_whole() -> None:
    maps = torch.tensor([[[7.0, 7.0], [7.0, 11.0]]])  # less its minimum: 4 in one cell of four
    masks = {
        "hit": torch.tensor([[[0, 0], [0, 1]]]) > 0,
        "half": torch.tensor([[[0, 1], [0, 1]]]) > 0,
        "miss": torch.tensor([[[1, 0], [0, 0]]]) > 0,
        "all": torch.ones(1, 2, 2).bool(),
        "absent": torch.zeros(1, 2, 2).bool(),
    }
    values = counterfactuals.density(maps, masks)
    means = [float(values[part]) for part in ("hit", "half", "miss", "all")]
    assert means == pytest.approx([4, 2, 0, 1])
    assert values["absent"].isnan()


def test_the_density_of_a_flat_map_is_unknown() -> None:
    masks = {"all": torch.ones(2, 8, 8).bool()}
    maps = torch.tensor([[[0.3, 0.3], [0.3, 0.3]], [[0.3, 0.3], [0.3, 0.4]]])
    assert counterfactuals.density(maps, masks)["all"].isnan().tolist() == [True, False]


def test_density_is_taken_at_the_resolution_of_the_masks() -> None:
    maps = torch.tensor([[[0.0, 4.0]]])  # upsampled to four: 0, 1, 3, 4
    right = torch.tensor([[[0, 0, 0, 1]]]) > 0
    assert counterfactuals.density(maps, {"right": right})["right"].item() == 4 / 2


def test_agreement_weighs_each_pair_of_parts_by_how_much_more_one_decides() -> None:
    """Importances 10, 1, 0: the pairs weigh 9, 10 and 1, of 20."""
    importance = parts_of(torch.tensor([[10.0, 1, 0]] * 5))
    density = parts_of(torch.tensor([[3.0, 2, 1], [3, 1, 2], [1, 2, 3], [2, 2, 2], [2, 2, 1]]))
    values = counterfactuals.agreement(importance, density).tolist()
    # all right; 1 of 20 wrong; all wrong; no order; 9 of 20 undecided
    assert values == pytest.approx([1, (20 - 2) / 20, -1, 0, 11 / 20])


def test_agreement_is_over_the_parts_that_are_there_and_they_must_be_two() -> None:
    importance = parts_of(torch.tensor([[5, NAN, 1, NAN], [NAN, 2, NAN, NAN], [1, 1, 1, 1.0]]))
    density = parts_of(torch.tensor([[2.0, 9, 3, 9], [1, 2, 3, 4], [1, 2, 3, 4]]))
    values = counterfactuals.agreement(importance, density)
    assert values[0] == -1
    assert values[1:].isnan().all()  # one part; nothing to weigh by


def test_with_equal_weights_agreement_is_scipys_kendall() -> None:
    """Two levels of importance: every pair that is not a tie weighs the same."""
    draws = generator(0, "pairs")
    a = torch.tensor([[0.0, 0, 1, 1]] * 40)
    b = torch.rand(40, 4, generator=draws)
    values = counterfactuals.agreement(parts_of(a), parts_of(b))
    for row, x, y in zip(values.tolist(), a.numpy(), b.numpy(), strict=True):
        concordant = kendalltau(x, y).statistic * (4 * 6) ** 0.5  # tau-b divides by this
        assert row == pytest.approx(concordant / 4)


def test_a_part_is_as_important_as_the_logit_falls_without_it(split: Split, case: Case) -> None:
    """Black instead of the object, nothing else instead of the background."""
    assert split.masks is not None
    black = split.images * (split.masks != 1)[..., None]
    pictures = Pictures(split.images, split.masks, {"target": black, "background": split.images})
    case = dataclasses.replace(case, pictures=pictures)
    importance = counterfactuals.part_importance(case)
    assert importance["background"].abs().max() == 0
    predicted = case.samples.predicted[0]
    before = case.samples.trace.logits[0, predicted]
    after = case.model(black[:1].permute(0, 3, 1, 2) / 255).logits[0, predicted]
    assert importance["target"][0].item() == pytest.approx((before - after).item(), abs=1e-5)
    assert counterfactuals.part_regions(case)["target"].equal(split.masks == 1)
    scores = counterfactuals.score(case)["attention"]
    assert list(scores) == ["agreement", "density_background"]
    denser = (scores["density_background"] < 1).double() * 2 - 1  # on the object
    which = importance["target"].sign().double()  # against a background that decides nothing
    assert scores["agreement"].tolist() == pytest.approx((which * denser).tolist())


def test_nothing_is_scored_of_pictures_that_cannot_be_rendered_again(case: Case) -> None:
    assert counterfactuals.score(case) == counterfactuals.part_importance(case) == {}
