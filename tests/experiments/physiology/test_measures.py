"""Measures of tuning curves whose values are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive

from experiments.physiology import measures

ANGLES = np.arange(36) * 5.0


def test_one_orientation_alone_and_all_alike() -> None:
    curves = np.stack([np.eye(36)[4], np.ones(36), np.zeros(36)])
    np.testing.assert_allclose(measures.orientation_selectivity_index(curves, ANGLES), [1, 0, np.nan])
    np.testing.assert_allclose(measures.circular_variance(curves, ANGLES), [0, 1, np.nan], atol=1e-12)
    assert measures.preferred_angle(curves, ANGLES)[0] == pytest.approx(20.0)


@given(st.floats(0.2, 30.0), st.floats(0, 179))
def test_the_circular_variance_is_that_of_von_mises_curves(kappa: float, centre: float) -> None:
    """On an even grid of 36 angles the sum is the integral, I1(kappa) / I0(kappa), for curves that are wide enough."""
    curve = np.exp(kappa * (np.cos(2 * np.deg2rad(ANGLES - centre)) - 1))
    assert measures.circular_variance(curve, ANGLES) == pytest.approx(1 - ive(1, kappa) / ive(0, kappa), abs=1e-6)
    assert (measures.preferred_angle(curve, ANGLES) - centre + 90) % 180 - 90 == pytest.approx(0, abs=1e-6)


@given(st.floats(0.0, 1.0), st.floats(0.1, 10.0))
def test_selectivity_of_a_cosine_is_its_depth(depth: float, scale: float) -> None:
    curve = scale * (1 + depth * np.cos(2 * np.deg2rad(ANGLES - 30)))
    assert measures.orientation_selectivity_index(curve, ANGLES) == pytest.approx(depth)
    assert measures.circular_variance(curve, ANGLES) == pytest.approx(1 - depth / 2)
    directions = np.arange(36) * 10.0
    curve = scale * (1 + depth * np.cos(np.deg2rad(directions - 30)))
    assert measures.direction_selectivity_index(curve, directions) == pytest.approx(depth)


@given(st.integers(0, 35))
def test_the_half_width_of_a_triangle(shift: int) -> None:
    triangle = np.roll(np.clip(1 - np.abs(ANGLES - 90) / 30, 0, None), shift)
    assert measures.half_width(triangle, ANGLES) == pytest.approx(15.0)
    assert np.isnan(measures.half_width(triangle + 2, ANGLES))


def test_the_bandwidth_of_a_curve_that_is_triangular_in_octaves() -> None:
    frequencies = 2.0 ** np.arange(-3, 4, 0.5)
    triangle = np.clip(1 - np.abs(np.log2(frequencies)) / 2, 0, None)
    low_pass = (frequencies < 1).astype(float)
    np.testing.assert_allclose(measures.bandwidth(np.stack([triangle, low_pass]), frequencies), [2.0, np.nan])


def test_suppression_and_cross_orientation() -> None:
    np.testing.assert_allclose(measures.suppression_index([[1, 4, 1.0], [1, 2, 3], [0, 0, 0]]), [0.75, 0, np.nan])
    np.testing.assert_allclose(measures.cross_orientation_suppression([2, 2, 0], [1, 3, 1]), [0.5, -0.5, np.nan])


@settings(max_examples=12, deadline=None)
@given(st.floats(0.5, 50.0), st.floats(0.08, 0.6), st.floats(1.0, 5.0))
def test_a_contrast_response_is_recovered(r_max: float, c50: float, n: float) -> None:
    contrasts = np.geomspace(0.02, 1, 12)
    curve = r_max * contrasts**n / (contrasts**n + c50**n)
    found = measures.naka_rushton(np.stack([curve, np.zeros(12)]), contrasts)
    np.testing.assert_allclose([v[0] for v in found], [r_max, c50, n, 1.0], rtol=1e-2)
    assert all(np.isnan(v[1]) for v in found)


def test_the_half_rise_of_an_exponential_is_log_two() -> None:
    times = np.linspace(0, 30, 6001)
    curves = np.stack([1 - np.exp(-times), 5 * (1 - np.exp(-times / 3)), 0 * times])
    np.testing.assert_allclose(measures.half_rise_time(curves, times), [np.log(2), 3 * np.log(2), np.nan], rtol=1e-3)


def test_a_criterion_is_reached_when_it_is() -> None:
    times = np.linspace(0, 10, 101)
    ramps = np.stack([times, 2 * times, 0 * times])
    np.testing.assert_allclose(measures.criterion_time(ramps, times, 4.03), [4.03, 2.015, np.nan])
    np.testing.assert_allclose(measures.criterion_time(ramps, times, [0.0, 99.0, 1.0]), [np.nan] * 3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: measures.circular_variance([1.0, -1.0], [0.0, 90.0]), "down to -1.0"),
        (lambda: measures.circular_variance([1.0, 1.0], [0.0, 45.0]), "divide 180 degrees evenly"),
        (lambda: measures.orientation_selectivity_index([1.0] * 3, [0.0, 60.0, 120.0]), "even number"),
        (lambda: measures.bandwidth([1.0, 1.0], [0.0, 1.0]), "above zero"),
        (lambda: measures.naka_rushton([1.0, 1.0], [0.0, 1.0]), "above zero"),
        (lambda: measures.half_rise_time([1.0], [0.0, 1.0]), "one per condition"),
        (lambda: measures.half_rise_time([1.0, 2.0], [1.0, 0.0]), "increas"),
    ],
)
def test_bad_curves_are_named(wrong, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=sentence):
        wrong()
