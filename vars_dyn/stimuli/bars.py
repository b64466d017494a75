"""Bars: one that sweeps over the screen, or many at even distances."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.screen import Screen

__all__ = ["Bars"]


class Bars(Stimulus):
    """x = mean + contrast where a bar is, mean elsewhere. The edges are smooth, one pixel wide.

    Args:
        screen: the screen.
        orientation: of the bars, in degrees, as for `Grating`.
        width: of a bar, in degrees.
        speed: of the bars at a right angle to themselves, in degrees per second; zero for bars that stand still.
        position: of the centre of the bar at time zero, in degrees from the centre of the screen, in the direction of
            the motion.
        spacing: from one bar's centre to the next one's, in degrees, above `width`; None for a single bar.
        contrast: in the units of the signal; below zero for dark bars.
        mean: the background, in the units of the signal.
        tau_ms: the membrane time constant in milliseconds.
    """

    event_dims = 2

    def __init__(
        self,
        screen: Screen,
        *,
        orientation: float = 90.0,
        width: float = 0.5,
        speed: float = 0.0,
        position: float = 0.0,
        spacing: float | None = None,
        contrast: float = 1.0,
        mean: float = 0.0,
        tau_ms: float = 10.0,
    ) -> None:
        self.screen = screen
        self.orientation = float(_checks.number("orientation", orientation))
        self.width = float(_checks.number("width", width, positive=True))
        self.speed = float(_checks.number("speed", speed))
        self.position = float(_checks.number("position", position))
        self.spacing = None if spacing is None else float(_checks.number("spacing", spacing, positive=True))
        if self.spacing is not None and self.spacing <= self.width:
            raise ValueError(f"spacing is {spacing} and width {width}; a spacing above the width is wanted")
        self.contrast = float(_checks.number("contrast", contrast))
        self.mean = float(_checks.number("mean", mean))
        self.tau_ms = float(_checks.number("tau_ms", tau_ms, positive=True))
        self._place = screen.across(orientation).to(screen.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.screen.shape

    @property
    def moves(self) -> bool:
        return self.speed != 0 and self.contrast != 0

    def _at(self, t: float) -> Tensor:
        shift = self.position + self.speed * self.seconds(t)
        from_centre = self._place - shift
        if self.spacing is not None:
            # With the neighbours on both sides the sum is smooth where one bar takes over from the next.
            from_centre = torch.remainder(from_centre + self.spacing / 2, self.spacing) - self.spacing / 2
            profile = sum((self._profile(from_centre + k * self.spacing) for k in (-1, 1)), self._profile(from_centre))
        else:
            profile = self._profile(from_centre)
        return self.mean + self.contrast * profile

    def _profile(self, distance: Tensor) -> Tensor:
        """One within the bar and zero outside, with edges that are smooth in space, and so in time."""
        edge = 0.5 / self.screen.pixels_per_degree
        half = self.width / 2
        return 0.5 * (torch.erf((distance + half) / edge) - torch.erf((distance - half) / edge))

    def size(self) -> Tensor:
        return torch.full_like(self._place, max(abs(self.mean), abs(self.mean + self.contrast)))

    def tensors(self) -> tuple[Tensor, ...]:
        return (self._place,)

    def _assign(self, tensors: tuple[Tensor, ...]) -> None:
        (self._place,) = tensors

    def parameters(self) -> dict[str, Any]:
        names = ("orientation", "width", "speed", "position", "spacing", "contrast", "mean", "tau_ms")
        own = {name: getattr(self, name) for name in names}
        return {"stimulus": "Bars", "screen": self.screen.parameters(), **own}
