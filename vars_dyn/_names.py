"""Names that options are made of. Those of a command must be known without torch, whose import takes seconds."""

from __future__ import annotations

__all__ = ["METHODS", "VARIABLES"]

#: The methods of integration, each registered in `vars_dyn.integration.steppers`.
METHODS = (
    "dopri5",
    "dopri8",
    "bosh3",
    "fehlberg2",
    "adaptive_heun",
    "euler",
    "midpoint",
    "heun2",
    "heun3",
    "rk4",
    "explicit_adams",
    "implicit_adams",
    "rkc",
    "auto",
)
#: Everything that can be recorded, in the order in which it is stored.
VARIABLES = ("x", "z", "u", "code", "lyapunov", "gap", "relative_gap", "active")
