"""Predictions over a split: complete, in order, nothing learned from them; how right they are."""

import dataclasses
import math

import pytest
import torch

from abn.models import checkpoint
from abn.predict import Predictions, energy, headline, predict
from tests import toys
from tests.toys import CPU, WHOLE


def test_every_image_has_its_row_in_order() -> None:
    model, split = toys.network(), toys.split()
    found = predict(model, split, WHOLE, 9, CPU)
    assert found.labels.equal(split.labels)
    assert found.logits.shape == found.attention_logits.shape == (40, 4)
    assert found.attention.shape == (40, 4, 4)
    with torch.inference_mode():
        output = model(split.images.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(found.logits, output.logits)
    torch.testing.assert_close(found.attention_logits, output.attention_logits)
    torch.testing.assert_close(found.attention, output.attention[:, 0])


def test_what_is_said_of_an_image_does_not_depend_on_its_batch() -> None:
    model, split = toys.network(), toys.split()
    model.train()  # in which batch norm would mix the images
    few, many = (predict(model, split, WHOLE, size, CPU) for size in (3, 40))
    torch.testing.assert_close(few.logits, many.logits)


def test_the_energy_score_is_the_log_of_the_sum_of_the_exponentials() -> None:
    logits = torch.tensor([[math.log(1), math.log(3)], [0.0, 0.0], [1000.0, 1000.0]])
    expected = [math.log(4), math.log(2), 1000 + math.log(2)]
    assert energy(logits).tolist() == pytest.approx(expected)


def test_predicting_changes_no_weight() -> None:
    model = toys.network()
    before = checkpoint.weights(model)
    predict(model, toys.split(), WHOLE, 9, CPU)
    assert all(before[name].equal(tensor) for name, tensor in model.state_dict().items())


def test_mirrored_is_the_prediction_on_images_turned_around() -> None:
    split = toys.split()
    around = dataclasses.replace(split, images=split.images.flip(2))
    model = toys.network()
    mirrored = predict(model, split, WHOLE, 9, CPU, mirrored=True)
    plain = predict(model, around, WHOLE, 9, CPU)
    for one, other in zip(mirrored, plain, strict=True):
        torch.testing.assert_close(one, other)
    assert not mirrored.logits.equal(predict(model, split, WHOLE, 9, CPU).logits)


def test_what_is_said_of_a_subset_is_what_is_said_of_its_copy() -> None:
    split = dataclasses.replace(toys.split(), aspect=torch.linspace(0.5, 2, 40))
    index = torch.tensor([31, 2, 17, 4, 9])
    model = toys.network()
    found = predict(model, split.subset(index), WHOLE, 2, CPU)
    expected = predict(model, split.take(index), WHOLE, 2, CPU)
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    assert found.labels.equal(split.labels[index])


def test_top1_and_the_losses_of_both_branches() -> None:
    """Right, wrong, right, wrong; the attention branch right, right, wrong, wrong."""
    said = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9], [0.8, 0.2]])
    also = torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    labels, maps = torch.tensor([0, 1, 1, 1]), torch.full((4, 2, 2), 0.5)
    found = headline(Predictions(said.log() + 3, also.log(), maps, labels))  # a shift says nothing
    perception = -sum(map(math.log, (0.7, 0.4, 0.9, 0.2))) / 4
    attention = -sum(map(math.log, (0.6, 0.8, 0.5, 0.1))) / 4
    assert found == pytest.approx(
        {
            "top1": 0.5,
            "attention_top1": 0.5,
            "loss": perception + attention,
            "loss_perception": perception,
            "loss_attention": attention,
        }
    )
