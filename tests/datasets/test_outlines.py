"""Outlines keep to the unit circle; scraps and strokes are new ones every time."""

import numpy as np

from abn.datasets.outlines import OUTLINES, scrap, strokes


def test_outlines_reach_but_do_not_leave_the_unit_circle() -> None:
    assert len(OUTLINES) == 10
    for name, outline in OUTLINES.items():
        reach = max(np.hypot(*contour.T).max() for contour in outline)
        assert 0.97 < reach <= 1.0001, name


def test_a_scrap_is_a_blob_or_a_line_within_the_circle() -> None:
    rng = np.random.default_rng(0)
    corners = []
    for _ in range(50):
        (contour,) = scrap(rng)
        corners.append(len(contour))
        assert np.hypot(*contour.T).max() < 1.2
    assert set(corners) == {9, 14}


def test_strokes_are_thin_bands_of_the_length_and_width_asked_for() -> None:
    bands = strokes(np.random.default_rng(0), 100)
    assert len(bands) == 100 and strokes(np.random.default_rng(0), 0) == []
    for contour in bands:
        one, other = contour[:12], contour[:11:-1]  # its two sides, both from the same end
        spine = (one + other) / 2
        length = np.linalg.norm(np.diff(spine, axis=0), axis=1).sum() * 12 / 11
        assert 0.7 <= length <= 1.3
        assert np.allclose(np.linalg.norm(one - other, axis=1), 0.05 * length)
        assert np.abs(spine.mean(0)).max() <= 1


def test_strokes_are_corners_or_arcs_and_are_never_closed() -> None:
    corners = 0
    for contour in strokes(np.random.default_rng(0), 100):
        spine = (contour[:12] + contour[:11:-1]) / 2
        steps = np.diff(spine, axis=0)
        turns = np.abs((steps[:-1, ::-1] * [-1, 1] * steps[1:]).sum(1))  # sines, times a square
        corners += int((turns > 1e-9).sum() == 1)
        assert np.linalg.norm(spine[0] - spine[-1]) > 0.1
    assert 25 <= corners <= 55
