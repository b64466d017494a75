"""Solvers without a fixed number of steps: the neurons' ODE, run to a given time, and its certified equilibrium."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.attention.unrolled import UNROLLED
from vars_dyn.dynamics import Reduced, SparseRecurrent
from vars_dyn.integration.gradients import Implicit, Mode, mode_for, through_time
from vars_dyn.integration.integrate import integrate
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.equilibrium import equilibrium

__all__ = ["Equilibrium", "Ode", "solver_of"]


@dataclass(frozen=True, kw_only=True)
class Ode:
    """Integrate the VARS neurons that solve the reconstruction from rest to a time. The code is their gated output.

    Attributes:
        field: "sparse_recurrent" (Eq. 8-9) or "reduced" (Eq. 20-21).
        horizon: the time, in membrane time constants.
        method: a method of `vars_dyn.integrate`; rtol and atol are its tolerances.
        gap: the relative gap at which a signal stops early; None: no signal stops early.
        gradient: "backprop", "checkpoint" or "adjoint", or one of them with its settings.

    Examples:
        >>> layer = va.VarsAttention(16, 2, solver=va.Ode(horizon=1.0), gradient="checkpoint")
        >>> layer(torch.randn(1, 9, 16)).shape
        torch.Size([1, 9, 16])
    """

    field: Literal["sparse_recurrent", "reduced"] = "sparse_recurrent"
    horizon: float = 10.0
    method: str = "dopri5"
    rtol: float = 1e-4
    atol: float = 1e-6
    gap: float | None = None
    gradient: str | Mode = "backprop"

    def __post_init__(self) -> None:
        _checks.choice("solver.field", self.field, ("sparse_recurrent", "reduced"))
        _checks.number("solver.horizon", self.horizon, positive=True)
        for name in ("rtol", "atol"):
            _checks.number(f"solver.{name}", getattr(self, name), nonnegative=True)
        if self.gap is not None:
            _checks.number("solver.gap", self.gap, positive=True)
        through_time(self.gradient)

    def neurons(self, problem: SparseProblem) -> SparseRecurrent | Reduced:
        """The field whose equilibrium solves `problem`."""
        kind = SparseRecurrent if self.field == "sparse_recurrent" else Reduced
        return kind(problem.dictionary, problem.x, lam=problem.lam)

    def __call__(self, problem: SparseProblem) -> Tensor:
        """The code at the horizon."""
        field = self.neurons(problem)
        times = torch.tensor([0.0, self.horizon], dtype=torch.float64)
        state, mode = field.initial_state(), self.gradient
        path = integrate(field, state, times, self.method, self.rtol, self.atol, gap=self.gap, gradient=mode)
        return field.code(tuple(part[-1] for part in path.states))


@dataclass(frozen=True, kw_only=True)
class Equilibrium:
    """The certified solution of the reconstruction, `vars_dyn.equilibrium`.

    Attributes:
        tol: the relative gap to reach; None: 1e-8 in float64 and 1e-5 in float32.
        gradient: "implicit", or "backprop", "checkpoint" or "adjoint" through the integration to the equilibrium, or
            one of these with its settings.

    Examples:
        >>> layer = va.VarsAttention(16, 2, solver=va.Equilibrium(tol=1e-4))
        >>> layer(torch.randn(1, 9, 16)).shape
        torch.Size([1, 9, 16])
    """

    tol: float | None = None
    gradient: str | Mode = dataclasses.field(default_factory=Implicit)

    def __post_init__(self) -> None:
        if self.tol is not None:
            _checks.number("solver.tol", self.tol, positive=True)
        mode_for(self.gradient)

    def __call__(self, problem: SparseProblem) -> Tensor:
        """The code at the equilibrium."""
        return equilibrium(problem, gradient=self.gradient, tol=self.tol).code


def solver_of(solver: str | Ode | Equilibrium, gradient: str | Mode | None) -> str | Ode | Equilibrium:
    """The solver that `solver` names or is. If `gradient` is given, it replaces the solver's own."""
    if isinstance(solver, str):
        _checks.choice("solver", solver, (*UNROLLED, "ode", "equilibrium"))
        if solver in UNROLLED:
            if gradient not in (None, "backprop"):
                raise ValueError(f"gradient is {gradient!r}; the steps of solver={solver!r} are backpropagated through")
            return solver
        solver = Ode() if solver == "ode" else Equilibrium()
    if not isinstance(solver, Ode | Equilibrium):
        raise ValueError(f"solver is {solver!r}; a name, an Ode or an Equilibrium is wanted")
    return solver if gradient is None else dataclasses.replace(solver, gradient=gradient)
