"""The modes of differentiation; each says how it solves one segment of an integration."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vars_dyn import _checks
from vars_dyn.dynamics.base import Field, State
from vars_dyn.integration.gradients.continuous import Size, as_given, odeint_guarded, to_unit
from vars_dyn.integration.gradients.replay import odeint_replayed
from vars_dyn.integration.plan import Plan
from vars_dyn.integration.segment import Segment
from vars_dyn.integration.steppers.dopri5 import DOPRI5
from vars_dyn.integration.steppers.method import Method, Replay
from vars_dyn.integration.steppers.odeint import odeint_onto

__all__ = ["MODES", "Adjoint", "Backprop", "Checkpoint", "Implicit", "Mode", "is_wanted", "mode_for", "through_time"]


@dataclass(frozen=True)
class Backprop:
    """Backpropagation through the integrator's steps.

    It is accurate where steps are capped at the stability limit and the end state has settled. Before that, kinks that
    are crossed at inexact times leave an error of about sqrt(rtol).
    """

    def between_restarts(self, plan: Plan, horizon: float) -> float:
        """The time between restarts of an integration over `horizon` that looks at no gap."""
        return _between_restarts(plan, horizon)

    def solve(self, segment: Segment, field: Field, state: State) -> tuple[State, State]:
        """The states at the segment's outputs and at its end, differentiable."""
        return segment.solve(field, state)


@dataclass(frozen=True)
class Checkpoint:
    """Backpropagation's gradient to rounding: the state is kept every few steps, and the steps between are repeated.

    It keeps at most 4 sqrt(steps) states and about sqrt(steps) steps of the graph. The steps of "rkc", "auto",
    "fehlberg2" and "adaptive_heun" depend on the one before. So these methods are restarted sixteen times on the way
    (under backpropagation too), and the steps between two restarts are repeated together. The steps of an Adams method
    are all repeated at once, which saves nothing.
    """

    def between_restarts(self, plan: Plan, horizon: float) -> float:
        return _between_restarts(plan, horizon)

    def solve(self, segment: Segment, field: Field, state: State) -> tuple[State, State]:
        method = segment.plan.method
        if method.replay is not Replay.STEPS:
            return _recomputed(segment, field, state)
        # Each tensor becomes a node of its own, so that a gradient with respect to one does not pass through another
        # that was made from it.
        tensors = tuple(t.view_as(t) if t.requires_grad else t for t in field.tensors())
        own = tuple(t for t in tensors if t.requires_grad)
        solver = functools.partial(odeint_replayed, method=method, parameters=own)
        return segment.solve(field.with_tensors(tensors), state, solver)


@dataclass(frozen=True)
class Adjoint:
    """torchdiffeq's continuous adjoint, with the state restored often enough that integrating backwards stays right.

    Integrating the state backwards multiplies its error by exp(stiffness * time). Unless the state is restored, the
    gradient near an attractor is wrong by many orders of magnitude, and no error is raised. Between two restorations
    the factor is at most `growth`.

    The tolerances of the state are relative to each signal's size, and those of its gradient to the largest entry of
    the gradient that comes in for that signal. The Jacobian jumps wherever a unit crosses its threshold, and there the
    backward integration's steps shrink with its tolerance. So the default is a tenth of the forward integration's
    sqrt(rtol), and not less: the forward steps leave an error of about sqrt(rtol) at those kinks anyway.

    Attributes:
        rtol: relative tolerance of the backward integration; by default a tenth of the square root of the forward one.
        atol: absolute tolerance of the backward integration; by default its ratio to rtol is that of the forward one.
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

    def fits(self, method: Method) -> bool:
        """Whether torchdiffeq has the method, so that its adjoint can integrate with it."""
        return method.in_torchdiffeq

    def between_restarts(self, plan: Plan, horizon: float) -> float:
        return math.inf

    def solve(self, segment: Segment, field: Field, state: State) -> tuple[State, State]:
        plan = segment.plan
        rtol = 0.1 * math.sqrt(plan.rtol) if self.rtol is None else self.rtol
        atol = rtol * plan.atol / plan.rtol if self.atol is None else self.atol
        size = Size(state, len(field.signal_batch), atol)
        wanted = [t.requires_grad for t in (*state, *field.tensors())]
        own = iter(as_given(size, *(t for t in (*state, *field.tensors()) if t.requires_grad)))
        every = [next(own) if w else t for w, t in zip(wanted, (*state, *field.tensors()), strict=True)]
        state, tensors = tuple(every[: len(state)]), tuple(every[len(state) :])
        parameters = tuple(t for t in tensors if t.requires_grad)
        odeint = functools.partial(
            odeint_guarded,
            method=plan.method,
            max_steps=plan.max_steps,
            adjoint_params=parameters,
            adjoint_rtol=rtol,
            # For time, the state, its adjoint (whose size is known on the way back only) and the parameters' gradients.
            adjoint_atol=(atol, _state_tolerance(segment, state, atol), size.tolerance, *(atol for _ in parameters)),
            **_backwards(plan),
        )
        import torchdiffeq  # deferred: it imports scipy.integrate, which takes half a second

        again = functools.partial(odeint_onto, torchdiffeq.odeint, method=plan.method)
        stops = self._stops(segment, field)
        states, last = segment.solve(field.with_tensors(tensors), state, odeint, again, stops)
        joined = to_unit(size, *(torch.cat([s, end[None]]) for s, end in zip(states, last, strict=True)))
        return tuple(part[:-1] for part in joined), tuple(part[-1] for part in joined)

    def _stops(self, segment: Segment, field: Field) -> Tensor:
        """The times inside the segment at which the state is restored."""
        start, length = segment.start.time, segment.end - segment.start.time
        count = max(1, math.ceil(length * float(field.stiffness().max()) / math.log(self.growth)))
        return start + length * torch.arange(1, count, dtype=torch.float64) / count


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


def _between_restarts(plan: Plan, horizon: float) -> float:
    """The time between restarts of a method that goes on from more than a state. Backpropagation and checkpointing use
    the same one, so that they take the same steps.
    """
    return horizon / 16 if plan.method.replay is Replay.RESTARTS and horizon > 0 else math.inf


def _recomputed(segment: Segment, field: Field, state: State) -> tuple[State, State]:
    """The segment's solution; the backward pass takes all of its steps again."""
    n = len(state)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        states, last = segment.solve(field.with_tensors(tensors[n:]), tensors[:n])
        return (*states, *last)

    parts = checkpoint(run, *state, *field.tensors(), use_reentrant=False)
    return tuple(parts[:n]), tuple(parts[n:])


def _state_tolerance(segment: Segment, state: State, atol: float) -> Tensor:
    """The tolerance of every entry of the state, flat, with `atol` in place of the plan's."""
    shares = zip(segment.tolerance(state), state, strict=True)
    return torch.cat(
        [
            torch.as_tensor(part, dtype=y.dtype, device=y.device).expand_as(y).flatten() * (atol / segment.plan.atol)
            for part, y in shares
        ]
    ).detach()


def _backwards(plan: Plan) -> dict[str, Any]:
    """The backward integration's method and options: the forward one's if it is adaptive, dopri5 otherwise."""
    method = plan.method if plan.method.adaptive else DOPRI5
    options: dict[str, Any] = {"dtype": torch.float64}
    cap = plan.cap if plan.method.adaptive else method.limit / plan.stiffness
    if math.isfinite(cap):
        options["max_step"] = cap
    return {"adjoint_method": method.name, "adjoint_options": options}
