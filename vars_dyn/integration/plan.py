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
from vars_dyn.integration.steppers import SCHEMES, Method, method_for
from vars_dyn.integration.steppers.stochastic import Forcing, Scheme, default_step
from vars_dyn.noise import Noise
from vars_dyn.problems import SparseProblem

__all__ = ["MILD_CURVATURE", "Options", "Plan", "plan_for", "refuse_hopeless"]

#: Where V's second derivatives exceed this, an error of the size that rtol allows may raise V by more than about
#: 10 rtol^2 of its value. There errors are multiplied by the square root of the excess, as they count in V.
MILD_CURVATURE = 20.0

#: A way that takes this many times `max_steps` is refused before the first step. On a shorter one the trajectory up to
#: the limit is worth having.
_HOPELESS = 100


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
    noise: Noise | None = None

    @property
    def is_noisy(self) -> bool:
        """Whether there is noise; noise of strength zero is none."""
        return self.noise is not None and not self.noise.is_silent

    def __post_init__(self) -> None:
        method_for(self.method)
        if self.noise is not None and not isinstance(self.noise, Noise):
            raise ValueError(f"noise is {_checks.describe(self.noise)}; a vars_dyn.Noise is wanted")
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
    #: when x moves and interventions change for the last time, after which signals may settle
    settles_from: float
    max_steps: int
    #: whether a stable equilibrium of every signal is proved
    stable: bool
    #: the noise; None where there is none
    forcing: Forcing | None


def plan_for(field: Field, options: Options, capped: bool, power: int = 0) -> Plan:
    """The plan for a field, with steps capped at the stability limit if `capped` is true or a gap is wanted.

    `power` is the exponent of two by which the field was made larger than the user's.

    Raises ValueError for options that do not fit the field; warns of a field without a proved stable equilibrium.
    """
    method, gap, forcing = method_for(options.method), options.gap, None
    if options.noise is not None and options.is_noisy:
        if gap is not None:
            raise ValueError(f"gap is {gap}, but under noise no signal settles; none is wanted")
        method, forcing = SCHEMES[options.noise.scheme], Forcing(options.noise.amplified(power), field.flat())
    _checks.full_precision("x", field.amplitude())
    settles_from = field.rests_from
    reason = field.instability()
    problem = None
    if gap is not None:
        if reason:
            raise ValueError(f"gap is {gap}, but {reason}")
        with torch.no_grad():
            problem = field.detach().at_rest().problem().flat() if settles_from < math.inf else None
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
        settles_from=settles_from,
        max_steps=options.max_steps,
        stable=not reason,
        forcing=forcing,
    )


def refuse_hopeless(plan: Plan, start: float, end: float) -> None:
    """ValueError where the way from `start` to `end` takes far more steps than `max_steps`, however the state moves.

    This holds where steps are fixed or capped, or where the method takes no step beyond its stages.
    """
    longest = plan.cap if plan.method.adaptive or plan.step is None else plan.step
    if plan.method.reach is not None and (math.isfinite(longest) or math.isinf(plan.method.limit)):
        longest = plan.method.reach / plan.stiffness
    # Where the stiffness is beyond the largest number, adaptive methods say what overflows.
    none = 0.0 if plan.method.adaptive and math.isinf(plan.stiffness) else math.inf
    least = (end - start) / longest if longest > 0 else none
    if least > _HOPELESS * plan.max_steps:
        raise ValueError(
            f"the field is so stiff, with rates up to {plan.stiffness:.3g}, that {plan.method.name} needs at least "
            f"{least:.3g} steps to t = {end:.6g}, and max_steps is {plan.max_steps}; a dictionary P / s with lam / s, "
            "whose codes are s times as large, or a shorter time is wanted; vars_dyn.equilibrium takes no steps"
        )


def _fixed_step(method: Method, field: Field, step: float | None) -> float:
    """The step asked for, or nine tenths of the longest stable one; ValueError for a step that is longer than that."""
    longest = method.limit / float(field.decay().max())
    if step is not None and step > longest * (1 + 1e-9):
        raise ValueError(
            f"step is {step:.6g}, which {method.name} is not stable at: its limit over the field's fastest decay is "
            f"{longest:.6g}; a step of at most that is wanted, or none, for steps that end at the times asked for"
        )
    if isinstance(method, Scheme):
        return default_step(method.limit, float(field.decay().max())) if step is None else step
    return 0.9 * longest if step is None else step
