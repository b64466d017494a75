"""How to integrate: what was asked for, and what a field makes of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch

from vars_dyn import _checks
from vars_dyn.dynamics.base import Field
from vars_dyn.integration.scale import Tolerance, tolerances
from vars_dyn.integration.steppers import Method, method_for
from vars_dyn.problems import SparseProblem

__all__ = ["MILD_CURVATURE", "Options", "Plan", "plan_for"]

#: Where V's second derivatives exceed this, an error of the size that rtol allows may raise V by more than about
#: 10 rtol^2 of its value. There errors are multiplied by the square root of the excess, as they count in V.
MILD_CURVATURE = 20.0


@dataclass(frozen=True)
class Options:
    """The arguments that `integrate` and `stream` share, checked; `integrate` says what each one means."""

    method: str = "dopri5"
    rtol: float = 1e-6
    atol: float = 1e-8
    gap: float | None = None
    step: float | None = None
    cap_steps: bool | None = None
    check_every: float | None = None
    max_steps: int = 1_000_000

    def __post_init__(self) -> None:
        method_for(self.method)
        _checks.number("rtol", self.rtol, positive=True)
        _checks.number("atol", self.atol, positive=True)
        _checks.count("max_steps", self.max_steps)
        for name in ("gap", "step", "check_every"):
            if getattr(self, name) is not None:
                _checks.number(name, getattr(self, name), positive=True)


class Plan(NamedTuple):
    """How to integrate: what stays the same from segment to segment."""

    method: Method
    rtol: float
    atol: float
    #: `atol` for every part of the state, and for every signal where their sizes differ
    tolerance: Tolerance
    cap: float
    stiffness: float
    #: what the norm of an error is multiplied by
    emphasis: float
    step: float | None
    gap: float | None
    #: the problem that the code at rest solves; None without a gap, and where x never comes to rest
    problem: SparseProblem | None
    max_steps: int
    #: whether a stable equilibrium of every signal is proved
    stable: bool


def plan_for(field: Field, options: Options, capped: bool) -> Plan:
    """The plan for a field, with steps capped at the stability limit if `capped` is true or a gap is wanted.

    Raises ValueError for options that do not fit the field; warns of a field without a proved stable equilibrium.
    """
    method, gap = method_for(options.method), options.gap
    _checks.full_precision("x", field.amplitude())
    reason = field.instability()
    problem = None
    if gap is not None:
        if reason:
            raise ValueError(f"gap is {gap}, but {reason}")
        with torch.no_grad():
            problem = field.detach().at_rest().problem().flat() if field.rests_from < math.inf else None
    elif reason:
        warnings.warn(reason, stacklevel=4)
    stiffness = float(field.stiffness().max())
    cap = method.limit / stiffness if (capped or gap is not None) else math.inf
    if method.always_capped is not None and not capped:
        cap = method.always_capped * method.limit / stiffness
    fastest = min((_checks.plain(v) for name, v in field.constants.items() if name.startswith("tau")), default=1.0)
    return Plan(
        method=method,
        rtol=float(options.rtol),
        atol=float(options.atol),
        tolerance=tolerances(field.flat(), float(options.atol)),
        cap=cap,
        stiffness=stiffness,
        emphasis=math.sqrt(max(1.0, stiffness * fastest / MILD_CURVATURE)),
        step=options.step if method.adaptive else _fixed_step(method, field, options.step),
        gap=gap,
        problem=problem,
        max_steps=options.max_steps,
        stable=not reason,
    )


def _fixed_step(method: Method, field: Field, step: float | None) -> float:
    """The step asked for, or nine tenths of the longest stable one; ValueError for a step that is longer than that."""
    longest = method.limit / float(field.decay().max())
    if step is not None and step > longest * (1 + 1e-9):
        raise ValueError(
            f"step is {step:.6g}, which {method.name} is not stable at: its limit over the field's fastest decay is "
            f"{longest:.6g}; a step of at most that is wanted, or none, for steps that end at the times asked for"
        )
    return 0.9 * longest if step is None else step
