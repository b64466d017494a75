"""Whitening and normalisation: each step is undone by its inverse, and whitens what it is said to whiten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from vars_dyn.learning import ZCA, Centre, ContrastNormalisation, OlshausenField


@given(st.integers(0, 2**31), st.integers(8, 24), st.integers(8, 24), st.sampled_from([1, 3]))
def test_the_filter_of_images_is_undone(seed: int, rows: int, columns: int, colours: int) -> None:
    image = np.random.default_rng(seed).normal(2.0, 3.0, (colours, rows, columns))
    step = OlshausenField()
    values, kept = step.apply(image)
    assert values.std() == pytest.approx(1.0)
    np.testing.assert_allclose(step.invert(values, kept), image, atol=1e-8)


@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(2, 6))
def test_the_steps_on_patches_are_undone(seed: int, count: int, side: int) -> None:
    patches = np.random.default_rng(seed).normal(1.0, 2.0, (count, 1, side, side))
    for step in (Centre(), ContrastNormalisation(0.3), ZCA.fit(patches)):
        values, kept = step.apply(patches)
        assert values.shape == patches.shape
        np.testing.assert_allclose(step.invert(values, kept), patches, atol=1e-9)


def test_the_filter_flattens_the_spectrum_of_a_natural_image() -> None:
    """An image with amplitudes of 1/f gets amplitudes that do not depend on f, up to the low pass."""
    side = 64
    frequency = np.hypot(np.fft.fftfreq(2 * side)[:, None], np.fft.fftfreq(2 * side)[None])
    noise = np.fft.fft2(np.random.default_rng(0).normal(size=(2 * side, 2 * side)))
    image = np.fft.ifft2(noise / np.where(frequency > 0, frequency, np.inf)).real[:side, :side]
    found, _ = OlshausenField().apply(image[None])
    power = np.abs(np.fft.fft2(found[0])) ** 2
    own = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    low, high = (power[(own > a) & (own < b)].mean() for a, b in ((0.05, 0.1), (0.15, 0.2)))
    assert high / low == pytest.approx(1.0, rel=0.3)
    raw = np.abs(np.fft.fft2(image)) ** 2
    assert raw[(own > 0.15) & (own < 0.2)].mean() / raw[(own > 0.05) & (own < 0.1)].mean() < 0.4


def test_zca_agrees_with_the_whitening_of_scikit_learn() -> None:
    """Without a ridge, ZCA is PCA whitening turned back by the eigenvectors."""
    generator = np.random.default_rng(1)
    patches = generator.normal(size=(500, 6)) @ generator.normal(size=(6, 6))
    peer = PCA(whiten=True).fit(patches)
    expected = peer.transform(patches) @ peer.components_
    found, _ = ZCA.fit(patches, ridge=1e-12).apply(patches)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_contrast_keeps_weak_patches_weak() -> None:
    patches = np.random.default_rng(2).normal(size=(2, 50)) * np.array([[10.0], [0.001]])
    values, _ = ContrastNormalisation(0.1).apply(patches)
    power = np.sqrt((values**2).mean(1))
    assert power[0] == pytest.approx(1.0, rel=1e-3)
    assert power[1] < 0.02


@pytest.mark.parametrize(
    "make",
    [lambda: OlshausenField(0.0), lambda: ContrastNormalisation(-1.0), lambda: ZCA.fit(np.ones((1, 3)))],
)
def test_bad_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="wanted"):
        make()  # type: ignore[operator]
