"""One call for every method: torchdiffeq's, and this package's own."""

from __future__ import annotations

import math
from typing import Any

import torchdiffeq
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integrate.auto import Switch
from vars_dyn.integrate.dopri5 import Dopri5
from vars_dyn.integrate.rkc import Rkc
from vars_dyn.integrate.stepping import march

__all__ = ["odeint"]


def odeint(func: Any, y0: State, t: Tensor, *, rtol: float, atol: float, method: str, options: dict[str, Any]) -> State:
    """The states at the times `t`; called as torchdiffeq's is, with `methods.method_options`."""
    if method not in ("dopri5", "rkc", "auto"):
        solution: State = torchdiffeq.odeint(func, y0, t, rtol=rtol, atol=atol, method=method, options=options)
        return solution
    begun: dict[str, Any] = {"end": float(options["step_t"]), "first_step": options.get("first_step")}
    dopri5 = Dopri5(rtol, atol, options["norm"], options.get("max_step", math.inf))
    if method == "dopri5":
        return march(func, y0, t, dopri5, **begun)
    rkc = Rkc(rtol, atol, options["norm"], options["stiffness"])
    if method == "rkc":
        return march(func, y0, t, rkc, **begun)
    switch = Switch(dopri5, rkc)
    return march(func, y0, t, switch.begin(begun["first_step"]), follow=switch.follow, **begun)
