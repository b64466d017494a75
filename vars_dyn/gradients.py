"""How to differentiate through a solve: one choice for every integration, equilibrium and layer.

A mode is given by its name, or as an object where its settings matter:

    "backprop"    through the integrator's steps, capped so that the gradient is accurate; memory grows with the steps
    "checkpoint"  the same gradient, steps taken again in the backward pass; memory about their square root
    "adjoint"     torchdiffeq's continuous adjoint, restarted from the stored state often enough to be right
    "implicit"    of the certified equilibrium, by a linear system on the support; no trajectory, no memory of one

"implicit" is exact, and the cheapest, wherever the equilibrium is what is wanted. Through a trajectory choose
"checkpoint" for memory and "backprop" for speed; "adjoint" holds the least and costs the most.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torchdiffeq
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vars_dyn import _checks

if TYPE_CHECKING:
    from vars_dyn.dynamics.base import Field, State
    from vars_dyn.integrate.methods import Plan
    from vars_dyn.integrate.segment import Segment

__all__ = ["MODES", "Adjoint", "Backprop", "Checkpoint", "Implicit", "Mode", "is_wanted", "mode_for", "through_time"]


@dataclass(frozen=True)
class Backprop:
    """Backpropagation through the integrator's steps.

    Accurate where steps are capped at the stability limit and the end state has settled; before that, kinks crossed at
    inexact times leave an error of about sqrt(rtol).
    """

    def segment(self, plan: Plan, horizon: float) -> float:
        """The time between restarts of an integration over `horizon` that looks at no gap."""
        return _balanced(plan, horizon)

    def solve(self, segment: Segment, field: Field, state: State) -> tuple[State, State]:
        """The states at the segment's outputs and at its end, differentiably."""
        return segment.solve(field, state)


@dataclass(frozen=True)
class Checkpoint:
    """Backpropagation's gradient, keeping only each segment's ends and taking its steps again in the backward pass."""

    def segment(self, plan: Plan, horizon: float) -> float:
        return _balanced(plan, horizon)

    def solve(self, segment: Segment, field: Field, state: State) -> tuple[State, State]:
        n = len(state)

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            states, last = segment.solve(field.with_tensors(tensors[n:]), tensors[:n])
            return (*states, *last)

        parts = checkpoint(run, *state, *field.tensors(), use_reentrant=False)
        return tuple(parts[:n]), tuple(parts[n:])


@dataclass(frozen=True)
class Adjoint:
    """torchdiffeq's continuous adjoint, with the state restored at times close enough that going backwards stays right.

    Integrating the state backwards multiplies its error by exp(stiffness * time): without the extra times the gradient
    is wrong by many orders of magnitude at an attractor, and nothing says so.

    Attributes:
        rtol: relative tolerance of the backward integration; by default a hundredth of the forward one.
        atol: absolute tolerance of the backward integration; by default a hundredth of the forward one.
        growth: the largest factor by which the state's error may grow between restorations.
    """

    rtol: float | None = None
    atol: float | None = None
    growth: float = 10.0

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            if getattr(self, name) is not None:
                _checks.number(name, getattr(self, name), positive=True)
        if not _checks.number("growth", self.growth) > 1:
            raise ValueError(f"growth is {self.growth}; a number above one is wanted")

    def segment(self, plan: Plan, horizon: float) -> float:
        return math.inf

    def solve(self, segment: Segment, field: Field, state: State) -> tuple[State, State]:
        # Fresh nodes: a gradient with respect to one tensor must not pass through another that was made from it.
        tensors = tuple(t.view_as(t) if t.requires_grad else t for t in field.tensors())
        apart = math.log(self.growth) / float(field.stiffness().max())
        count = max(1, math.ceil((segment.end - segment.start.time) / apart))
        stops = (
            segment.start.time
            + (segment.end - segment.start.time) * torch.arange(1, count, dtype=torch.float64) / count
        )
        plan = segment.plan
        odeint = functools.partial(
            torchdiffeq.odeint_adjoint,
            adjoint_params=tuple(t for t in tensors if t.requires_grad),
            adjoint_rtol=plan.rtol / 100 if self.rtol is None else self.rtol,
            adjoint_atol=plan.atol / 100 if self.atol is None else self.atol,
            adjoint_options={"max_step": plan.cap} if math.isfinite(plan.cap) else {},
        )
        return segment.solve(field.with_tensors(tensors), state, odeint, stops)


@dataclass(frozen=True)
class Implicit:
    """The implicit function theorem at the certified equilibrium, on its support (`vars_dyn.equilibrium` only)."""


Mode = Backprop | Checkpoint | Adjoint | Implicit

MODES: dict[str, type[Mode]] = {
    "backprop": Backprop,
    "checkpoint": Checkpoint,
    "adjoint": Adjoint,
    "implicit": Implicit,
}


def mode_for(gradient: str | Mode) -> Mode:
    """The mode called `gradient`, or `gradient` itself; ValueError if there is none."""
    if isinstance(gradient, Mode):
        return gradient
    return MODES[_checks.choice("gradient", gradient, tuple(MODES))]()


def through_time(gradient: str | Mode) -> Backprop | Checkpoint | Adjoint:
    """The mode called `gradient`, if it differentiates a trajectory; ValueError otherwise."""
    mode = mode_for(gradient)
    if isinstance(mode, Implicit):
        raise ValueError(
            'gradient is "implicit", which differentiates the equilibrium and not a trajectory: '
            "call vars_dyn.equilibrium, or choose backprop, checkpoint or adjoint"
        )
    return mode


def is_wanted(field: Field, state: State) -> bool:
    """Whether autograd is on and anything that the integration depends on requires a gradient."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in (*field.tensors(), *state))


def _balanced(plan: Plan, horizon: float) -> float:
    """The square root of the number of capped steps to a segment; a sixteenth of the way for a method without a cap.

    Backpropagation and checkpointing restart at the same times, so that they take the same steps and give the same
    gradient; checkpointing then holds about 2 sqrt(steps) states at once.
    """
    if horizon <= 0:
        return math.inf
    return max(math.sqrt(horizon * plan.cap), plan.cap) if math.isfinite(plan.cap) else horizon / 16
