"""The pictures inside the page decode to what they should show."""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from abn.visualize.figures import UNIT, colours, map_panels
from abn.visualize.thumbnails import data_uri, ramp
from tests.visualize.test_figures import VIRIDIS, item


def decoded(uri: str) -> NDArray[np.uint8]:
    """The picture in a data URI, RGB."""
    content = base64.b64decode(uri.partition(",")[2])
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def test_a_map_is_stored_without_loss_and_an_image_nearly() -> None:
    tile = item().tile
    image, _, cells = map(data_uri, map_panels(tile, 1.0))
    assert cells.startswith("data:image/png;base64,")
    assert image.startswith("data:image/jpeg;base64,")
    assert np.array_equal(decoded(cells), colours(tile.attention, UNIT, 0, 1))
    assert np.abs(decoded(image).astype(int) - 90).max() < 3


def test_a_ramp_runs_from_the_first_colour_to_the_last() -> None:
    first, last = ("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in VIRIDIS)
    assert ramp(UNIT).startswith(f"linear-gradient(to right, {first}")
    assert ramp(UNIT)[:-1].split(", ")[-1][:6] == last[:6]
