"""Sinusoidal gratings, drifting or static."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.screen import Screen

__all__ = ["Grating"]


class Grating(Stimulus):
    """x = mean + contrast sin(2 pi (spatial_frequency s - temporal_frequency t) + phase), s across the stripes.

    Args:
        screen: the screen.
        orientation: of the stripes, in degrees, anticlockwise from the horizontal. Vertical stripes (90) drift to the
            right, horizontal ones (0) down; a negative temporal frequency turns the drift round.
        spatial_frequency: in cycles per degree, at least zero.
        temporal_frequency: in hertz; zero for a static grating, which does not move. The speed of the drift is
            temporal_frequency / spatial_frequency, in degrees per second.
        contrast: the amplitude, in the units of the signal.
        phase: in degrees of a cycle; at 0 the centre of the screen is at the mean.
        mean: the mean, in the units of the signal.
        tau_ms: the membrane time constant in milliseconds, which turns seconds into membrane time constants.
    """

    event_dims = 2

    def __init__(
        self,
        screen: Screen,
        *,
        orientation: float = 90.0,
        spatial_frequency: float = 1.0,
        temporal_frequency: float = 0.0,
        contrast: float = 1.0,
        phase: float = 0.0,
        mean: float = 0.0,
        tau_ms: float = 10.0,
    ) -> None:
        self.screen = screen
        self.orientation = float(_checks.number("orientation", orientation))
        self.spatial_frequency = float(_checks.number("spatial_frequency", spatial_frequency, nonnegative=True))
        self.temporal_frequency = float(_checks.number("temporal_frequency", temporal_frequency))
        self.contrast = float(_checks.number("contrast", contrast))
        self.phase = float(_checks.number("phase", phase))
        self.mean = float(_checks.number("mean", mean))
        self.tau_ms = float(_checks.number("tau_ms", tau_ms, positive=True))
        turns = spatial_frequency * screen.across(orientation)
        self._angle = (2 * math.pi * turns + math.radians(phase)).to(screen.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.screen.shape

    @property
    def moves(self) -> bool:
        return self.temporal_frequency != 0 and self.contrast != 0

    @property
    def speed(self) -> float:
        """The speed of the drift, in degrees per second; infinite for a uniform field that flickers."""
        if not self.spatial_frequency:
            return math.copysign(math.inf, self.temporal_frequency) if self.temporal_frequency else 0.0
        return self.temporal_frequency / self.spatial_frequency

    def _at(self, t: float) -> Tensor:
        turns = self.temporal_frequency * self.seconds(t)
        # Whole turns are taken off, so that a late time loses no digits.
        return self.mean + self.contrast * torch.sin(self._angle - 2 * math.pi * math.fmod(turns, 1.0))

    def size(self) -> Tensor:
        return torch.full_like(self._angle, abs(self.mean) + abs(self.contrast))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self._angle,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self._angle,) = tensors

    def parameters(self) -> dict[str, Any]:
        names = ("orientation", "spatial_frequency", "temporal_frequency", "contrast", "phase", "mean", "tau_ms")
        own = {name: getattr(self, name) for name in names}
        return {"stimulus": "Grating", "screen": self.screen.parameters(), **own}
