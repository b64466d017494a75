"""A problem's solutions for many weights of its penalty, each found from the one before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._compile import uncompiled
from vars_dyn.problems import SparseProblem
from vars_dyn.shapes import expand_trailing
from vars_dyn.solvers.compiled.active_set import CompiledActiveSet
from vars_dyn.solvers.methods import Goal
from vars_dyn.solvers.solve import METHODS, Solution, solved, tolerance

__all__ = ["solve_path"]


@uncompiled
def solve_path(
    problem: SparseProblem,
    lams: Tensor | Sequence[float],
    *,
    tol: float | None = None,
    max_iterations: int = 100_000,
) -> Solution:
    """Solve a sparse problem for every signal and every lam of a list, and certify the results.

    Args:
        problem: the problem. Its own lam is not used.
        lams: the weights of the penalty, above zero, in any order: numbers for all signals, (L,), or with one for each
            signal, (L, *signals). `problem.critical_lam()` is the largest of interest.
        tol: the relative gap to reach, as for `vars_dyn.solve`.
        max_iterations: the most iterations for each lam.

    Returns:
        A `Solution` whose first dimension is that of `lams`: codes (L, *any, *code_shape), and one value per lam and
        signal.

    Where the method "active-set" can start, a signal's lam are taken from the largest to the smallest, and each search
    goes on from the support of the one before it, which costs little where they are close. Elsewhere each lam is solved
    for by itself, so this is then no faster than `vars_dyn.solve`.

    Raises ValueError for a target that is no problem, lams of another shape or not above zero, and what
    `vars_dyn.solve` raises it for.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> problem = vd.SparseProblem(P, torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64), lam=1.0)
        >>> vd.solve_path(problem, [1.5, 0.5]).code.tolist()
        [[0.5, 0.0, 0.0], [1.5, -0.5, 0.0]]
    """
    if not isinstance(problem, SparseProblem):
        raise ValueError(f"problem is a {type(problem).__name__}; a SparseProblem is wanted")
    _checks.full_precision("x", problem.x)
    _checks.count("max_iterations", max_iterations)
    goal = Goal(tolerance(tol, problem.x.dtype), max_iterations, True)
    lam, signals = _lams(lams, problem), problem.batch_shape
    ordered, order = lam.sort(0, descending=True)
    place = order.argsort(0)
    if problem.dictionary.batch_shape:
        each = [_solved(problem, own, goal) for own in ordered]
        whole = Solution(
            torch.stack([one.code for one in each]),
            torch.stack([one.relative_gap for one in each]),
            torch.stack([one.kkt_residual for one in each]),
            torch.stack([one.iterations for one in each]),
            torch.stack([one.converged for one in each]),
        )
    else:
        # The lam of a signal stand one after the other, as the compiled loops want them.
        count, event = len(lam), len(problem.dictionary.signal_shape)
        x = problem.x.unsqueeze(-1 - event).expand(*signals, count, *problem.dictionary.signal_shape)
        atoms = [None if t is None else _repeated(t, len(problem.dictionary.code_shape), count) for t in
                 (problem.weights, problem.bias)]  # fmt: skip
        ridge = problem.ridge
        if isinstance(ridge, Tensor) and ridge.ndim:
            ridge = _repeated(ridge, len(problem.dictionary.code_shape), count)
        many = problem.with_parts(problem.dictionary, x, ordered.movedim(0, -1), ridge, None, *atoms)
        method = CompiledActiveSet(run=max(count, 1))
        suits = method.suits(many, None, goal)
        found = solved(many, method if suits else METHODS["auto"], goal)
        whole = _changed(found, lambda part: part.movedim(len(signals), 0))
    return _changed(whole, lambda part: part.gather(0, expand_trailing(place, part.ndim - place.ndim).expand_as(part)))


def _changed(found: Solution, change: Callable[[Tensor], Tensor]) -> Solution:
    """The solution with a change of each of its tensors."""
    code, gap, kkt, iterations, converged, _ = found
    return Solution(change(code), change(gap), change(kkt), change(iterations), change(converged))


def _solved(problem: SparseProblem, lam: Tensor, goal: Goal) -> Solution:
    parts = problem.dictionary, problem.x, lam, problem.ridge
    return solved(problem.with_parts(*parts), METHODS["auto"], goal)


def _lams(lams: Tensor | Sequence[float], problem: SparseProblem) -> Tensor:
    """The weights as a tensor (L, *signals)."""
    x, signals = problem.x, problem.batch_shape
    value = lams if isinstance(lams, Tensor) else torch.as_tensor(list(lams), dtype=x.dtype, device=x.device)
    _checks.floating_tensor("lams", value)
    _checks.same_kind("lams", value, x, "x")
    if value.ndim == 1:
        value = expand_trailing(value, len(signals)).expand(len(value), *signals)
    if tuple(value.shape[1:]) != signals or not value.ndim:
        raise ValueError(f"lams has shape {tuple(value.shape)}; (L,) or (L, *{signals}) is wanted")
    if not bool((value > 0).all()):
        raise ValueError("lams holds entries that are not above zero; numbers above zero are wanted")
    return value.detach()


def _repeated(value: Tensor, dims: int, count: int) -> Tensor:
    """Weights or a bias for `count` copies of each signal."""
    if value.ndim == dims:
        return value
    return value.unsqueeze(-1 - dims).expand(
        *value.shape[: value.ndim - dims], count, *value.shape[value.ndim - dims :]
    )
