"""The methods, how far each may step, and the options that one segment gives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.scale import Tolerance
from vars_dyn.problems import SparseProblem

__all__ = [
    "ADAPTIVE_METHODS",
    "COARSE_METHODS",
    "FIXED_METHODS",
    "METHODS",
    "MILD_CURVATURE",
    "STABILISED_METHODS",
    "UNSAFE_METHODS",
    "Plan",
    "method_options",
]

#: The largest h rho at which a method damps y' = -rho y, as it is implemented (found by running it; see tests).
ADAPTIVE_METHODS = {"dopri5": 3.3066, "dopri8": 5.1666, "bosh3": 2.5127, "fehlberg2": 2.0, "adaptive_heun": 1.0}
FIXED_METHODS = {
    "euler": 2.0,
    "midpoint": 2.0,
    "heun2": 2.0,
    "heun3": 2.5127,
    "rk4": 2.7852,
    "explicit_adams": 0.0035,
    "implicit_adams": 0.075,
}
#: Methods whose error estimate lets growth pass, so that their steps are always capped, at this share of the limit.
UNSAFE_METHODS = {"fehlberg2": 0.25}
#: Methods of torchdiffeq's that interpolate to a lower order than they step: they end a step on every output.
COARSE_METHODS = ("dopri8", "bosh3", "fehlberg2", "adaptive_heun")
#: Methods that take as many stages as the stiffness asks for ("auto" where that is cheaper than "dopri5").
STABILISED_METHODS = ("rkc", "auto")
#: A V whose second derivatives exceed this lets an error of the size that rtol allows raise it by more than about
#: 10 rtol^2 of its value: beyond, errors are weighed by the square root of the excess, as V weighs them.
MILD_CURVATURE = 20.0
METHODS = (*ADAPTIVE_METHODS, *FIXED_METHODS, *STABILISED_METHODS)


class Plan(NamedTuple):
    """How to integrate: what stays the same from segment to segment."""

    method: str
    rtol: float
    atol: float
    #: `atol` for every part of the state, and signal where their sizes differ
    tolerance: Tolerance
    cap: float
    stiffness: float
    #: what the norm of an error is multiplied by
    emphasis: float
    step: float | None
    gap: float | None
    problem: SparseProblem | None
    max_steps: int
    #: whether a stable equilibrium of every signal is proved
    stable: bool


def method_options(
    plan: Plan, times: Tensor, end: float, first_step: float | None, norm: Callable[[State], Tensor]
) -> dict[str, object]:
    """The options for a segment with states wanted at `times`, named as torchdiffeq's: it steps onto `end`, or onto
    every time of a grid. To "rkc" `stiffness` tells the Jacobian's size.
    """
    if plan.method in FIXED_METHODS:
        grid = _grid(times, plan.step)
        return {"grid_constructor": lambda func, y0, t: grid.to(t)}
    options: dict[str, object] = {"norm": norm, "step_t": torch.tensor([end], dtype=torch.float64)}
    options["dtype"] = torch.float64
    if math.isfinite(plan.cap):
        options["max_step"] = plan.cap
    if first_step is not None:
        options["first_step"] = first_step
    if plan.method in STABILISED_METHODS:
        options["stiffness"] = plan.stiffness
    return options


def _grid(times: Tensor, step: float | None) -> Tensor:
    """Every interval of `times` cut evenly into steps of at most `step`."""
    if step is None:
        return times
    pieces = [times[:1]]
    for low, high in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        count = max(1, math.ceil((high - low) / step * (1 - 1e-12)))
        piece = low + (high - low) * torch.arange(1, count + 1, dtype=torch.float64) / count
        piece[-1] = high
        pieces.append(piece)
    return torch.cat(pieces)
