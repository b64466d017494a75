"""Dictionaries of tones: gammatones and Gabor atoms of sounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vars_dyn import _checks

__all__ = ["ToneBank"]

_ENVELOPES = ("gammatone", "gabor")
#: The share of a gammatone's time that a template must hold, in units of 1 / (2 pi b): 95 % of its energy.
_HELD = 5.92
#: The lowest frequency by default, in hertz.
_LOWEST = 50.0


@dataclass(frozen=True)
class ToneBank:
    """Tones of many frequencies under an envelope, each of mean 0 and norm 1.

    The template of frequency f and phase p is envelope(t) cos(2 pi f t + p). The envelope of a gammatone,

        t^3 exp(-2 pi b t)  with  b = 1.019 ERB(f)  and  ERB(f) = 24.7 (1 + 4.37 f / 1000 Hz),

    is that of the filters of the cochlea (Patterson et al. 1992; Glasberg and Moore, Hear. Res. 47, 103, 1990). That of
    a Gabor atom is a Gaussian of the same equivalent rectangular bandwidth, around the middle of the template. The
    frequencies are evenly spaced on the scale of ERBs.

    Attributes:
        size: the number of samples of a template.
        rate: samples per second.
        bands: the number of frequencies.
        phases: the number of phases, pi p / phases.
        envelope: "gammatone" or "gabor".
        low, high: the lowest and the highest frequency in hertz. By default the lowest whose gammatone fits into the
            template, at least 50 Hz, and 0.4 of the rate.
        channels: the number of channels of the sound. Above 1, the bank is repeated for their mean, and for their
            differences (the cosine transform of the channels: middle and side for two).

    Raises ValueError for counts below 1, or frequencies that are not in order below half the rate.
    """

    size: int
    rate: float
    bands: int = 24
    phases: int = 2
    envelope: str = "gammatone"
    low: float | None = None
    high: float | None = None
    channels: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "bands", "phases", "channels"):
            _checks.count(name, getattr(self, name))
        _checks.number("rate", self.rate, positive=True)
        _checks.choice("envelope", self.envelope, _ENVELOPES)
        low, high = self.limits
        if not 0 < low <= high < self.rate / 2:
            raise ValueError(
                f"the frequencies are {low:g} to {high:g} Hz; from above 0 to below {self.rate / 2:g} Hz, half the "
                "rate, is wanted (a longer template holds lower ones)"
            )

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest frequency, in hertz."""
        bandwidth = _HELD * self.rate / (2 * math.pi * 1.019 * self.size)
        fits = (bandwidth / 24.7 - 1) / 4.37e-3
        high = 0.4 * self.rate if self.high is None else float(self.high)
        return (max(fits, min(_LOWEST, high)) if self.low is None else float(self.low)), high

    @property
    def count(self) -> int:
        """The number of templates."""
        return self.channels * self.bands * self.phases

    def frequencies(self) -> Float[Tensor, " bands"]:
        """The frequencies in hertz, evenly spaced on the scale of ERBs, 21.4 log10(1 + 4.37 f / 1000 Hz)."""
        low, high = (math.log1p(4.37e-3 * f) for f in self.limits)
        return torch.expm1(torch.linspace(low, high, self.bands, dtype=torch.float64)) / 4.37e-3

    def kernels(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "m c size"]:
        """The templates (templates, channels, size), for a convolutional dictionary."""
        t = torch.arange(self.size, dtype=torch.float64) / self.rate
        f = self.frequencies()[:, None, None]
        b = 1.019 * 24.7 * (1 + 4.37e-3 * f)
        if self.envelope == "gammatone":
            envelope = (t * b) ** 3 * torch.exp(-2 * math.pi * b * t)
        else:
            # The power spectrum of exp(-t^2 / (2 sigma^2)) has the equivalent width 1 / (2 sqrt(pi) sigma).
            sigma = 1.019 / (2 * math.sqrt(math.pi) * b)
            t = t - t[-1] / 2
            envelope = torch.exp(-(t**2) / (2 * sigma**2))
        phases = math.pi * torch.arange(self.phases, dtype=torch.float64)[:, None] / self.phases
        tones = envelope * torch.cos(2 * math.pi * f * t + phases)
        tones = tones - envelope * tones.sum(-1, keepdim=True) / envelope.sum(-1, keepdim=True)
        norms = tones.norm(dim=-1, keepdim=True)
        if bool((norms < 1e-6 * envelope.norm(dim=-1, keepdim=True)).any()):
            raise ValueError(f"a tone vanishes on {self.size} samples; a longer template is wanted")
        bank = (tones / norms).flatten(0, 1)
        return torch.einsum("kc,mt->kmct", self._mixtures(), bank).flatten(0, 1).to(dtype)

    def _mixtures(self) -> Tensor:
        """The orthonormal cosine transform of the channels, a mixture a row."""
        n = self.channels
        k, c = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
        rows = torch.cos(math.pi * k * (c + 0.5) / n)
        return rows / rows.norm(dim=1, keepdim=True)
