"""Outlines keep to the unit circle, and a scrap is a new one every time."""

import numpy as np

from abn.datasets.outlines import OUTLINES, scrap


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
