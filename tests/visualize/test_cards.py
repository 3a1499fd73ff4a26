"""An exhibit inside a page: its pictures decode to what they should show."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from abn.visualize.cards import card, ramp
from abn.visualize.panels import SIGNED, UNIT, colours
from tests.visualize.test_panels import VIRIDIS, exhibit


def decoded(uri: str) -> NDArray[np.uint8]:
    """The picture in a data URI, RGB."""
    content = base64.b64decode(uri.partition(",")[2])
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def test_the_map_is_shown_cell_by_cell_without_loss() -> None:
    given = exhibit()
    (image, *_), _, (raw, alt, caption) = card(given, 1.0).pictures
    assert raw.startswith("data:image/png;base64,") and image.startswith("data:image/jpeg;base64,")
    assert np.array_equal(decoded(raw), colours(given.tile.attention, UNIT, 0, 1))
    assert np.abs(decoded(image).astype(int) - 90).max() < 3
    assert alt == "The attention map, 4 x 4 cells from 0.20 to 0.80"
    assert caption == "map 0.20\N{EN DASH}0.80"


def test_an_error_brings_both_classes_evidence_on_one_scale() -> None:
    *_, predicted, true = card(exhibit(error=True), 1.0).pictures
    assert (decoded(predicted[0]) == colours(np.full((4, 4), 1.0), SIGNED, -1, 1)).all()
    assert predicted[2] == "predicted: ring, 2.0"
    assert true[2] == "true: disc, \N{MINUS SIGN}1.0"


def test_flat_is_flat_and_the_gain_is_told() -> None:
    assert card(exhibit(low=0.75), 1.0).flat and not card(exhibit(), 1.0).flat
    assert round(card(exhibit(), 1.0).gain_ratio, 6) == 1.5


def test_a_ramp_runs_from_the_first_colour_to_the_last() -> None:
    first, last = ("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in VIRIDIS)
    assert ramp(UNIT).startswith(f"linear-gradient(to right, {first}")
    assert ramp(UNIT)[:-1].split(", ")[-1][:6] == last[:6]
