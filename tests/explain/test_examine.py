"""Each examination, on networks whose answers are known."""

import dataclasses

import pytest
import torch
from torch import Tensor

from abn.data.packed import Split
from abn.explain import examine
from abn.explain.case import Subject, observe
from abn.explain.counterfactuals import Pictures
from abn.explain.examine import PROFILES
from abn.models.abn import Trace
from tests import toys

QUICK = PROFILES["quick"]


@pytest.fixture(scope="module")
def model() -> toys.Network:
    return toys.network().eval()


@pytest.fixture(scope="module")
def split() -> Split:
    return toys.split()


@pytest.fixture(scope="module")
def subject(model: toys.Network, split: Split) -> Subject:
    return observe(model, split, torch.arange(40), toys.WHOLE)


class Corner(toys.Network):
    """Class 1 in proportion to the brightness of the top left quarter, else class 0."""

    def trace(self, images: Tensor) -> Trace:
        bright = images[:, :, :16, :16].mean((1, 2, 3))
        logits = torch.stack([1 - bright, bright], 1).clamp_min(1e-6).log()
        return super().trace(images)._replace(logits=logits)


def test_a_classifier_of_one_corner_gives_the_areas_by_arithmetic(subject: Subject) -> None:
    """White images, hidden by their mean colour, which is white: nothing happens. In black images
    with a white corner the mean is 1/4, so hiding the corner's four cells takes p from 1 to 1/4.
    """
    images = torch.zeros(2, 3, 32, 32)
    images[0] = 1
    images[1, :, :16, :16] = 1
    two = subject.at(torch.arange(2))
    trace = two.trace._replace(logits=torch.tensor([[0.0, 1.0]] * 2))
    two = dataclasses.replace(two, images=images, trace=trace)
    maps = torch.zeros(2, 4, 4)
    maps[:, :2, :2] = torch.tensor([[4.0, 3.0], [2.0, 1.0]])
    values, curves = examine.faithful(Corner().eval(), two, maps, 16, "toy", 0)
    # steps of 1/16; p falls in four of them, by 3/16 each, and stays: trapezoids
    fall = (1 + 13 / 16 + 10 / 16 + 7 / 16 + 4 / 16) - (1 + 4 / 16) / 2
    deletion = (fall + 12 * 4 / 16) / 16
    insertion = 1 + 1 / 4 - deletion  # what deletion takes away, insertion brings in that order
    assert values["deletion_colour"].tolist() == pytest.approx([1, deletion], abs=1e-6)
    assert values["insertion_colour"].tolist() == pytest.approx([1, insertion], abs=1e-6)
    assert values["srg_colour"].tolist() == pytest.approx([0, insertion - deletion], abs=1e-6)
    assert curves["_colour"][0][0].item() == pytest.approx((1 + 1 / 4) / 2)


def test_the_contestants_are_the_networks_maps_and_the_controls(
    model: toys.Network, subject: Subject
) -> None:
    found = examine.contestants(model, subject, 0)
    assert list(found)[:2] == ["attention", "att_cam"]
    assert list(found)[-4:] == ["random", "centre", "sobel", "oracle"]
    assert all(maps.shape == (40, 4, 4) and maps.dtype == torch.float32 for maps in found.values())
    assert found["attention"].equal(subject.attention)
    rows = torch.arange(40)
    torch.testing.assert_close(found["att_cam"], subject.trace.class_maps[rows, subject.predicted])


def test_robustness_is_measured_on_some_images_and_not_on_the_others(
    model: toys.Network, subject: Subject
) -> None:
    found = examine.robust(model, subject, QUICK._replace(images=8), 0)
    for values in found.values():
        assert values["flip"].shape == (40,) and (~values["flip"].isnan()).sum() <= 8
    untouched = found["attention"]["randomised_perception"]
    assert untouched[~untouched.isnan()].tolist() == [1] * 8  # the map lies upstream
    redrawn = found["attention"]["randomised_attention"]
    assert ((redrawn >= 0) & (redrawn < 1)).sum() > 0


def test_each_redraw_of_the_weights_counts(model: toys.Network, subject: Subject) -> None:
    one, three = (
        examine.robust(model, subject, QUICK._replace(images=8, redraws=n), 0) for n in (1, 3)
    )
    assert not one["att_cam"]["randomised_attention"].equal(
        three["att_cam"]["randomised_attention"]
    )


def test_without_four_classes_there_are_no_mosaics(model: toys.Network) -> None:
    split = toys.split(20, classes=3)
    few = observe(toys.network(3).eval(), split, torch.arange(20), toys.WHOLE)
    assert examine.pointing_grids(toys.network(3).eval(), few, QUICK, 0) == {}


def test_one_network_alone_is_not_called_stable(model: toys.Network, subject: Subject) -> None:
    assert examine.stable([model], subject) == {}
    iou, ranks = examine.stable([model, toys.network().eval()], subject)["attention"]
    assert iou.tolist() == [1] * 40 and ranks.tolist() == pytest.approx([1] * 40)


def test_a_decision_rests_on_what_lowers_its_logit_when_it_is_gone(
    model: toys.Network, split: Split, subject: Subject
) -> None:
    """Black instead of the object, nothing at all instead of the background."""
    assert split.masks is not None
    gone = split.images * (split.masks != 1)[..., None]
    pictures = Pictures(split.images, split.masks, {"target": gone, "background": split.images})
    importance, regions = examine.rested(model, subject, pictures, toys.WHOLE)
    assert importance["background"].abs().max() == 0
    before = subject.trace.logits[0, subject.predicted[0]]
    after = model(gone[:1].permute(0, 3, 1, 2) / 255).logits[0, subject.predicted[0]]
    assert importance["target"][0].item() == pytest.approx((before - after).item(), abs=1e-5)
    assert regions["target"].equal(split.masks == 1)


def test_mass_is_told_part_by_part(subject: Subject) -> None:
    regions = {
        "target": torch.zeros(40, 32, 32).bool(),
        "background": torch.ones(40, 32, 32).bool(),
    }
    regions["target"][:, :16] = True
    importance = {"target": torch.ones(40), "background": torch.zeros(40)}
    found = examine.agreeing(subject.attention, importance, regions)
    assert found["density_background"].tolist() == pytest.approx([1] * 40)
    assert found["agreement"].isnan().all()  # two parts cannot be ranked


def test_the_map_is_replaced_by_the_oracle_only_where_there_are_masks(
    model: toys.Network, subject: Subject
) -> None:
    assert "oracle" in examine.effects(model, subject, 0)
    blind = dataclasses.replace(subject, masks=None)
    effects = examine.effects(model, blind, 0)
    assert "oracle" not in effects and effects["none"].flips.sum() == 0
