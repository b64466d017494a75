"""Gabor fits recover the functions that were drawn, from nothing but their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.physiology.gabors import PARAMETERS, fit_gabor, fit_gabors, gabor
from vars_dyn.dictionaries.gabor import GaborBank

angle = st.floats(0.0, 179.9)


@settings(max_examples=15, deadline=None)
@given(
    st.floats(5.0, 9.0), st.floats(5.0, 9.0), angle, st.floats(0.12, 0.3), st.floats(0.0, 359.0), st.floats(2.0, 3.5)
)
def test_a_gabor_function_is_recovered(
    row: float, column: float, orientation: float, frequency: float, phase: float, width: float
) -> None:
    drawn = np.array([0.7, row, column, orientation, frequency, phase, width, 1.3 * width])
    found, r_squared = fit_gabor(gabor(drawn, (15, 15)))
    assert r_squared > 0.999
    np.testing.assert_allclose(gabor(found, (15, 15)), gabor(drawn, (15, 15)), atol=0.03)
    turned = (found[3] - orientation + 90) % 180 - 90
    assert abs(turned) < 2
    assert found[4] == pytest.approx(frequency, abs=0.01)
    assert 0 <= found[3] < 180
    assert 0 <= found[5] < 360
    assert found[0] > 0


def test_the_bank_is_fitted_with_its_own_parameters() -> None:
    bank = GaborBank(16, orientations=4, scales=1, phases=2, places=2, wavelength=4.0)
    table = fit_gabors(bank.kernels().numpy()[:, 0])
    assert float(table.r_squared.min()) > 0.99
    np.testing.assert_allclose(table.frequency, 0.25, atol=0.02)
    expected = np.repeat(45.0 * np.arange(4), 8)
    np.testing.assert_allclose((table.orientation - expected + 90) % 180 - 90, 0.0, atol=1.0)
    np.testing.assert_allclose(table.aspect, 1.0, atol=0.1)
    assert {name: table[name].attrs["units"] for name in PARAMETERS} == {n: u for n, (u, _) in PARAMETERS.items()}


def test_noise_is_no_gabor_function_and_the_amplitude_is_the_atoms_own() -> None:
    rng = np.random.default_rng(0)
    noise, r_squared = fit_gabor(rng.standard_normal((12, 12)))
    assert r_squared < 0.5
    drawn = np.array([40.0, 6, 6, 30.0, 0.2, 90.0, 2.5, 2.5])
    assert fit_gabor(gabor(drawn, (12, 14)))[0][0] == pytest.approx(40.0, rel=0.05)
    assert np.isfinite(noise).all()


def test_an_atom_without_energy_is_refused() -> None:
    with pytest.raises(ValueError, match="energy 0"):
        fit_gabor(np.zeros((4, 4)))
