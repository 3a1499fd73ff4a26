"""What is shown is chosen by a rule, and is what the network saw and said."""

import numpy as np
import torch

from abn.batches import View
from abn.gallery import first_of_each_class
from abn.predict import predict
from tests import toys
from tests.toys import CPU, NAMES, WHOLE


def test_the_first_image_of_each_class_is_shown() -> None:
    split = toys.split().take(torch.tensor([6, 1, 5, 3, 2, 0, 4]))
    tiles = first_of_each_class(toys.network().eval(), split, WHOLE, 4)
    assert [tile.truth for tile in tiles] == list(NAMES)
    for tile, place in zip(tiles, [5, 1, 0, 3], strict=True):
        assert np.array_equal(tile.image, split.images[place].numpy())


def test_no_more_classes_are_shown_than_asked_for_or_there_are() -> None:
    model, split = toys.network().eval(), toys.split()
    assert [t.truth for t in first_of_each_class(model, split, WHOLE, 2)] == ["red", "blue"]
    without_blue = split.take((split.labels != 1).nonzero()[:, 0])
    tiles = first_of_each_class(model, without_blue, WHOLE, 9)
    assert [tile.truth for tile in tiles] == ["red", "green", "yellow"]


def test_a_tile_is_what_the_network_saw_and_said() -> None:
    model, split = toys.network(), toys.split(4)
    said = predict(model, split, View(16, 24), 4, CPU)
    tiles = first_of_each_class(model, split, View(16, 24), 4)
    for i, tile in enumerate(tiles):
        assert tile.image.shape == (16, 16, 3) and tile.image.dtype == np.uint8
        assert tile.prediction == NAMES[said.logits[i].argmax()]
        assert abs(tile.confidence - said.logits[i].softmax(0).max()) < 1e-5
        assert np.allclose(tile.attention, said.attention[i], atol=1e-5)
