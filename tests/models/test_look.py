"""`attention: look`: the map is laid on the picture, and the same trunk looks again."""

import pytest
import torch
from torch import Tensor

from abn.models.abn import AttentionBranchNetwork

K = 3


def network(contrast: float = 1.0) -> AttentionBranchNetwork:
    torch.manual_seed(0)
    return AttentionBranchNetwork("resnet18", K, attention="look", contrast=contrast).eval()


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def cells(*values: float) -> Tensor:
    """The class maps [1, K, 2, 2] of one image: `values` of class 0, zeros of the others."""
    maps = torch.zeros(1, K, 2, 2)
    maps[0, 0] = torch.tensor(values).view(2, 2)
    return maps


def attention(maps: Tensor, label: int = 0, contrast: float = 1.0) -> list[float]:
    return network(contrast).class_attention(maps, torch.tensor([label])).flatten().tolist()


def test_the_map_is_one_at_the_highest_cell_of_the_class_and_falls_by_the_contrast() -> None:
    assert attention(cells(3, 1, -1, 2)) == [1, 0.5, 0, 0.75]
    assert attention(cells(3, 1, -1, 2), contrast=0.5) == [1, 0.75, 0.5, 0.875]


def test_a_class_map_with_less_than_one_logit_between_its_cells_has_a_fainter_map() -> None:
    assert attention(cells(0.5, 0.25, 0.0, 0.5)) == [1, 0.75, 0.5, 1]


def test_a_flat_class_map_shows_everything() -> None:
    assert attention(cells(7, 7, 7, 7)) == [1, 1, 1, 1]
    assert attention(cells(3, 1, -1, 2), label=1) == [1, 1, 1, 1]


@torch.inference_mode()
def test_the_map_is_that_of_the_class_the_attention_branch_predicts() -> None:
    model, images = network().train(), pictures()
    trace = model.trace(images)
    predicted = trace.class_maps.mean((2, 3)).argmax(1)
    expected = model.class_attention(trace.class_maps, predicted)
    assert torch.equal(trace.attention, expected)
    assert trace.attention.amax((1, 2, 3)).tolist() == [1, 1]
    assert trace.attention.std() > 0.1


@torch.inference_mode()
def test_a_map_of_ones_shows_the_whole_picture() -> None:
    """Before training both sets of statistics are the same, so both looks are."""
    model, images = network(), pictures()
    features = model.features(images)
    seen = model.attend(images, features, torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(seen, features)


@torch.inference_mode()
def test_what_a_map_of_zeros_hides_cannot_decide() -> None:
    model, images = network(), pictures()
    seen = model.attend(images, model.features(images), torch.zeros(2, 1, 4, 4))
    assert torch.equal(seen[0], seen[1])


@torch.inference_mode()
def test_what_is_hidden_is_the_mean_colour_of_imagenet() -> None:
    model = network()
    images = pictures(1)
    left = torch.tensor([1.0, 0, 0, 0]).expand(4, 4)[None, None]
    changed = images.clone()
    changed[..., 40:] = 0.1  # beyond half of a cell from the edge nothing is shown
    before, after = (model.attend(x, model.features(x), left) for x in (images, changed))
    assert torch.equal(before, after)


def test_each_look_updates_its_own_statistics() -> None:
    model = network().train()
    images = pictures()
    features = model.features(images)
    first, second = model.bn1.running_mean.clone(), model.look_norms[0].running_mean.clone()
    assert first.any() and not second.any()
    model.attend(images, features, torch.full((2, 1, 4, 4), 0.5))
    assert torch.equal(model.bn1.running_mean, first)
    assert model.look_norms[0].running_mean.any()
    assert [int(norm.num_batches_tracked) for norm in (model.bn1, model.look_norms[0])] == [1, 1]


def test_the_decision_reaches_the_class_map_through_the_mask() -> None:
    model = network().train()  # untrained statistics would leave nothing above zero
    trace = model.trace(pictures())
    trace.logits.sum().backward()
    gradient = model.att_conv2.weight.grad
    assert gradient is not None and gradient.any()


def test_both_modes_start_from_the_same_weights() -> None:
    torch.manual_seed(0)
    residual = AttentionBranchNetwork("resnet18", K).state_dict()
    look = network().state_dict()
    gone = set(residual) - set(look)
    assert {name.split(".")[0] for name in gone} == {"att_conv3", "bn_att3"}
    assert {name.split(".")[0] for name in set(look) - set(residual)} == {"look_norms"}
    assert all(torch.equal(residual[name], look[name]) for name in set(look) & set(residual))


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_every_norm_of_the_trunk_has_second_statistics(arch: str) -> None:
    model = AttentionBranchNetwork(arch, K, attention="look")
    assert [norm.num_features for norm in model.look_norms] == [
        norm.num_features for norm in model.trunk_norms()
    ]
    assert len(model.look_norms) == {"resnet18": 15, "resnet50": 43}[arch]


def test_it_compiles_to_one_graph() -> None:
    model, images = network(), pictures()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(images)
        assert all(map(torch.equal, compiled, model(images)))
