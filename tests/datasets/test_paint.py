"""Painting: outlines are covered by their area, colours have the luminance asked for."""

import math

import numpy as np
import pytest

from abn.datasets.paint import cover, flat, textured

REC_601 = np.array([0.299, 0.587, 0.114])
SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / math.sqrt(2)
MIDDLE = np.array([0.5, 0.5])


def test_coverage_adds_up_to_the_area_of_the_outline_at_any_angle() -> None:
    for angle in (0.0, 0.3, 2.0):
        area = cover(64, [SQUARE], MIDDLE, 0.5, angle).sum() / 255
        assert area == pytest.approx(0.5 * 32**2, rel=0.05)


def test_a_contour_within_another_is_a_hole() -> None:
    coverage = cover(64, [SQUARE, SQUARE / 2], MIDDLE, 0.9, 0.0)
    assert coverage[32, 32] == 0 and coverage[32, 15] == 255


def test_an_outline_is_turned_clockwise_and_put_at_its_centre() -> None:
    pointer = np.array([(0, -1), (0.1, 0), (-0.1, 0)])
    rows, columns = np.nonzero(cover(64, [pointer], np.array([0.25, 0.75]), 0.4, math.pi / 2))
    assert np.abs(rows - 47.5).max() <= 2
    assert columns.min() >= 15 and columns.max() >= 26


@pytest.mark.parametrize("luminance", [0, 0.1, 0.5, 0.95, 1])
def test_a_flat_colour_has_exactly_its_luminance(luminance: float) -> None:
    rng = np.random.default_rng(0)
    colours = np.array([flat(rng, luminance).ravel() for _ in range(100)])
    assert colours @ REC_601 == pytest.approx(luminance, abs=1e-6)
    assert colours.min() >= -1e-6 and colours.max() <= 1 + 1e-6


@pytest.mark.parametrize("amplitude", [0, 0.12, 0.35, 1])
def test_a_texture_stays_within_its_amplitude_about_its_luminance(amplitude: float) -> None:
    rng = np.random.default_rng(0)
    planes = np.array([textured(rng, 32, 0.5, amplitude) for _ in range(50)])
    shade = np.tensordot(planes, REC_601, (1, 0))
    assert np.abs(shade - 0.5).max() <= amplitude / 2 + 1e-6
    assert np.abs(shade.mean() - 0.5) <= 0.03 * amplitude + 1e-6
    assert planes.min() >= -1e-6 and planes.max() <= 1 + 1e-6
