"""Problems to certified solutions: ISTA, FISTA with restart, and a polish on the support."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._compile import uncompiled
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers import mixed_precision
from vars_dyn.solvers.first_order import ROUNDING, solve_flat, start_code

__all__ = ["METHODS", "Solution", "solve", "tolerance"]

METHODS = ("ista", "fista", "admm", "auto")
#: No code of a dtype can be expected to have a gap below this many of its epsilons.
_VERIFIABLE = 8


class Solution(NamedTuple):
    """A code with its certificate; every field but `code` and `state` has one value per signal.

    Attributes:
        code: a, (*any, *code_shape).
        relative_gap: the duality gap over 1/2 |x|^2 (`SparseProblem.relative_gap`).
        kkt_residual: the largest violation of the optimality conditions.
        iterations: steps of the first-order method taken.
        converged: whether the relative gap is within the tolerance.
        state: the field's state at rest, where a field was solved; None for a problem.
    """

    code: Tensor
    relative_gap: Tensor
    kkt_residual: Tensor
    iterations: Tensor
    converged: Tensor
    state: tuple[Tensor, ...] | None = None


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
        method: "fista" (Beck and Teboulle 2009, restarted per signal where momentum points uphill, O'Donoghue and
            Candes 2015); "ista" (Eq. 12 with step 1/L), slower, for comparison with the paper; "admm" (Boyd et al.
            2011) in single precision, its code refined on the support in the problem's own; or "auto", an active set
            grown from nothing, ADMM where it grows large, and FISTA from where these leave a signal short of the
            certificate. A problem whose matrix is too large to be factored, or with lam = 0, and with "auto" one
            that is given a start or is not polished, is FISTA's.
        tol: the relative gap to reach; by default 1e-8 in float64 and 1e-5 in float32.
        max_iterations: first-order steps at most, per signal.
        start: codes to start from; by default P^T x for ISTA, the paper's start, and zero for FISTA.
        polish: whether to finish by solving on the support, to machine precision. Without it the code is within tol
            and no more; ISTA's and FISTA's own iterate.

    Signals whose gap is reached leave the batch. Returns a `Solution`; a signal that did not get there has `converged`
    False. The result is not differentiable: `vars_dyn.equilibrium` is. Steps are taken on signals and dictionaries
    brought near one by powers of two, so that units do not matter. Raises ValueError for what is no problem, an unknown
    method, a tolerance that is not above zero or that the dtype cannot verify, a count that is not above zero, a start
    of another shape, and a dictionary that is not finite.
    """
    if not isinstance(problem, SparseProblem):
        raise ValueError(
            f"problem is a {type(problem).__name__}; a SparseProblem is wanted (for a field call "
            "vars_dyn.equilibrium(field) or vars_dyn.solve(field.problem()))"
        )
    _checks.choice("method", method, METHODS)
    _checks.count("max_iterations", max_iterations)
    code_shape = (*problem.batch_shape, *problem.dictionary.code_shape)
    if start is not None:
        _checks.floating_tensor("start", start)
        _checks.same_kind("start", start, problem.x, "x")
        if tuple(start.shape) != code_shape:
            raise ValueError(f"start has shape {tuple(start.shape)}; {code_shape} is wanted")
    _checks.full_precision("x", problem.x)
    tol = tolerance(tol, problem.x.dtype)
    _checks.number("ridge", problem.ridge, nonnegative=True)
    with torch.no_grad(), torch.autocast(problem.x.device.type, enabled=False):
        whole = problem.detach().flat()
        # In float64 the certificates want the same units.
        flat, own = whole._prepare()[1:3] if whole.x.dtype == torch.float64 else whole.normalised()
        given = start is not None
        if start is not None:
            start = own.code(start.detach().reshape(*flat.batch_shape, *flat.dictionary.code_shape))
            _checks.floating_tensor("start, in units of the solution,", start)
        if math.prod(flat.batch_shape) and _suits_mixed_precision(flat, method, given, polish):
            found = _solve_mixed(flat, method, tol, max_iterations, polish)
        else:
            first = "ista" if method == "ista" else "fista"
            a, none = (
                start_code(flat, first, start),
                torch.zeros(flat.batch_shape, dtype=torch.long, device=flat.x.device),
            )
            if math.prod(flat.batch_shape):
                a, none = solve_flat(flat, a, none, first, tol, max_iterations, polish)
            found = mixed_precision.Found(a, *flat.certificate(a), none)
        if not own.plain:
            code = own.code(found.code, back=True)
            found = mixed_precision.Found(code, *whole.certificate(code), found.iterations)
        gap, kkt, iterations = (part.reshape(problem.batch_shape) for part in found[1:])
        return Solution(found.code.reshape(code_shape), gap, kkt, iterations, gap <= tol)


def tolerance(tol: float | None, dtype: torch.dtype) -> float:
    """`tol`, or its default; ValueError where it is not above zero or too small for the dtype to verify."""
    if tol is None:
        return 1e-8 if dtype == torch.float64 else 1e-5
    least = _VERIFIABLE * torch.finfo(dtype).eps
    if float(_checks.number("tol", tol, positive=True)) < least:
        raise ValueError(f"tol is {tol}; {dtype} verifies a relative gap of {least:.3g} at the least")
    return float(tol)


def _suits_mixed_precision(problem: SparseProblem, method: str, started: bool, polish: bool) -> bool:
    wanted = method == "admm" or (method == "auto" and polish)
    return wanted and not started and mixed_precision.suits(problem)


def _solve_mixed(
    problem: SparseProblem, method: str, tol: float, max_iterations: int, polish: bool
) -> mixed_precision.Found:
    """`mixed_precision.approach`, and the plain way on from there for signals left short of their certificates."""
    found, scale = mixed_precision.approach(problem, None if polish else tol, max_iterations, grow=method == "auto")
    rounding = 1e-1 * ROUNDING * torch.finfo(scale.dtype).eps if polish else math.inf
    left = ~((found.relative_gap <= tol) & (found.kkt_residual <= rounding * scale))
    if not bool(left.any()):
        return found
    rest, index = _rest(problem, left)
    a, iterations = (part[index].reshape(*rest.batch_shape, *part.shape[left.ndim :]) for part in (found[0], found[3]))
    worse = ~(rest._objective(a) <= rest._objective(torch.zeros_like(a)))
    a = a.masked_fill(problem.per_code(worse), 0.0)
    a, iterations = solve_flat(rest, a, iterations, "fista", tol, max_iterations, polish)
    again = (a, *rest.certificate(a), iterations)
    for part, new in zip(found, again, strict=True):
        part[index] = new.reshape(part[index].shape)
    return found


def _rest(problem: SparseProblem, left: Tensor) -> tuple[SparseProblem, tuple[Tensor, ...]]:
    """The problem of the signals `left`, each with a copy of its own dictionary where that is no more than there are
    dictionaries (elsewhere of all signals of their elements), and where they are in `problem`.
    """
    index = left.nonzero(as_tuple=True)
    if len(index) == 2 and len(index[0]) <= len(left):
        dictionary = problem.dictionary.select(index[0])
        ridge = problem.ridge
        if isinstance(ridge, Tensor) and ridge.ndim:
            ridge = ridge[index][:, None]
        return problem._with(dictionary, problem.x[index][:, None], problem.lam[index][:, None], ridge), index
    index = (index[0].unique(),)
    return problem.select(index[0]), index
