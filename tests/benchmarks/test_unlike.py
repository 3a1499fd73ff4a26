"""Whether a network notices foreign pictures: how that is counted, by hand on a few."""

import numpy as np
import torch

from benchmarks import unlike


def test_auroc_and_the_share_called_unlike_are_those_counted_by_hand() -> None:
    own = torch.arange(1.0, 21.0)  # whose 5 % quantile is 1.95
    other = torch.tensor([0.0, 1.9, 2.5, 30.0])  # below 20, 19, 18 and 0 of the 20
    assert unlike.told(own, other) == {"auroc": round(57 / 80, 4), "called_unlike": 0.5}


def test_tiles_are_the_squares_of_a_photograph_row_by_row() -> None:
    photo = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    cut = unlike.tiles(photo, 2)
    assert cut.shape == (6, 2, 2, 3)
    np.testing.assert_array_equal(cut[1], photo[:2, 2:4])
    np.testing.assert_array_equal(cut[3], photo[2:4, :2])


def test_pictures_are_as_many_as_asked_for_and_of_the_canvass_size() -> None:
    found = {kind: pictures.shape for kind, pictures in unlike.sets(64, 100, None)}
    assert found == dict.fromkeys(("photographs", "noise", "grey"), (100, 64, 64, 3))
