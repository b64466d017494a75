"""One call for every method: torchdiffeq's, and this package's own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integration.plan import COARSE_METHODS
from vars_dyn.integration.scale import Tolerance
from vars_dyn.integration.steppers.auto import Switch
from vars_dyn.integration.steppers.base import march
from vars_dyn.integration.steppers.dopri5 import Dopri5
from vars_dyn.integration.steppers.rkc import Rkc

__all__ = ["odeint", "odeint_onto"]


def odeint(
    func: Any, y0: State, t: Tensor, *, rtol: float, atol: Tolerance, method: str, options: dict[str, Any]
) -> State:
    """The states at the times `t`; called as torchdiffeq's is, with `methods.method_options`."""
    if method not in ("dopri5", "rkc", "auto"):
        return odeint_onto(torchdiffeq.odeint, func, y0, t, rtol=rtol, atol=atol, method=method, options=options)
    begun: dict[str, Any] = {"end": float(options["step_t"]), "first_step": options.get("first_step")}
    dopri5 = Dopri5(rtol, atol, options["norm"], options.get("max_step", math.inf))
    if method == "dopri5":
        return march(func, y0, t, dopri5, **begun)
    rkc = Rkc(rtol, atol, options["norm"], options["stiffness"])
    if method == "rkc":
        return march(func, y0, t, rkc, **begun)
    switch = Switch(dopri5, rkc)
    return march(func, y0, t, switch.begin(begun["first_step"]), follow=switch.follow, **begun)


def odeint_onto(
    solver: Callable[..., State],
    func: Any,
    y0: State,
    t: Tensor,
    *,
    atol: Tolerance,
    method: str,
    options: dict[str, Any],
    **rest: Any,
) -> State:
    """The states at the times `t` by a solver of torchdiffeq's, which ends a step on each of them where what it would
    give between steps is less accurate than its steps are. The option "stops" says where steps end, if not at `t`.
    """
    settings: dict[str, Any] = {"method": method, "atol": _flat(atol, y0), **rest}
    if method not in COARSE_METHODS:
        solution: State = solver(func, y0, t, options=options, **settings)
        return solution
    told, rows = _Told(func, options.get("first_step")), [y0]
    options, stops = {**options}, options.get("stops", t).to("cpu", torch.float64)
    options.pop("stops", None)
    for low, high in itertools.pairwise(t):
        # Restarted with the step that it had in mind before it was cut to end here.
        chosen = {**options, "step_t": stops[stops >= float(high)][:1]}
        if told.step is not None:
            chosen["first_step"] = told.step
        ends = solver(told, rows[-1], torch.stack([low, high]), options=chosen, **settings)
        rows.append(tuple(part[1] for part in ends))
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def _flat(atol: Tolerance, y0: State) -> float | State:
    """The tolerance as torchdiffeq takes it: a number, or flat tensors for the parts."""
    if all(isinstance(part, float) and part == atol[0] for part in atol):
        return float(atol[0])
    return tuple(
        torch.as_tensor(part, dtype=torch.float64, device=y.device).flatten() for part, y in zip(atol, y0, strict=True)
    )


class _Told:
    """A function to integrate that remembers the step last tried, and tells of it as the one it stands for is told."""

    def __init__(self, func: Any, step: float | None) -> None:
        self._func, self.step = func, step

    def __call__(self, t: Tensor, state: State) -> State:
        result: State = self._func(t, state)
        return result

    def callback_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        self.step = float(dt)
        if hasattr(self._func, "callback_step"):
            self._func.callback_step(t0, state, dt)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._func, name)
