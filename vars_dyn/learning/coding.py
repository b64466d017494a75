"""How codes are found while a dictionary learns: by the certified solve, at the equilibrium, or at a fixed time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn.dictionaries import Dictionary, HierarchyDictionary
from vars_dyn.dynamics import SparseRecurrent
from vars_dyn.hierarchy import Hierarchy
from vars_dyn.integration.integrate import integrate
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.equilibrium import equilibrium
from vars_dyn.solvers.solve import solve

__all__ = ["CODES", "Coded", "Codes", "Equilibrium", "Integrate", "Lam", "Solve", "codes_for"]

#: lam: a number, or for a hierarchy one for each layer.
Lam = float | tuple[float, ...]


class Coded(NamedTuple):
    """Codes (n, *code_shape) with the relative gap of each, and the problem that they solve."""

    code: Tensor
    relative_gap: Tensor
    problem: SparseProblem


@runtime_checkable
class Codes(Protocol):
    """A way to codes. `differentiable` says whether they carry a gradient to the dictionary."""

    @property
    def differentiable(self) -> bool:
        """Whether the codes carry a gradient to the dictionary."""
        ...

    def __call__(self, dictionary: Dictionary, x: Tensor, lam: Lam) -> Coded:
        """The codes of the signals x (n, *signal_shape); of a hierarchy the joined codes of signals of layer 1."""
        ...


@dataclass(frozen=True)
class Solve:
    """The argmin by `vars_dyn.solve`, within a relative gap `tol`; non-negative codes if `nonnegative`.

    It carries no gradient. It is the fastest way for the online and the Hebbian rule.
    """

    tol: float = 1e-4
    nonnegative: bool = False
    differentiable = False

    def __call__(self, dictionary: Dictionary, x: Tensor, lam: Lam) -> Coded:
        problem = _problem(dictionary.detach(), x, lam, nonnegative=self.nonnegative)
        # A convolutional code has many small entries, and a polish of its support takes longer than the steps before.
        solution = solve(problem, tol=self.tol, polish=len(dictionary.code_shape) == 1)
        return Coded(solution.code, solution.relative_gap, problem)


@dataclass(frozen=True)
class Equilibrium:
    """The equilibrium of the neurons within a relative gap `tol`, differentiable in the dictionary."""

    tol: float = 1e-4
    nonnegative: bool = False
    differentiable = True

    def __call__(self, dictionary: Dictionary, x: Tensor, lam: Lam) -> Coded:
        problem = _problem(dictionary, x, lam, nonnegative=self.nonnegative)
        solution = equilibrium(problem, tol=self.tol)
        return Coded(solution.code, solution.relative_gap.detach(), problem)


@dataclass(frozen=True)
class Integrate:
    """The output of the VARS neurons (Eq. 8-9) at the time `horizon`, whether they have settled or not.

    Attributes:
        horizon: in membrane time constants, from rest.
        nonnegative: whether the gate is the non-negative soft threshold.
        rtol: relative tolerance; the absolute one is a hundredth of it.
        method, gradient: as in `vars_dyn.integrate`.
    """

    horizon: float = 20.0
    nonnegative: bool = False
    rtol: float = 1e-3
    method: str = "dopri5"
    gradient: str = "backprop"
    differentiable = True

    def __post_init__(self) -> None:
        _checks.number("horizon", self.horizon, positive=True)

    def __call__(self, dictionary: Dictionary, x: Tensor, lam: Lam) -> Coded:
        problem = _problem(dictionary, x, lam, nonnegative=self.nonnegative)
        gate = "nonnegative" if self.nonnegative else "soft"
        neurons = SparseRecurrent(dictionary, problem.x, problem.lam, threshold=gate, weights=problem.weights)
        times = torch.tensor([0.0, self.horizon], dtype=torch.float64)
        start, rtol = neurons.initial_state(), self.rtol
        way = integrate(neurons, start, times, self.method, rtol, rtol / 100, gradient=self.gradient)
        code = neurons.code(tuple(part[-1] for part in way.states))
        with torch.no_grad():
            gap = problem.detach().relative_gap(code.detach())
        return Coded(code, gap, problem)


def _problem(dictionary: Dictionary, x: Tensor, lam: Lam, *, nonnegative: bool) -> SparseProblem:
    """The problem of the signals x, for a hierarchy the joint one."""
    if isinstance(dictionary, HierarchyDictionary):
        lams = lam if isinstance(lam, tuple) else (lam,) * len(dictionary.layers)
        return Hierarchy(dictionary.layers, lams, tuple(dictionary.roots.square()), nonnegative).problem(x)
    if isinstance(lam, tuple):
        raise ValueError(f"lam is {lam}; one number is wanted for a dictionary that is no hierarchy")
    return SparseProblem(dictionary, x, lam, nonnegative=nonnegative)


#: The ways by name.
CODES: dict[str, type[Solve] | type[Equilibrium] | type[Integrate]] = {
    "solve": Solve,
    "equilibrium": Equilibrium,
    "integrate": Integrate,
}


def codes_for(codes: str | Codes) -> Codes:
    """The way of that name with its defaults, or `codes` itself; ValueError for an unknown name."""
    if isinstance(codes, str):
        return CODES[_checks.choice("codes", codes, tuple(CODES))]()
    if not callable(codes):
        raise ValueError(f"codes is {_checks.describe(codes)}; one of {', '.join(CODES)}, or a Codes, is wanted")
    return codes
