"""An edited map: what takes the attention's place, and what the network then says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from abn.config.params import Attention
from abn.inference import edit
from abn.inference.prediction import Prediction
from abn.inference.predictor import Predictor
from abn.runtime.errors import DataError
from tests import toys

OWN = np.array([[0.2, 0.4], [0.6, 0.8]], np.float32)
GREY = np.full((8, 16, 3), 90, np.uint8)
BEFORE = Prediction({"cat": 1.0}, {"cat": 1.0}, OWN, GREY, (0, 4, 8, 8))


def test_each_word_makes_its_map() -> None:
    np.testing.assert_array_equal(edit.edited("none", BEFORE, looks=False), np.zeros((2, 2)))
    np.testing.assert_array_equal(edit.edited("none", BEFORE, looks=True), np.ones((2, 2)))
    np.testing.assert_allclose(edit.edited("mean", BEFORE, False), np.full((2, 2), 0.5))
    np.testing.assert_allclose(edit.edited("invert", BEFORE, False), [[0.8, 0.6], [0.4, 0.2]])
    shuffled = [edit.edited("shuffle", BEFORE, False, seed) for seed in range(8)]
    assert {tuple(sorted(x.ravel())) for x in shuffled} == {tuple(OWN.ravel())}
    assert len({tuple(x.ravel()) for x in shuffled}) > 1
    assert (shuffled[3] == edit.edited("shuffle", BEFORE, False, 3)).all()


def test_a_picture_of_the_image_size_counts_where_the_network_saw_it(tmp_path: Path) -> None:
    paint = np.zeros((8, 16), np.uint8)
    paint[:, :4] = 255  # not seen
    paint[:2, 4:6] = 255  # a quarter of the first cell
    paint[4:, 8:12] = 255  # the last cell
    Image.fromarray(paint).save(tmp_path / "paint.png")
    found = edit.edited(str(tmp_path / "paint.png"), BEFORE, looks=False)
    np.testing.assert_allclose(found, [[0.25, 0], [0, 1]])


def test_a_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "paint.png")
    with pytest.raises(DataError, match="9 x 9 pixels; the image has 16 x 8"):
        edit.edited(str(tmp_path / "paint.png"), BEFORE, looks=False)


@pytest.mark.parametrize("attention", ["residual", "look"])
def test_the_network_decides_under_the_map_that_it_is_given(attention: Attention) -> None:
    network = toys.network(attention=attention)
    model = Predictor(network, toys.NAMES, 32, 32, toys.CPU)
    image = toys.split(1).images[0].numpy()
    before = model.predict(image)
    same = model.decide(image, before.map)
    assert same.classes == pytest.approx(before.classes, abs=1e-6)
    none = edit.edited("none", before, network.looks)
    after = model.decide(image, none)
    view = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        plain = network.perception_branch(network.features(view))  # no map at all
    if attention == "residual":  # in look the second view has statistics of its own
        shares = [after.classes[name] for name in toys.NAMES]
        assert shares == pytest.approx(plain[0].softmax(0).tolist(), abs=1e-5)
    assert after.classes != before.classes
    assert after.attention_confidences == before.attention_confidences
    np.testing.assert_array_equal(after.map, none)


def test_a_map_of_another_shape_is_refused() -> None:
    model = Predictor(toys.network(), toys.NAMES, 32, 32, toys.CPU)
    with pytest.raises(DataError, match="a map of 4 x 4 cells in 0 to 1 is needed"):
        model.decide(toys.split(1).images[0].numpy(), np.zeros((3, 3), np.float32))
