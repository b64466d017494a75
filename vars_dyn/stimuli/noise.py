"""Movies of noise, white or pink in space and in time, whose frames are drawn one by one from a seed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.frames import Frames, frame_times
from vars_dyn.stimuli.screen import Screen

__all__ = ["Noise"]

#: Pink noise in time is the mean of this many streams, each drawn anew half as often as the one before.
_OCTAVES = 8
#: Hardly any entry of normal noise exceeds this many standard deviations.
_DEVIATIONS = 4.0


class Noise(Frames):
    """A movie of normal noise. Every frame is a function of the seed and its number, so none is kept.

    Args:
        screen: the screen.
        rate: frames per second.
        frames: how many frames there are; the last one stays.
        spatial_exponent: the amplitude at the spatial frequency f is proportional to f^-exponent: 0 for white noise, 1
            for the 1/f noise of natural images. The mean over the screen of each frame is zero where it is above zero.
        pink_in_time: whether frames are pink noise in time too (Voss's sum of streams that are drawn anew every 1, 2,
            4, ... frames, so that the power falls about as one over the frequency); if not, they are independent.
        contrast: the standard deviation of a pixel, in the units of the signal.
        mean: the mean, in the units of the signal.
        seed: of all frames.
        between: "hold" or "linear".
        tau_ms: the membrane time constant in milliseconds.
    """

    event_dims = 2

    def __init__(
        self,
        screen: Screen,
        *,
        rate: float = 60.0,
        frames: int = 600,
        spatial_exponent: float = 0.0,
        pink_in_time: bool = False,
        contrast: float = 1.0,
        mean: float = 0.0,
        seed: int = 0,
        between: str = "hold",
        tau_ms: float = 10.0,
    ) -> None:
        _checks.number("rate", rate, positive=True)
        _checks.count("frames", frames)
        self.tau_ms = float(_checks.number("tau_ms", tau_ms, positive=True))
        super().__init__(frame_times(frames, rate, tau_ms), between)
        self.screen, self.seed, self.rate = screen, int(seed), float(rate)
        if self.seed < 0:
            raise ValueError(f"seed is {seed}; an integer of at least zero is wanted")
        self.contrast = float(_checks.number("contrast", contrast))
        self.mean = float(_checks.number("mean", mean))
        self.spatial_exponent = float(_checks.number("spatial_exponent", spatial_exponent, nonnegative=True))
        self.pink_in_time = pink_in_time
        self._filter = _filter(screen, self.spatial_exponent)
        self._kept = functools.lru_cache(maxsize=2)(self._drawn)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.screen.shape

    def frame(self, number: int) -> Tensor:
        return self._kept(number)

    def _drawn(self, number: int) -> Tensor:
        streams = range(_OCTAVES if self.pink_in_time else 1)
        white = sum((self._white(octave, number >> octave) for octave in streams), np.zeros(self.shape))
        white = white / np.sqrt(len(streams))
        spectrum = torch.fft.rfft2(torch.from_numpy(white)) * self._filter.cpu()
        coloured = torch.fft.irfft2(spectrum, s=self.shape).to(self._filter.device, self.screen.dtype)
        return self.mean + self.contrast * coloured

    def _white(self, octave: int, number: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.random.default_rng((self.seed, octave, number)).standard_normal(self.shape)

    def size(self) -> Tensor:
        extent = abs(self.mean) + _DEVIATIONS * abs(self.contrast)
        return torch.full(self.shape, extent, dtype=self.dtype, device=self.device)

    def tensors(self) -> tuple[Tensor, ...]:
        return (self._filter.to(self.screen.dtype),)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (given,) = tensors
        self._filter = self._filter.to(given.device)
        self.screen = Screen(*self.screen.shape, self.screen.pixels_per_degree, given.dtype)
        self._kept = functools.lru_cache(maxsize=2)(self._drawn)

    def parameters(self) -> dict[str, Any]:
        names = ("rate", "spatial_exponent", "pink_in_time", "contrast", "mean", "seed", "between", "tau_ms")
        own = {name: getattr(self, name) for name in names}
        return {
            "stimulus": "Noise",
            "screen": self.screen.parameters(),
            "frames": len(self.frame_times),
            **own,
        }


def _filter(screen: Screen, exponent: float) -> Tensor:
    """The amplitude of every frequency of rfft2, such that a filtered white frame has the variance one on average."""
    across, down = np.fft.rfftfreq(screen.width), np.fft.fftfreq(screen.height)
    frequency = np.hypot(down[:, None], across[None, :])
    if exponent == 0:
        return torch.ones(frequency.shape, dtype=torch.float64)
    amplitude = np.zeros_like(frequency)
    amplitude[frequency > 0] = frequency[frequency > 0] ** -exponent
    whole = np.hypot(down[:, None], np.fft.fftfreq(screen.width)[None, :])
    power = np.mean(np.where(whole > 0, np.where(whole > 0, whole, 1.0) ** (-2 * exponent), 0.0))
    return torch.from_numpy(amplitude / np.sqrt(power) if power > 0 else amplitude)
