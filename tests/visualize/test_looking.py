"""What a network saw: the picture under its map, the map of the true class, and what is enough."""

import pytest
import torch

from abn.data.packed import Split
from abn.explain.case import Samples, collect
from abn.models.abn import IMAGENET_MEAN, AttentionBranchNetwork
from abn.visualize import looking
from abn.visualize.looking import DRAWN
from tests import toys
from tests.toys import NAMES, WHOLE


@pytest.fixture(scope="module")
def split() -> Split:
    return toys.split(8)


@pytest.fixture(scope="module")
def model() -> AttentionBranchNetwork:
    """A network that looks, then decides, with random weights and 2 x 2 cells."""
    torch.manual_seed(0)
    return AttentionBranchNetwork("resnet18", 4, attention="look").eval()


@pytest.fixture(scope="module")
def samples(model: AttentionBranchNetwork, split: Split) -> Samples:
    return collect(model, split, torch.arange(8), WHOLE)


def test_what_a_map_hides_is_the_mean_colour_and_what_it_shows_is_the_image() -> None:
    images = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1).expand_as(images[0])
    assert torch.allclose(looking.seen(images, torch.ones(1, 1, 2, 2)), images, atol=1e-6)
    assert torch.equal(looking.seen(images, torch.zeros(1, 1, 2, 2))[0], mean)
    half = looking.seen(images, torch.full((1, 1, 2, 2), 0.5))
    assert torch.allclose(half[0], (images[0] + mean) / 2, atol=1e-6)


def test_the_picture_seen_is_the_one_that_the_network_decides_on(model, samples) -> None:
    """Shown to the second look under a map of ones, it gives the same features."""
    seen = looking.seen(samples.images, samples.trace.attention)
    whole = torch.ones_like(samples.trace.attention)
    with torch.no_grad():
        again = model.attend(seen, samples.trace.features, whole)
        features = model.attend(samples.images, samples.trace.features, samples.trace.attention)
    assert torch.allclose(again, features, atol=1e-4)


def test_a_tile_says_whose_map_it_is_and_how_far_that_class_map_ranges(model, samples) -> None:
    tiles = looking.tiles(model, samples, NAMES, "attention")
    means = samples.trace.class_maps.mean((2, 3))
    for i, tile in enumerate(tiles):
        named = int(means[i].argmax())
        cells = samples.trace.class_maps[i, named]
        assert tile.look is not None and tile.look.named == NAMES[named]
        assert tile.look.logits == pytest.approx(float(cells.max() - cells.min()))
        assert tile.scale == (float(samples.attention.min()), 1)


def test_a_residual_network_has_no_second_look_and_no_what_if(split: Split) -> None:
    residual = toys.network().eval()
    given = collect(residual, split, torch.arange(8), WHOLE)
    assert all(tile.look is None for tile in looking.tiles(residual, given, NAMES, "attention"))
    assert looking.what_if(residual, given, NAMES) == [None] * 8


def test_what_if_is_the_decision_under_the_map_of_the_true_class(model, samples) -> None:
    named = samples.trace.class_maps.mean((2, 3)).argmax(1)
    answers = looking.what_if(model, samples, NAMES)
    assert [answer is None for answer in answers] == (named == samples.labels).tolist()
    place = next(i for i, answer in enumerate(answers) if answer)
    image, true = samples.images[place : place + 1], samples.labels[place : place + 1]
    with torch.no_grad():
        trace = model.trace(image)
        attention = model.class_attention(trace.class_maps, true)
        shares = model.perception_branch(model.attend(image, trace.features, attention)).softmax(1)
    answer = answers[place]
    assert answer is not None
    assert answer.prediction == NAMES[int(shares.argmax())]
    assert answer.after == pytest.approx(float(shares[0, true]), abs=1e-4)
    before = trace.logits.softmax(1)[0, true]
    assert answer.before == pytest.approx(float(before), abs=1e-4)
    assert answer.corrects == (shares.argmax() == true).item()


@pytest.mark.parametrize("name", DRAWN)
def test_every_map_that_can_be_named_is_drawn(model, samples, name: str) -> None:
    tiles = looking.tiles(model, samples, NAMES, name)
    assert all(tile.heat.name == name and tile.heat.values.ndim == 2 for tile in tiles)
    low, high = tiles[0].heat.scale
    assert low < high


def test_the_part_that_is_enough_keeps_the_decision_when_all_else_is_hidden(model, samples) -> None:
    parts = looking.enough(model, samples, "att_cam")
    assert any(parts)
    for part, image in zip(parts, samples.images, strict=True):
        if part is not None:
            assert 0 < part.share <= 1 and part.name == "att_cam"
            shown = (part.pixels == (255 * image).round().permute(1, 2, 0).numpy()).all(2)
            assert shown.mean() >= part.share  # what is shown is the image itself


def test_in_a_residual_network_all_but_the_part_that_is_enough_is_blurred(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = toys.network().eval()
    given = collect(network, split, torch.arange(2), WHOLE)
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, :, :8] = True  # a quarter; of the other image nothing has to be shown
    monkeypatch.setattr(looking, "sufficient_masks", lambda *given: masks)
    part, nothing = looking.enough(network, given, "attention")
    assert nothing is None and part is not None and part.share == 0.25
    image = (255 * given.images[0]).round().permute(1, 2, 0).numpy()
    assert (part.pixels[:, :8] == image[:, :8]).all()
    assert part.pixels[:, 12:].std() < image[:, 12:].std()  # noise, blurred
