"""The stabilised explicit method: second-order Runge-Kutta-Chebyshev with error control.

Sommeijer, Shampine and Verwer, "RKC: an explicit solver for parabolic PDEs", J. Comput. Appl. Math. 88 (1998). With s
stages a step is stable along the negative real axis, where these fields' spectra lie, up to about 0.65 s^2, so a step
that a classical method would have to cut into s^2 / 5 pieces costs s evaluations. Choose it where the way to the
equilibrium is long; on a short way at a tight tolerance a method of higher order takes fewer evaluations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.scale import Tolerance
from vars_dyn.integration.steppers.base import Control, Marched, Stepper, Taken, cubic, for_parts, tolerated
from vars_dyn.integration.steppers.method import Function, Replay, Settings, Time, Watched

__all__ = ["MAX_STAGES", "REACH", "RKC", "Rkc", "rkc_for", "stability_interval", "stages_for"]

_DAMPING = 2 / 13
#: The most stages in one step, because rounding errors grow with the square of their number.
MAX_STAGES = 250


class _Coefficients(NamedTuple):
    """The s stages: Y_j = (1 - mu - nu) Y_0 + mu Y_(j-1) + nu Y_(j-2) + h mu~ F_(j-1) + h gamma~ F_0."""

    first: float
    rows: tuple[tuple[float, float, float, float], ...]
    #: the shares of the step at which Y_1, ..., Y_(s-1) lie, where the stages evaluate f
    shares: tuple[float, ...]


@functools.cache
def _chebyshev(s: int) -> tuple[list[float], list[float], list[float], float]:
    """T_j, T'_j and T''_j at w0 = 1 + damping / s^2, for j up to s, and w0."""
    w0 = 1 + _DAMPING / s**2
    t, d, dd = [1.0, w0], [0.0, 1.0], [0.0, 0.0]
    for _ in range(2, s + 1):
        dd.append(4 * d[-1] + 2 * w0 * dd[-1] - dd[-2])
        d.append(2 * t[-1] + 2 * w0 * d[-1] - d[-2])
        t.append(2 * w0 * t[-1] - t[-2])
    return t, d, dd, w0


@functools.cache
def _coefficients(s: int) -> _Coefficients:
    t, d, dd, w0 = _chebyshev(s)
    w1 = d[s] / dd[s]
    b = [0.0, 0.0] + [dd[j] / d[j] ** 2 for j in range(2, s + 1)]
    b[0] = b[1] = b[2]
    rows = []
    for j in range(2, s + 1):
        mu_tilde = 2 * b[j] * w1 / b[j - 1]
        gamma_tilde = -(1 - b[j - 1] * t[j - 1]) * mu_tilde
        rows.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], mu_tilde, gamma_tilde))
    shares = [0.0, b[1] * w1]  # a stage of the equation y' = 1
    for mu, nu, mu_tilde, gamma_tilde in rows:
        shares.append(mu * shares[-1] + nu * shares[-2] + mu_tilde + gamma_tilde)
    return _Coefficients(b[1] * w1, tuple(rows), tuple(shares[1:-1]))


@functools.cache
def stability_interval(s: int) -> float:
    """The largest h rho at which s >= 2 stages are stable."""
    _, d, dd, w0 = _chebyshev(s)
    return (w0 + 1) * dd[s] / d[s]


#: The largest h rho of a step, with `MAX_STAGES` stages.
REACH = 0.98 * stability_interval(MAX_STAGES)


def stages_for(h_rho: float) -> int:
    """The fewest stages, at least 2, that are stable at h rho."""
    s = max(2, 1 + math.floor(math.sqrt(1 + 1.5 * max(h_rho, 0.0))))
    while s > 2 and stability_interval(s - 1) >= h_rho:
        s -= 1
    while stability_interval(s) < h_rho:
        s += 1
    return s


class Rkc(Stepper):
    """The method as a stepper for `march`: it takes as many stages as a step needs.

    `rho` bounds the Jacobian's eigenvalues. Between steps the cubic through both ends' states and derivatives is
    evaluated, which has the method's own order.
    """

    control = Control(aim=0.5, proportional=0.2, integral=0.1, order=3)

    def __init__(self, rtol: float, atol: float | Tolerance, norm: Callable[[State], Tensor], rho: float) -> None:
        super().__init__(rtol, atol, norm, REACH / rho)
        self.rho = rho

    def first(self, func: Watched, y: State, f: State, t0: Time) -> float:
        return _first_step(func, y, f, t0, self.rtol, self.atol, self.rho, self.norm)

    def take(self, func: Function, y: State, f: State, t0: Time, h: float) -> Taken:
        following = _step(func, y, f, t0, h, stages_for(h * self.rho))
        slope = func(t0 + h, following)
        error = self.error(y, following, f, slope, h)
        return Taken(following, slope, error, functools.partial(cubic, y, following, f, slope, h))

    @torch.no_grad()
    def error(self, y: State, new: State, f: State, slope: State, h: float) -> State:
        """The estimate 0.8 (y_n - y_n+1) + 0.4 h (f_n + f_n+1), relative to what is tolerated."""
        estimate = []
        for a, b, c, d in zip(y, new, f, slope, strict=True):
            estimate.append(torch.sub(a, b).mul_(0.8).add_(c, alpha=0.4 * h).add_(d, alpha=0.4 * h))
        return tolerated(tuple(estimate), y, new, self.rtol, self.atol)


def rkc_for(settings: Settings) -> Rkc:
    """The method's stepper for a segment."""
    return Rkc(settings.rtol, settings.atol, settings.norm, settings.stiffness)


RKC = Marched("rkc", math.inf, stabilised=True, replay=Replay.RESTARTS, reach=REACH, build=rkc_for)


def _first_step(
    func: Watched,
    y: State,
    f: State,
    t0: Time,
    rtol: float,
    atol: float | Tolerance,
    rho: float,
    norm: Callable[[State], Tensor],
) -> float:
    """One over the spectral radius, or less if the derivative changes much within it."""
    h = 1 / rho
    ahead = func(t0 + h, tuple(a + h * b for a, b in zip(y, f, strict=True)))
    changes = zip(y, ahead, f, for_parts(atol, y), strict=True)
    scaled = tuple((b - c) / (least + rtol * a.abs()) for a, b, c, least in changes)
    change = h * float(norm(scaled))
    return 0.1 * h / math.sqrt(change) if 0.1 < math.sqrt(change) < math.inf else h


def _step(func: Function, y: State, f: State, t0: Time, h: float, stages: int) -> State:
    """One step of `stages` stages from y at t0, where the derivative is f."""
    if not torch.is_grad_enabled():
        return _step_in_place(func, y, f, t0, h, stages)
    first, rows, shares = _coefficients(stages)
    older, newer = y, tuple(torch.add(a, b, alpha=first * h) for a, b in zip(y, f, strict=True))
    for (mu, nu, mu_tilde, gamma_tilde), share in zip(rows, shares, strict=True):
        slope = func(t0 + share * h, newer)
        parts = []
        for a, b, c, d, e in zip(y, newer, older, slope, f, strict=True):
            part = torch.mul(a, 1 - mu - nu)
            part = part.add(b, alpha=mu).add(c, alpha=nu).add(d, alpha=mu_tilde * h).add(e, alpha=gamma_tilde * h)
            parts.append(part)
        older, newer = newer, tuple(parts)
    return newer


def _step_in_place(func: Function, y: State, f: State, t0: Time, h: float, stages: int) -> State:
    """`_step` where no gradient is wanted: every stage reuses the same three tensors, and the result has the same bits.

    `func` must not keep the state that it is called with, because a later stage overwrites it.
    """
    first, rows, shares = _coefficients(stages)
    older, newer = y, tuple(torch.add(a, b, alpha=first * h) for a, b in zip(y, f, strict=True))
    spare, other = (tuple(torch.empty_like(part) for part in y) for _ in range(2))
    for (mu, nu, mu_tilde, gamma_tilde), share in zip(rows, shares, strict=True):
        slope = func(t0 + share * h, newer)
        for out, a, b, c, d, e in zip(spare, y, newer, older, slope, f, strict=True):
            torch.mul(a, 1 - mu - nu, out=out)
            out.add_(b, alpha=mu).add_(c, alpha=nu).add_(d, alpha=mu_tilde * h).add_(e, alpha=gamma_tilde * h)
        older, newer, spare = newer, spare, other if older is y else older
    return newer
