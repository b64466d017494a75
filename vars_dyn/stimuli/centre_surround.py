"""A stimulus in the centre of the screen, and another one around it."""

from __future__ import annotations

import math
from typing import Any

from vars_dyn import _checks
from vars_dyn.stimuli.base import Stimulus
from vars_dyn.stimuli.masked import Masked
from vars_dyn.stimuli.screen import Screen
from vars_dyn.stimuli.sum import Sum

__all__ = ["CentreSurround"]


class CentreSurround(Sum):
    """One stimulus within a disc, another one in the ring around it, and zero elsewhere.

    Args:
        screen: the screen of both.
        centre, surround: the stimuli, for example two gratings of different orientations.
        radius: of the disc, in degrees.
        outer: the outer radius of the ring, in degrees; infinite for the rest of the screen.
        gap: the width of the empty ring between both, in degrees.
        position: of the common centre, in degrees to the right and up.
    """

    event_dims = 2

    def __init__(
        self,
        screen: Screen,
        centre: Stimulus,
        surround: Stimulus,
        *,
        radius: float = 0.5,
        outer: float = math.inf,
        gap: float = 0.0,
        position: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        _checks.number("gap", gap, nonnegative=True)
        inner = float(_checks.number("radius", radius, positive=True)) + gap
        if outer <= inner:
            raise ValueError(f"outer is {outer}; a radius above radius + gap, {inner:g}, is wanted")
        ring = screen.annulus(inner, outer, position)
        super().__init__(Masked(centre, screen.disc(radius, position)), Masked(surround, ring))
        self._own = {
            "centre": centre.parameters(),
            "surround": surround.parameters(),
            "radius": float(radius),
            "outer": None if math.isinf(outer) else float(outer),
            "gap": float(gap),
            "position": [float(v) for v in position],
        }
        self.screen = screen

    def parameters(self) -> dict[str, Any]:
        return {"stimulus": "CentreSurround", "screen": self.screen.parameters(), **self._own}
