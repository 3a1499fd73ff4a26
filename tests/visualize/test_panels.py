"""A picture of the gallery: one absolute scale, everything that is to be said, the same bytes."""

from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from abn.visualize import overlays
from abn.visualize.overlays import Tile
from abn.visualize.panels import SIGNED, UNIT, Exhibit, colours, draw, strongest

VIRIDIS = (68, 1, 84), (253, 231, 36)  # its first and last colour, RGB


def exhibit(low: float = 0.2, srg: float | None = 0.5, error: bool = False) -> Exhibit:
    image = np.full((8, 8, 3), 90, np.uint8)
    attention = np.linspace(low, 0.8, 16, dtype=np.float32).reshape(4, 4)
    maps = np.full((4, 4), 2, np.float32), np.full((4, 4), -1, np.float32)
    tile = Tile(image, attention, "disc", "ring" if error else "disc", 0.876)
    role = "error" if error else "best"
    return Exhibit("disc-best", role, tile, srg, maps if error else None)


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_a_colour_is_a_value_whatever_else_is_in_the_map() -> None:
    ends = colours(np.array([[0, 1]], np.float32), UNIT, 0, 1)
    assert [tuple(pixel) for pixel in ends[0].tolist()] == list(VIRIDIS)
    low, high = (np.array([[v, 0.5]], np.float32) for v in (0.1, 0.9))
    assert (colours(low, UNIT, 0, 1)[0, 1] == colours(high, UNIT, 0, 1)[0, 1]).all()


def test_what_is_beyond_the_scale_has_its_last_colour() -> None:
    assert tuple(colours(np.array([[7]], np.float32), UNIT, 0, 1)[0, 0].tolist()) == VIRIDIS[1]


def test_no_evidence_is_nearly_white_and_both_maps_share_one_scale() -> None:
    assert colours(np.zeros((1, 1), np.float32), SIGNED, -2, 2).min() > 240
    pair = np.array([[1, -3]], np.float32), np.array([[2, 0]], np.float32)
    assert strongest(pair) == 3
    assert strongest((pair[0] * 0, pair[1] * 0)) == 1


def test_truth_prediction_confidence_srg_and_gain_are_told() -> None:
    said = words(draw(exhibit(), 1.0, 50))
    for part in ("disc → disc", "88% ✓", "best of its class", "SRG 0.50", "gain ratio 1.50"):
        assert part in said
    assert "not scored" in words(draw(exhibit(srg=None), 1.0, 50))


def test_only_a_flat_map_is_stamped() -> None:
    assert "flat map" in words(draw(exhibit(low=0.75), 1.0, 50))
    assert "flat map" not in words(draw(exhibit(), 1.0, 50))


def test_an_error_shows_the_evidence_for_both_classes() -> None:
    right, wrong = draw(exhibit(), 1.0, 50), draw(exhibit(error=True), 1.0, 50)
    assert len(wrong.axes) == len(right.axes) + 3  # two maps and their bar
    said = words(wrong)
    for part in ("disc → ring", "88% ✗", "Att-CAM ring", "Att-CAM disc", "ring 2.0", "disc −1.0"):  # noqa: RUF001
        assert part in said


def test_dpi_scales_the_picture_and_two_drawings_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        overlays.save(draw(exhibit(error=True), 1.0, 50), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] == 225
