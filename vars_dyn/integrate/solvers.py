"""One call for every method: torchdiffeq's, and this package's own."""

from __future__ import annotations

import math
from typing import Any

import torchdiffeq
from torch import Tensor

from vars_dyn.dynamics.base import State
from vars_dyn.integrate.auto import odeint_auto
from vars_dyn.integrate.dopri5 import odeint_dopri5
from vars_dyn.integrate.rkc import odeint_rkc

__all__ = ["odeint"]


def odeint(func: Any, y0: State, t: Tensor, *, rtol: float, atol: float, method: str, options: dict[str, Any]) -> State:
    """The states at the times `t`; called as torchdiffeq's is, with `methods.method_options`."""
    own: dict[str, Any] = {
        "rtol": rtol,
        "atol": atol,
        "norm": options.get("norm"),
        "end": float(options.get("step_t", math.nan)),
        "first_step": options.get("first_step"),
    }
    if method == "dopri5":
        return odeint_dopri5(func, y0, t, cap=options.get("max_step", math.inf), **own)
    if method == "rkc":
        return odeint_rkc(func, y0, t, rho=options["stiffness"], **own)
    if method == "auto":
        return odeint_auto(func, y0, t, rho=options["stiffness"], cap=options.get("max_step", math.inf), **own)
    solution: State = torchdiffeq.odeint(func, y0, t, rtol=rtol, atol=atol, method=method, options=options)
    return solution
