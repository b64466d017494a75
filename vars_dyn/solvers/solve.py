"""Solving sparse problems: `solve` checks its arguments, lets a method solve the problem, and certifies the result."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._compile import uncompiled
from vars_dyn._showing import as_line, as_table, largest
from vars_dyn.problems import SparseProblem
from vars_dyn.shapes import refuse_negative
from vars_dyn.solvers.compiled.active_set import CompiledActiveSet
from vars_dyn.solvers.first_order import Fista, Ista
from vars_dyn.solvers.methods import Found, Goal, Method, no_steps
from vars_dyn.solvers.mixed_precision import Grown, MixedPrecision

__all__ = ["METHODS", "Solution", "solve", "solved", "tolerance"]


class _Auto(Method):
    """The first of its methods that suits the problem; they stand in the order of their speed."""

    methods = (CompiledActiveSet(), Grown())

    def suits(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> bool:
        """Whether one of the methods suits."""
        return any(method.suits(problem, start, goal) for method in self.methods)

    def at_once(self, problem: SparseProblem, goal: Goal) -> Found | None:
        """As the first of the methods."""
        return self.methods[0].at_once(problem, goal)

    def solve(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> Found:
        """Codes by the first method that suits."""
        suiting = (method for method in self.methods if method.suits(problem, start, goal))
        return next(suiting).solve(problem, start, goal)


#: The methods by name.
METHODS: dict[str, Method] = {
    "ista": Ista(),
    "fista": Fista(),
    "admm": MixedPrecision(),
    "active-set": CompiledActiveSet(),
    "auto": _Auto(),
}
#: The smallest gap that a dtype can verify, in units of its epsilon.
_VERIFIABLE = 8


class Solution(NamedTuple):
    """A code with its certificate; every field but `code` and `state` has one value per signal.

    Attributes:
        code: a, (*any, *code_shape).
        relative_gap: the duality gap over 1/2 |x|^2 (`SparseProblem.relative_gap`).
        kkt_residual: the largest violation of the optimality conditions.
        iterations: steps taken: of the first-order method, or rounds of an active set.
        converged: whether the relative gap is within the tolerance.
        state: the field's state at rest, where a field was solved; None for a problem.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> solution = vd.solve(vd.SparseProblem(P, x, lam=0.5))
        >>> solution.code.tolist(), solution.converged.item(), solution.relative_gap.item() < 1e-8
        ([1.5, -0.5, 0.0], True, True)
    """

    code: Tensor
    relative_gap: Tensor
    kkt_residual: Tensor
    iterations: Tensor
    converged: Tensor
    state: tuple[Tensor, ...] | None = None

    def described(self) -> dict[str, object]:
        """What notebooks and `repr` show: the code's shape and activity, and the largest of each certificate."""
        active = float((self.code.detach() != 0).double().mean()) if self.code.numel() else 0.0
        return {
            "code": tuple(self.code.shape),
            "active": f"{100 * active:.3g} %",
            "relative_gap": f"at most {largest(self.relative_gap)}",
            "kkt_residual": f"at most {largest(self.kkt_residual)}",
            "converged": f"{int(self.converged.sum())} of {self.converged.numel()}",
        }

    def __repr__(self) -> str:
        return as_line("Solution", self.described())

    def _repr_html_(self) -> str:
        return as_table("Solution", self.described())


@uncompiled
def solve(
    problem: SparseProblem,
    method: str = "auto",
    tol: float | None = None,
    max_iterations: int = 100_000,
    start: Tensor | None = None,
    polish: bool = True,
) -> Solution:
    """Solve a sparse problem for every signal and certify the result.

    Args:
        problem: the problem; its tensors' dtype is used throughout (float64 where a tight certificate is wanted).
        method: one of `METHODS`. "fista" is Beck and Teboulle's (2009), restarted per signal where momentum points
            uphill (O'Donoghue and Candes 2015). "ista" is Eq. 12 with step 1/L; it is slower, and serves comparisons
            with the paper. "admm" (Boyd et al. 2011) works in single precision and refines its codes on their supports
            in the problem's own precision. "active-set" lets atoms join and leave, signal by signal, in loops that
            numba compiles (the extra `fast`): the first call takes some ten seconds, later processes read what was
            compiled from the disk. It is for a dense dictionary that all signals share, on the CPU. "auto" is
            "active-set" where that can start; elsewhere it grows an active set from nothing, and uses ADMM where the
            set grows large. After "admm", "active-set" and "auto", FISTA continues for signals that are short of their
            certificate. FISTA replaces these where they cannot start: for lam = 0, a given start, and codes that are
            not to be polished (for "admm" only the first two), for "active-set" without numba, and for "admm" in single
            precision and for a matrix that is too large to be factored.
        tol: the relative gap to reach; by default 1e-8 in float64 and 1e-5 in float32.
        max_iterations: the largest number of first-order steps per signal.
        start: codes to start from; by default P^T x for ISTA, the paper's start, and zero for FISTA.
        polish: whether to finish by solving on the support, to machine precision. Without it ISTA and FISTA return
            their own iterates, whose gaps are within tol and no smaller.

    Signals that reach the gap leave the batch. Returns a `Solution`, in which `converged` is False for a signal that
    did not reach it. The result is not differentiable; that of `vars_dyn.equilibrium` is. Signals and dictionaries are
    first scaled near one by powers of two, so that units do not matter.

    Raises ValueError for a target that is no problem, an unknown method, a tolerance that is not above zero or that the
    dtype cannot verify, a count that is not above zero, a start of another shape, a dictionary that is not finite, a
    bias that may leave the objective unbounded, and atoms of weight zero that are linearly dependent.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> solution = vd.solve(vd.SparseProblem(P, x, lam=0.5))
        >>> solution.code.tolist(), solution.converged.item()
        ([1.5, -0.5, 0.0], True)
    """
    if not isinstance(problem, SparseProblem):
        raise ValueError(
            f"problem is a {type(problem).__name__}; a SparseProblem is wanted (for a field call "
            "vars_dyn.equilibrium(field) or vars_dyn.solve(field.problem()))"
        )
    _checks.choice("method", method, tuple(METHODS))
    _checks.count("max_iterations", max_iterations)
    if start is not None:
        code_shape = (*problem.batch_shape, *problem.dictionary.code_shape)
        _checks.floating_tensor("start", start)
        _checks.same_kind("start", start, problem.x, "x")
        if tuple(start.shape) != code_shape:
            raise ValueError(f"start has shape {tuple(start.shape)}; {code_shape} is wanted")
    _checks.full_precision("x", problem.x)
    goal = Goal(tolerance(tol, problem.x.dtype), max_iterations, polish)
    refuse_negative(problem.ridge)
    return solved(problem, METHODS[method], goal, start)


def solved(problem: SparseProblem, method: Method, goal: Goal, start: Tensor | None = None) -> Solution:
    """The solution of a problem by a method, or by FISTA where the method does not suit; without checks."""
    if start is None and (at_once := method.at_once(problem, goal)) is not None:
        return Solution(*at_once, at_once.relative_gap <= goal.tol)
    with torch.no_grad(), torch.autocast(problem.x.device.type, enabled=False):
        whole = problem.detach().flat()
        # In float64 the certificates are computed in the same units, so the units are made once.
        if whole.x.dtype == torch.float64:
            prepared = whole.prepared()
            flat, own = prepared.problem, prepared.units
        else:
            flat, own = whole.normalised()
        # In double precision, as a bias at the border of its box may lie beyond it to single precision.
        _refuse_unbounded(whole)
        if start is not None:
            start = own.code(start.detach().reshape(*flat.batch_shape, *flat.dictionary.code_shape))
            _checks.floating_tensor("start, in units of the solution,", start)
        found = _found(flat, method, start, goal)
        if not own.plain:
            code = own.code(found.code, back=True)
            found = Found.certified(whole, code, found.iterations)
        gap, kkt, iterations = (part.reshape(problem.batch_shape) for part in found[1:])
        return Solution(
            found.code.reshape(*problem.batch_shape, *problem.dictionary.code_shape),
            gap,
            kkt,
            iterations,
            gap <= goal.tol,
        )


def _refuse_unbounded(problem: SparseProblem) -> None:
    """ValueError for a flat problem whose bias may leave the objective without a minimum."""
    if problem.bias is not None and not bool((proved := problem.bounded()).all()):
        raise ValueError(
            f"bias exceeds the penalty of its atoms, and for {int((~proved).sum())} of {proved.numel()} signals no "
            "lower bound of the objective was found; a smaller bias, a larger lam or a ridge is wanted"
        )


def tolerance(tol: float | None, dtype: torch.dtype) -> float:
    """`tol`, or its default; ValueError where it is not above zero, or smaller than the dtype can verify."""
    if tol is None:
        return 1e-8 if dtype == torch.float64 else 1e-5
    least = _VERIFIABLE * torch.finfo(dtype).eps
    if float(_checks.number("tol", tol, positive=True)) < least:
        raise ValueError(f"tol is {tol}; {dtype} verifies a relative gap of {least:.3g} at the least")
    return float(tol)


def _found(problem: SparseProblem, method: Method, start: Tensor | None, goal: Goal) -> Found:
    """The codes of a flat problem, which may have no signals."""
    if not math.prod(problem.batch_shape):
        return Found.certified(
            problem, problem.x.new_zeros(*problem.batch_shape, *problem.dictionary.code_shape), no_steps(problem)
        )
    chosen = method if method.suits(problem, start, goal) else METHODS["fista"]
    return chosen.solve(problem, start, goal)
