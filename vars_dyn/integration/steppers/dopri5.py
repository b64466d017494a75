"""The Dormand-Prince pair of orders five and four, with little overhead per step, because the states are small.

Dormand and Prince, "A family of embedded Runge-Kutta formulae", J. Comput. Appl. Math. 6 (1980). Between steps it
evaluates Shampine's quartic, "Some practical Runge-Kutta formulas", Math. Comp. 46 (1986).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.scale import Tolerance
from vars_dyn.integration.steppers.base import Control, Marched, Stepper, Taken, combined, for_parts, rows_of, tolerated
from vars_dyn.integration.steppers.method import Function, Piece, Settings, Time, Watched

__all__ = ["DOPRI5", "Dopri5", "dopri5_for", "retake_dopri5"]

_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
#: The shares of the step at which the stages lie.
_SHARES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
#: Weights of the step itself. The seventh slope, at its end, is the first one of the next step.
_STEP = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
#: Two thirds of the difference to the embedded step of order four, as Shampine and torchdiffeq weigh it.
_ERROR = tuple(2 / 3 * e for e in (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40))
#: Weights of the state in the middle of the step, to order five.
_MIDDLE = (
    6025192743 / 60171106304,
    0.0,
    51252292925 / 130801643196,
    -2691868925 / 90256659456,
    187940372067 / 3189068634112,
    -1776094331 / 39487288512,
    11237099 / 470086768,
)


class Dopri5(Stepper):
    """The pair as a stepper for `march`."""

    control = Control(aim=0.4, proportional=0.08, integral=0.04, order=5)

    def first(self, func: Watched, y: State, f: State, t0: Time) -> float:
        return _first_step(func, y, f, t0, self.rtol, self.atol, self.norm)

    def take(self, func: Function, y: State, f: State, t0: Time, h: float) -> Taken:
        following, slopes = _step(func, y, f, t0, h)
        with torch.no_grad():
            nothing = tuple(torch.zeros_like(part) for part in y)
            error = tolerated(combined(nothing, slopes, _ERROR, h), y, following, self.rtol, self.atol)
        return Taken(following, slopes[-1], error, functools.partial(_between, y, slopes, h))


def retake_dopri5(func: Function, y0: State, t: Tensor, ends: Sequence[float]) -> State:
    """The states at the times `t`, from y0 at t[0], by the steps that end at `ends`; the same to the last bit."""
    times = t.tolist()
    rows: list[State] = [y0]
    time, y, f = times[0], y0, func(times[0], y0)
    for new in ends:
        following, slopes = _step(func, y, f, time, new - time)
        taken = Taken(following, slopes[-1], (), functools.partial(_between, y, slopes, new - time))
        rows.extend(rows_of(taken, time, new, times, len(rows)))
        time, y, f = new, following, slopes[-1]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def dopri5_for(settings: Settings) -> Dopri5:
    """The pair's stepper for a segment."""
    return Dopri5(settings.rtol, settings.atol, settings.norm, settings.longest)


@dataclass(frozen=True)
class _Pair(Marched):
    """The pair as a method: steps are taken again without their error estimates, which costs less."""

    def retake(self, func: Function, y0: State, t: Tensor, settings: Settings, piece: Piece) -> State:
        return retake_dopri5(func, y0, t, piece.ends)


DOPRI5 = _Pair("dopri5", 3.3066, in_torchdiffeq=True, build=dopri5_for)


def _step(func: Function, y: State, f: State, t0: Time, h: float) -> tuple[State, list[State]]:
    """The state after a step of h from y at t0, where the derivative is f, and the seven slopes."""
    slopes = [f]
    for share, weights in zip(_SHARES, _STAGES, strict=True):
        slopes.append(func(t0 + share * h, combined(y, slopes, weights, h)))
    following = combined(y, slopes, _STEP, h)
    slopes.append(func(t0 + h, following))
    return following, slopes


def _between(y: State, slopes: list[State], h: float, share: float) -> State:
    """The state at `share` of the step."""
    return combined(y, slopes, _weights(share), h)


def _weights(q: float) -> tuple[float, ...]:
    """The slopes' weights for the quartic through the states at the ends and the middle, and the slopes at the ends."""
    middle, step = 16 * q**2 * (1 - q) ** 2, q**2 * (14 * q - 8 * q**2 - 5)
    weights = [middle * m + step * b for m, b in zip(_MIDDLE, (*_STEP, 0.0), strict=True)]
    weights[0] += q * (1 - 4 * q + 5 * q**2 - 2 * q**3)
    weights[-1] += q**2 * (1 - 3 * q + 2 * q**2)
    return tuple(weights)


def _first_step(
    func: Watched, y: State, f: State, t0: Time, rtol: float, atol: float | Tolerance, norm: Callable[[State], Tensor]
) -> float:
    """A quarter of the step within which the state and its derivative change by little, as the tolerances measure it.

    Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I" (1993), II.4. Only a quarter is taken
    because the derivatives here do not show the kinks ahead, and an early error is carried along the whole way.
    """
    with torch.no_grad():
        scale = tuple(part.abs().mul_(rtol).add_(least) for part, least in zip(y, for_parts(atol, y), strict=True))

        def size(value: State) -> float:
            return float(norm(tuple(part / s for part, s in zip(value, scale, strict=True))))

        state_size, slope_size = size(y), size(f)
        if not math.isfinite(slope_size):
            return math.nan
        h = 0.01 * state_size / slope_size if min(state_size, slope_size) >= 1e-5 else 1e-6
        ahead = func(t0 + h, combined(y, [f], (1.0,), h))
        change = size(tuple(b - a for a, b in zip(f, ahead, strict=True))) / h
        steepest = max(slope_size, change)
        bound = (0.01 / steepest) ** (1 / 5) if steepest > 1e-15 else max(1e-6, 1e-3 * h)
    return min(100 * h, bound) / 4
