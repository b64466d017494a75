"""The stochastic scheme of Heun.

Rumelin, SIAM J. Numer. Anal. 19 (1982); Kloeden and Platen, "Numerical Solution of Stochastic Differential Equations"
(1992), sections 11.1 and 15.1: strong order 1 for diagonal noise, and weak order 2 for additive noise. The scheme is
one for Stratonovich's sense, so the drift is corrected for Ito's, which is meant here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.steppers.stochastic import Noisy, Scheme, noisy_sum

__all__ = ["STOCHASTIC_HEUN", "StochasticHeun"]


@dataclass(frozen=True)
class StochasticHeun(Scheme):
    """y + h/2 (f(y) + f(y*)) + 1/2 (b(y) + b(y*)) dW, with y* the step of Euler and Maruyama; f less b b'/2."""

    def step(self, func: Noisy, y: State, t: float, h: float, noise: Sequence[Tensor | None]) -> State:
        first, strength = _drift(func, t, y), func.strengths(y)
        ahead = noisy_sum(y, first, h, strength, noise)
        second, following = _drift(func, t + h, ahead), func.strengths(ahead)
        slope = tuple(0.5 * (a + b) for a, b in zip(first, second, strict=True))
        return noisy_sum(y, slope, h, tuple(0.5 * (a + b) for a, b in zip(strength, following, strict=True)), noise)


def _drift(func: Noisy, t: float, y: State) -> State:
    slope = func(t, y)
    return tuple(f - c for f, c in zip(slope, func.correction(y), strict=True))


STOCHASTIC_HEUN = StochasticHeun("stochastic_heun", 2.0)
