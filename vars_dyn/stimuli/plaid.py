"""Plaids: two gratings that drift across each other."""

from __future__ import annotations

from typing import Any

from vars_dyn.stimuli.grating import Grating
from vars_dyn.stimuli.screen import Screen
from vars_dyn.stimuli.sum import Sum

__all__ = ["Plaid"]


class Plaid(Sum):
    """The sum of two gratings of the same frequencies and different orientations, each of half the contrast.

    Args:
        screen: the screen.
        orientations: of the two gratings, in degrees, as for `Grating`.
        spatial_frequency, temporal_frequency, tau_ms: as for `Grating`.
        contrast: the amplitude of the plaid, in the units of the signal.
        mean: the mean, in the units of the signal.
    """

    event_dims = 2

    def __init__(
        self,
        screen: Screen,
        *,
        orientations: tuple[float, float] = (45.0, 135.0),
        spatial_frequency: float = 1.0,
        temporal_frequency: float = 0.0,
        contrast: float = 1.0,
        mean: float = 0.0,
        tau_ms: float = 10.0,
    ) -> None:
        self.orientations = tuple(float(angle) for angle in orientations)
        if len(self.orientations) != 2:
            raise ValueError(f"orientations are {self.orientations}; two angles in degrees are wanted")
        super().__init__(
            *(
                Grating(
                    screen,
                    orientation=angle,
                    spatial_frequency=spatial_frequency,
                    temporal_frequency=temporal_frequency,
                    contrast=contrast / 2,
                    mean=mean / 2,
                    tau_ms=tau_ms,
                )
                for angle in self.orientations
            )
        )
        self.screen = screen
        self._own = {
            "orientations": list(self.orientations),
            "spatial_frequency": float(spatial_frequency),
            "temporal_frequency": float(temporal_frequency),
            "contrast": float(contrast),
            "mean": float(mean),
            "tau_ms": float(tau_ms),
        }

    def parameters(self) -> dict[str, Any]:
        return {"stimulus": "Plaid", "screen": self.screen.parameters(), **self._own}
