"""What this package's own integrators share: the loop over steps of controlled error.

To add a one-step method with an error estimate, write a subclass of `Stepper` and a `Marched` value that builds it:

    class Heun(Stepper):
        control = Control(aim=0.5, proportional=0.35, integral=0.2, order=2)
        def first(self, func, y, f, t0): ...    # the first step to try
        def take(self, func, y, f, t0, h): ...  # a step: its end, the slope there, the error, the states inside

    HEUN = Marched("heun", limit=2.0, build=lambda s: Heun(s.rtol, s.atol, s.norm, s.longest))

Add the value to `vars_dyn.integration.steppers.REGISTRY`; every part of the package then knows the method.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.scale import Tolerance
from vars_dyn.integration.steppers.method import Function, Method, Piece, Settings, Time, Watched

__all__ = [
    "Control",
    "Follow",
    "Marched",
    "Stepper",
    "Taken",
    "combined",
    "cubic",
    "for_parts",
    "landing",
    "march",
    "rows_of",
    "tolerated",
]


class Taken(NamedTuple):
    """A step that was taken: the state at its end, the derivative there, the estimated error relative to what is
    tolerated, and a function that gives the state at a share of the step.
    """

    following: State
    slope: State
    error: State
    between: Callable[[float], State]


class Control(NamedTuple):
    """How long the next step is: h (aim / error)^proportional (last error / aim)^integral, within limits.

    A proportional-integral control (Gustafsson, ACM TOMS 17, 1991). The factor is rounded to sixty-fourths, because
    the last digits of an error depend on the size of the batch, and steps must not.

    Attributes:
        aim: the error that steps are to have, as a share of what is tolerated.
        proportional, integral: the exponents above. Usual values are 0.4 to 0.7 over `order` for `proportional`, and
            about half of that for `integral`.
        order: the power of the step length that the estimated error is proportional to. It is 2 where Euler's step is
            compared with Heun's, and 5 for orders 5(4). It says how much shorter the step is after a rejection.
    """

    aim: float
    proportional: float
    integral: float
    order: int

    def shorter(self, error: float) -> float:
        """The factor after a step whose error was above one, or NaN."""
        return _rounded(max(0.8 * error ** (-1 / self.order), 0.1)) if math.isfinite(error) else 0.1

    def longer(self, error: float, before: float | None) -> float:
        """The factor after a step that was taken; `before` is the last one's error."""
        # Without these bounds a very small last error would hold back a step that should grow.
        error, last = max(error, 1e-8), max(error if before is None else before, 1e-4)
        factor = (self.aim / error) ** self.proportional * (last / self.aim) ** self.integral
        return _rounded(min(max(factor, 0.1), 10.0))


def _rounded(factor: float) -> float:
    return round(64 * factor) / 64


class Stepper(ABC):
    """A one-step method: how it steps, and how long its steps are to be.

    Args:
        rtol: relative tolerance of a step's error.
        atol: absolute tolerance: a number, or for every part of the state a number or a tensor that broadcasts
            against the part.
        norm: the size of an error relative to what is tolerated.
        longest: the longest step allowed; `Settings.longest` for all but stabilised methods.
    """

    control: Control

    def __init__(
        self, rtol: float, atol: float | Tolerance, norm: Callable[[State], Tensor], longest: float = math.inf
    ) -> None:
        self.rtol, self.atol, self.norm, self.longest = rtol, atol, norm, longest

    @abstractmethod
    def first(self, func: Watched, y: State, f: State, t0: Time) -> float:
        """The first step to try from y at t0, where the derivative is f."""

    @abstractmethod
    def take(self, func: Function, y: State, f: State, t0: Time, h: float) -> Taken:
        """The step of h from y at t0, where the derivative is f. Leave y and f as they are.

        Fields may change with time, so every stage hands `func` its own time, and the slope is that at t0 + h.
        """


#: Takes the method, the length of the step taken and the length proposed next; returns the method and the length to
#: go on with.
Follow = Callable[[Stepper, float, float], tuple[Stepper, float]]


def march(
    func: Watched,
    y0: State,
    t: Tensor,
    stepper: Stepper,
    *,
    end: float,
    first_step: float | None = None,
    follow: Follow | None = None,
) -> State:
    """The states at the times `t`, from y0 at t[0]; the last step ends on `end`.

    Differentiable, with the step lengths as constants. `follow` may change the method after a step.
    """
    times = t.tolist()
    rows: list[State] = [y0]
    time, y, f = times[0], y0, func(times[0], y0)
    h = stepper.first(func, y, f, time) if first_step is None else first_step
    before: float | None = None  # the last accepted step's error
    rejected = False
    while len(rows) < len(times):
        h = min(h, stepper.longest)
        func.callback_step(time, y, h)
        new = landing(time, h, end)
        step = new - time
        taken = stepper.take(func, y, f, time, step)
        error = float(stepper.norm(taken.error))
        if not error <= 1:  # also where it is NaN
            func.callback_reject_step(time, y, step)
            # The rounding of time may have made `step` longer than h.
            h = min(h, step) * stepper.control.shorter(error)
            rejected = True
            continue
        rows.extend(rows_of(taken, time, new, times, len(rows)))
        factor = stepper.control.longer(error, before)
        h = step * (min(factor, 1.0) if rejected else factor)
        before, rejected = error, False
        if follow is not None:
            last, (stepper, h) = stepper, follow(stepper, step, h)
            before = before if stepper is last else None
        time, y, f = new, taken.following, taken.slope
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


@dataclass(frozen=True)
class Marched(Method):
    """A method that `march` runs, with the stepper that `build` makes for a segment's settings."""

    build: Callable[[Settings], Stepper] = field(kw_only=True)

    def odeint(self, func: Watched, y0: State, t: Tensor, settings: Settings) -> State:
        return march(func, y0, t, self.build(settings), end=settings.end, first_step=settings.first_step)

    def retake(self, func: Function, y0: State, t: Tensor, settings: Settings, piece: Piece) -> State:
        stepper, times = self.build(settings), t.tolist()
        rows: list[State] = [y0]
        time, y, f = times[0], y0, func(times[0], y0)
        for new in piece.ends:
            taken = stepper.take(func, y, f, time, new - time)
            rows.extend(rows_of(taken, time, new, times, len(rows)))
            time, y, f = new, taken.following, taken.slope
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def rows_of(taken: Taken, time: float, new: float, times: list[float], first: int) -> list[State]:
    """The states at those of `times`, from index `first` on, that are not after the step's end `new`."""
    inside = times[first : bisect.bisect_right(times, new, lo=first)]
    return [taken.following if at == new else taken.between((at - time) / (new - time)) for at in inside]


def landing(time: float, h: float, end: float) -> float:
    """Where a step of h from `time` ends: on `end` if it would come within rounding of it or go beyond.

    Raises AssertionError, as torchdiffeq does, where the step is below the rounding of time, or is NaN.
    """
    new = time + h
    if new >= (end * (1 - 1e-14) if end > 0 else end):
        new = end
    if not new > time:
        raise AssertionError("underflow in dt")
    return new


def combined(y: State, slopes: list[State], weights: tuple[float, ...], h: float) -> State:
    """y + h sum_j weights[j] slopes[j], in new tensors; differentiable, and autograd saves nothing for it."""
    parts = []
    for i, part in enumerate(y):
        total = part.clone()
        for slope, weight in zip(slopes, weights, strict=False):
            if weight:
                total = total.add_(slope[i], alpha=h * weight)
        parts.append(total)
    return tuple(parts)


def cubic(y: State, new: State, f: State, slope: State, h: float, share: float) -> State:
    """The state at `share` of a step: the cubic through both ends' states and derivatives, of third order."""
    q = share
    h00, h01 = (1 + 2 * q) * (1 - q) ** 2, q**2 * (3 - 2 * q)
    h10, h11 = h * q * (1 - q) ** 2, h * q**2 * (q - 1)
    return tuple(h00 * a + h01 * b + h10 * c + h11 * d for a, b, c, d in zip(y, new, f, slope, strict=True))


def for_parts(atol: float | Tolerance, state: State) -> Tolerance:
    """The absolute tolerance of every part of the state: a number stands for all parts."""
    return atol if isinstance(atol, tuple) else (atol,) * len(state)


def tolerated(estimate: State, y: State, new: State, rtol: float, atol: float | Tolerance) -> State:
    """A step's estimated error relative to what is tolerated; overwrites `estimate`."""
    ratio = zip(estimate, y, new, for_parts(atol, y), strict=True)
    return tuple(e.div_(torch.maximum(a.abs(), b.abs()).mul_(rtol).add_(least)) for e, a, b, least in ratio)
