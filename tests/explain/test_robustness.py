"""Robustness scores against answers known by arithmetic, on toy explainers."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from abn.explain import robustness
from abn.models.abn import AttentionBranchNetwork
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


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values)


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
    modules = robustness.PARTS[part]
    return robustness.randomise(model, modules, photos(side=64), generator(seed))


def test_an_explainer_in_batches_gives_the_same_with_the_classes_it_was_given():
    seen = []

    def explain(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        seen.append(len(images))
        return {"map": images[:, 0, :4, :4] * classes.view(-1, 1, 1)}

    images, classes = photos(2 * robustness.BATCH + 1), torch.arange(2 * robustness.BATCH + 1)
    maps = robustness.batched(explain, classes)(images)
    assert seen == [robustness.BATCH, robustness.BATCH, 1]
    assert torch.equal(maps["map"], explain(images, classes)["map"])


def test_a_map_that_never_changes_is_not_sensitive():
    found = robustness.sensitivity(fixed([1, 2, 3, 4]), always, photos(), 3, generator(0))
    assert found["map"].tolist() == [0] * 6


def test_sensitivity_is_the_largest_relative_change_of_the_draws():
    moved = []

    def explain(images: Tensor) -> dict[str, Tensor]:
        moved.append(images)
        return {"map": images.double().mean(1), "twice": 2 * images.double().mean(1)}

    found = robustness.sensitivity(explain, always, photos(), 4, generator(0), radius=0.1)
    still, *others = (images.double().mean(1).flatten(1) for images in moved)
    changes = torch.stack([(other - still).norm(dim=1) / still.norm(dim=1) for other in others])
    assert len(others) == 4
    torch.testing.assert_close(found["map"], changes.amax(0))
    torch.testing.assert_close(found["twice"], found["map"])


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

    found = robustness.sensitivity(explain, classify, grey, 8, generator(0))
    assert torch.stack(predictions[2:]).any(0).all()  # it changed for every image
    assert found["map"].tolist() == [0] * 20


def test_sensitivity_is_unknown_where_no_draw_counts_or_the_map_is_empty():
    calls = []

    def fickle(images: Tensor) -> Tensor:
        calls.append(images)
        return always(images).roll(int(len(calls) > 1), 1)

    found = robustness.sensitivity(brightness, fickle, photos(), 3, generator(0))
    assert found["map"].isnan().all()

    def noise(images: Tensor) -> dict[str, Tensor]:
        return {"map": (images[:, 0] - 0.5).relu()}

    found = robustness.sensitivity(noise, always, torch.full((6, 3, 4, 4), 0.5), 3, generator(0))
    assert found["map"].isnan().all()


def test_a_map_of_the_content_follows_a_mirrored_image_and_one_of_the_place_does_not():
    assert robustness.flip_equivariance(brightness, photos())["map"].tolist() == [1] * 6
    assert robustness.flip_equivariance(fixed([1, 2, 3, 4]), photos())["map"].tolist() == [-1] * 6


def test_a_map_of_the_content_follows_a_shifted_image_and_one_of_the_place_does_not():
    assert robustness.shift_equivariance(brightness, photos(), CELL)["map"].tolist() == [1] * 6
    found = robustness.shift_equivariance(fixed([1, 9, 1, 9]), photos(), CELL)["map"]
    assert found.tolist() == [-1] * 6  # 9 1 9 against 1 9 1


def test_a_shift_moves_the_image_right_and_repeats_its_left_edge():
    seen = []

    def explain(images: Tensor) -> dict[str, Tensor]:
        seen.append(images)
        return brightness(images)

    robustness.shift_equivariance(explain, photos(), CELL)
    before, after = seen
    assert torch.equal(after[..., CELL:], before[..., :-CELL])
    assert torch.equal(after[..., :CELL], before[..., :1].expand(-1, -1, -1, CELL))


def test_the_parts_name_every_module_that_learns():
    model = AttentionBranchNetwork("resnet18", num_classes=2)
    learning = {name for name, child in model.named_children() if [*child.parameters()]}
    assert sorted(robustness.PARTS["all"]) == sorted(learning)
    assert list(robustness.CASCADE)[-2:] == ["attention", "perception"]
    assert not {*robustness.CASCADE["attention"]} & {*robustness.PARTS["perception"]}


def test_the_map_does_not_know_who_decides(model):
    """Drawing layer4 and fc anew changes what is predicted and not one bit of the map."""
    images = photos(side=64)
    other = random(model, "perception")
    assert torch.equal(attention(other, images), attention(model, images))
    with torch.no_grad():
        assert not torch.allclose(other(images).logits, model(images).logits, atol=0.1)


def test_the_map_changes_with_the_branch_that_draws_it(model):
    images = photos(side=64)
    maps, others = attention(model, images), attention(random(model, "attention"), images)
    found = robustness.similarity({"map": maps}, {"map": others})["map"]
    assert found.abs().mean() < 0.7
    assert others.flatten(1).std(1).min() > 0.01  # not dead: a flat map would tell nothing


def test_drawing_anew_leaves_the_model_and_all_other_modules_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = random(model, "attention").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, value in before.items():
        redrawn = name.split(".")[0] in robustness.PARTS["attention"]
        assert redrawn or torch.equal(value, other[name])
        if redrawn and value.ndim == 4:
            assert not torch.equal(value, other[name])


def test_equal_generators_draw_equal_networks_and_the_cascades_steps_share_theirs(model):
    first, second = random(model, "all"), random(model, "all")
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert not torch.equal(first.conv1.weight, random(model, "all", seed=1).conv1.weight)
    modules = robustness.CASCADE["layer1"]
    step = robustness.randomise(model, modules, photos(side=64), generator(0))
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
    images = photos(side=64)
    other = robustness.randomise(model, ("conv1", "bn1"), images, generator(0))
    with torch.no_grad():
        out = other.bn1(other.conv1((images - other.mean) / other.std))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(64), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(64), atol=1e-3, rtol=0)


def test_equal_maps_of_all_networks_are_stable():
    maps = torch.rand(1, 5, 4, 4, generator=generator(0)).repeat(3, 1, 1, 1)
    iou, correlation = robustness.stability(maps)
    assert (iou.tolist(), correlation.tolist()) == ([1] * 5, [1] * 5)


def test_stability_is_the_mean_over_the_pairs():
    """Ten cells, so two on top: {9, 8} twice and {9, 0}: IoU 1, 1/3 and 1/3."""
    first = torch.arange(10.0)
    third = first.clone()
    third[0] = 8.5
    iou, correlation = robustness.stability(torch.stack([first, first, third]).view(3, 1, 2, 5))
    assert iou.item() == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    rank = stats.spearmanr(first, third).statistic
    assert correlation.item() == pytest.approx((1 + 2 * rank) / 3)


def test_the_top_fifth_is_rounded_up_and_the_first_of_equals_is_in_it():
    """Sixteen cells, so four on top: the last, then the first three of the equal rest."""
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, 3, 3] = 1
    maps[1, 0, 0, 3] = 1  # and cells 0, 1, 2
    assert robustness.stability(maps)[0].item() == pytest.approx(3 / 5)


def coloured(count: int = 40, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Images of 4 x 6 pixels that hold their own index, and their labels in turn."""
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 6)
    return images, torch.arange(count) % classes


def test_a_mosaic_is_four_correct_images_of_four_classes_with_their_labels():
    images, labels = coloured()
    correct = torch.arange(40) % 3 > 0
    whole, classes = robustness.mosaics(images, labels, correct, 30, generator(0))
    assert whole.shape == (30, 3, 8, 12) and classes.shape == (30, 4)
    corners = whole[:, 0, [0, 0, 4, 4], [0, 6, 0, 6]].long()
    assert torch.equal(labels[corners], classes) and correct[corners].all()
    assert all(len(set(four)) == 4 for four in classes.tolist())
    assert len(corners.unique()) > 20  # any of the 26 may be drawn
    upper = whole[:, 0, :4].unflatten(2, (2, 6))
    assert torch.equal(upper, corners[:, None, :2, None].expand(-1, 4, -1, 6).float())


def test_there_is_no_mosaic_without_four_classes_known():
    images, labels = coloured()
    assert robustness.mosaics(images, labels, labels < 3, 5, generator(0)) is None
    assert robustness.mosaics(images, labels, labels < 4, 5, generator(0)) is not None
    assert robustness.mosaics(images, labels, labels < 0, 5, generator(0)) is None


def test_grid_pointing_is_the_share_of_the_positive_mass_in_the_own_quadrant():
    maps = torch.zeros(1, 4, 4, 4)
    maps[0, 0, 1, 1] = 5  # all of it
    maps[0, 1, 0, 2:], maps[0, 1, 3, 0], maps[0, 1, 3, 3] = 1, 2, -9  # half of it
    maps[0, 2] = 1  # everywhere
    maps[0, 3] = -1  # none
    assert robustness.grid_pointing(maps).tolist() == pytest.approx([1, 0.5, 0.25, 0.25])


def test_a_middle_row_or_column_counts_half_on_either_side():
    maps = torch.zeros(1, 4, 3, 3)
    maps[:, :, 1, 0] = 1
    assert robustness.grid_pointing(maps).tolist() == pytest.approx([0.5, 0, 0.5, 0])


def test_a_map_that_is_the_same_for_every_class_points_by_chance():
    maps = torch.rand(7, 1, 4, 4, generator=generator(0)).expand(-1, 4, -1, -1)
    assert robustness.grid_pointing(maps).mean().item() == pytest.approx(0.25)


def test_an_explainer_that_finds_its_class_in_the_mosaic_points_to_it():
    images, labels = coloured()
    whole, classes = robustness.mosaics(images, labels, labels >= 0, 30, generator(0))

    def explain(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        own = images[:, 0] % 5 == classes.view(-1, 1, 1)
        return {"finder": own.float(), "blind": torch.ones_like(images[:, 0])}

    found = robustness.mosaic_pointing(explain, whole, classes)
    assert found["finder"].tolist() == [1] * 120
    assert found["blind"].tolist() == pytest.approx([0.25] * 120)
