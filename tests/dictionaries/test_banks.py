"""Banks of moving templates and of tones: the spectra, directions and frequencies that they are said to have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.signal
import torch

from vars_dyn.dictionaries.drifting import DriftingGaborBank
from vars_dyn.dictionaries.tones import ToneBank


@pytest.mark.parametrize("colours", [1, 3])
def test_drifting_templates_have_mean_0_and_norm_1(colours: int) -> None:
    bank = DriftingGaborBank(5, 11, (0.0, 1.0), orientations=3, colours=colours)
    kernels = bank.kernels()
    assert kernels.shape == (bank.count, colours, 5, 11, 11)
    torch.testing.assert_close(kernels.flatten(1).norm(dim=1), torch.ones(bank.count, dtype=torch.float64))
    torch.testing.assert_close(kernels.sum((-3, -2, -1)), torch.zeros(bank.count, colours, dtype=torch.float64))


def test_templates_drift_at_their_speed_and_along_their_orientation() -> None:
    side, frames = 32, 16
    bank = DriftingGaborBank(frames, side, (0.0, 1.0), orientations=4, scales=1, phases=1, wavelength=6.0)
    wanted = [(v, k) for v in (0.0, 1.0, -1.0) for k in range(4)]
    for (speed, k), template in zip(wanted, bank.kernels()[:, 0], strict=True):
        size = (64, 64, 64)
        power = np.abs(np.fft.fftn(template.numpy(), size))
        t, y, x = (np.fft.fftfreq(64)[i] for i in np.unravel_index(power.argmax(), size))
        # cos(2 pi (r.n - v t) / w) has the frequencies (n / w, -v / w), and their opposite.
        angle = math.pi * k / 4
        along = x * math.cos(angle) + y * math.sin(angle)
        assert abs(along) == pytest.approx(1 / 6, rel=0.1)
        assert abs(-x * math.sin(angle) + y * math.cos(angle)) < 0.02
        assert -t / along == pytest.approx(speed, abs=0.12)


@pytest.mark.parametrize("envelope", ["gammatone", "gabor"])
def test_tones_have_the_frequencies_and_widths_that_they_are_said_to_have(envelope: str) -> None:
    bank = ToneBank(2048, 16000, bands=9, phases=2, envelope=envelope, low=200.0)
    kernels = bank.kernels()[:, 0].numpy()
    frequencies = bank.frequencies().numpy()
    np.testing.assert_allclose(frequencies[[0, -1]], [200, 6400])
    np.testing.assert_allclose(np.diff(21.4 * np.log10(1 + 4.37e-3 * frequencies), 2), 0, atol=1e-9)
    for number, template in enumerate(kernels):
        f = frequencies[number // 2]
        power = np.abs(np.fft.rfft(template, 2**16)) ** 2
        erb, step = 24.7 * (1 + 4.37e-3 * f), 16000 / 2**16
        assert power.argmax() * step == pytest.approx(f, abs=0.1 * erb)
        assert power.sum() * step / power.max() == pytest.approx(erb, rel=0.08)
    np.testing.assert_allclose(np.linalg.norm(kernels, axis=1), 1)
    np.testing.assert_allclose(kernels.sum(1), 0, atol=1e-9)


def test_gammatones_are_those_of_scipy() -> None:
    frequency, rate = 1000.0, 16000
    bank = ToneBank(1024, rate, bands=1, phases=1, low=frequency, high=frequency)
    b, _ = scipy.signal.gammatone(frequency, "fir", order=4, numtaps=1024, fs=rate)
    ours = bank.kernels()[0, 0].numpy()
    # SciPy's widths are 1.019 ERB as well; its template has a small mean, which is taken from ours.
    assert abs(ours @ b) / np.linalg.norm(b) > 0.9999


def test_two_channels_are_middle_and_side() -> None:
    single, double = (ToneBank(64, 8000, bands=3, channels=n).kernels() for n in (1, 2))
    assert double.shape == (12, 2, 64)
    torch.testing.assert_close(double[:6], torch.cat([single, single], 1) / 2**0.5)
    torch.testing.assert_close(double[6:], torch.cat([single, -single], 1) / 2**0.5)


def test_the_lowest_tone_fits_into_the_template() -> None:
    for size in (256, 1024):
        bank = ToneBank(size, 16000, bands=2, phases=1)
        short, long = (
            bank.kernels()[0, 0],
            ToneBank(8 * size, 16000, bands=2, phases=1, low=bank.limits[0]).kernels()[0, 0],
        )
        assert float(long[:size].square().sum()) > 0.94
        assert float(short @ long[:size]) > 0.96


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DriftingGaborBank(0, 8), "frames is 0"),
        (lambda: DriftingGaborBank(4, 8, (3.0,)), "a speed is 3 pixels per frame; from 0 to 2"),
        (lambda: DriftingGaborBank(4, 8, ()), "at least one"),
        (lambda: DriftingGaborBank(4, 8, wavelength=1.0), "wavelength is 1"),
        (lambda: DriftingGaborBank(4, 8, colours=2), "colours is 2"),
        (lambda: DriftingGaborBank(4, 1).kernels(), "vanishes"),
        (lambda: ToneBank(8, 100.0, high=60.0), "half the rate, is wanted"),
        (lambda: ToneBank(8, 16000.0), "half the rate, is wanted"),
        (lambda: ToneBank(64, 8000, envelope="box"), "envelope is 'box'"),
        (lambda: ToneBank(64, 8000, bands=0), "bands is 0"),
    ],
)
def test_banks_that_cannot_be(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
