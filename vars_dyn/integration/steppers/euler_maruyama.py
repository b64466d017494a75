"""The scheme of Euler and Maruyama.

Maruyama, Rend. Circ. Mat. Palermo 4 (1955); Kloeden and Platen, "Numerical Solution of Stochastic Differential
Equations" (1992), section 10.2: weak order 1, strong order 1/2, and strong order 1 for additive noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.steppers.stochastic import Noisy, Scheme, noisy_sum

__all__ = ["EULER_MARUYAMA", "EulerMaruyama"]


@dataclass(frozen=True)
class EulerMaruyama(Scheme):
    """y + h f + b dW."""

    def step(self, func: Noisy, y: State, t: float, h: float, noise: Sequence[Tensor | None]) -> State:
        slope = func(t, y)
        return noisy_sum(y, slope, h, func.strengths(y), noise)


EULER_MARUYAMA = EulerMaruyama("euler_maruyama", 2.0)
