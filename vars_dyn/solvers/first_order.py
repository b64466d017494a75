"""First-order methods: ISTA, FISTA with restart, and the polish on the support that finishes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.dictionaries.dense import DenseDictionary
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.active_set import polish as polish_code
from vars_dyn.solvers.support_systems import gram_matrix, is_small
from vars_dyn.thresholds import nonnegative_threshold, soft_threshold

__all__ = ["ROUNDING", "ista_step", "solve_flat", "start_code"]

#: The relative gap at which iterating first hands over to the polish, and by how much less each time it comes back.
_HANDOVER, _TIGHTER = 1e-4, 1e-2
#: A KKT residual is rounding up to this many roundings of |P^T x| + lam.
ROUNDING = 1e5


def start_code(problem: SparseProblem, method: str, start: Tensor | None) -> Tensor:
    lead, event = problem.batch_shape, problem.dictionary.code_shape
    if start is not None:
        a = start.clone()
    else:
        a = problem.dictionary.encode(problem.x) if method == "ista" else problem.x.new_zeros(*lead, *event)
    return a.clamp(min=0) if problem.nonnegative else a


def solve_flat(
    problem: SparseProblem, a: Tensor, iterations: Tensor, method: str, tol: float, max_iterations: int, polish: bool
) -> tuple[Tensor, Tensor]:
    """The plain way: steps from `a`, `iterations` having been taken, and a polish; again while it falls short."""
    if not polish:
        return _iterate(problem, a, iterations, method, tol, max_iterations)
    eps = torch.finfo(a.dtype).eps
    scale = problem.critical_lam() + problem.lam
    handover = max(tol, _HANDOVER)
    while True:
        a, iterations = _iterate(problem, a, iterations, method, handover, max_iterations)
        a = polish_code(problem, a)
        gap, kkt = problem.certificate(a)
        unfinished = (gap > tol) | (kkt > ROUNDING * eps * scale)
        if not bool((unfinished & (iterations < max_iterations)).any()) or handover <= eps:
            return a, iterations
        handover = max(handover * _TIGHTER, eps)


def ista_step(problem: SparseProblem, a: Tensor, largest: Tensor, descent: Tensor | None = None) -> Tensor:
    """One step of Eq. 12 from `a`: prox(a + (P^T (x - P a) - ridge a) / L), with L = `largest` shaped to broadcast.

    `descent` is P^T (x - P a), where the caller has it.
    """
    if descent is None:
        descent = problem.dictionary._encode(problem.x - problem.dictionary._decode(a))
    v = a + (descent - problem.ridge_of(a)) / largest
    threshold = problem.per_code(problem.lam) / largest
    return nonnegative_threshold(v, threshold) if problem.nonnegative else soft_threshold(v, threshold)


class _Descent(NamedTuple):
    """P^T (x - P a) as b - G a, where the Gram matrix is the cheaper way; otherwise by P and P^T."""

    gram: Tensor | None
    drive: Tensor

    @classmethod
    def of(cls, problem: SparseProblem) -> _Descent:
        dictionary = problem.dictionary
        dense = isinstance(dictionary, DenseDictionary) and dictionary.code_size <= 2 * dictionary.signal_size
        gram = gram_matrix(dictionary) if dense and is_small(dictionary) else None
        if gram is not None and not dictionary.batch_shape:
            gram = gram[0]
        return cls(gram, dictionary.encode(problem.x))

    def __call__(self, problem: SparseProblem, a: Tensor) -> Tensor:
        if self.gram is None:
            return problem.dictionary._encode(problem.x - problem.dictionary._decode(a))
        return self.drive - a @ self.gram

    def select(self, problem: SparseProblem, index: Tensor) -> _Descent:
        gram = self.gram[index] if self.gram is not None and problem.dictionary.batch_shape else self.gram
        return _Descent(gram, self.drive[index])


def curvature(problem: SparseProblem) -> Tensor:
    """L + ridge, shaped to broadcast against codes; one where it is zero (then every code is at its gradient's
    rest).
    """
    ridge = problem.ridge
    if isinstance(ridge, Tensor) and ridge.ndim:
        ridge = ridge.flatten(len(problem.dictionary.batch_shape)).amax(-1)
    largest = problem.dictionary.lipschitz() + ridge
    largest = torch.where(largest > 0, largest, 1.0)
    return (
        largest.reshape(*largest.shape, *(1,) * (1 + len(problem.dictionary.code_shape))) if largest.ndim else largest
    )


def _reached(problem: SparseProblem, a: Tensor, tol: float) -> Tensor:
    """Where the relative gap is within `tol` with rounding included, or within half of it as computed."""
    gap = problem._relative_gap(a, problem._residuals(a))
    near = gap <= 0.5 * tol
    open_rows = ((gap <= tol) & ~near).reshape(len(gap), -1).any(-1).nonzero().squeeze(-1)
    if len(open_rows):
        near[open_rows] |= problem.select(open_rows).relative_gap(a[open_rows]) <= tol
    return near


def _iterate(
    problem: SparseProblem,
    a: Tensor,
    iterations: Tensor,
    method: str,
    tol: float,
    max_iterations: int,
    check_every: int = 10,
) -> tuple[Tensor, Tensor]:
    """First-order steps until every signal's relative gap is within tol or its steps are used up."""
    out, out_iterations = a.clone(), iterations.clone()
    rows = torch.arange(len(a), device=a.device)
    largest = curvature(problem)
    descent = _Descent.of(problem)
    y, momentum = a, torch.ones_like(problem.lam)
    # Below this, rounding keeps the gap from falling.
    tol = max(tol, 100 * torch.finfo(a.dtype).eps)
    while True:
        # Of an element with its own dictionary all signals go on until the last is done.
        busy = ~_reached(problem, a, tol) & (iterations < max_iterations)
        keep = busy.reshape(len(busy), -1).any(-1)
        out[rows], out_iterations[rows] = a, iterations
        if not bool(keep.any()):
            return out, out_iterations
        if not bool(keep.all()):
            index = keep.nonzero().squeeze(-1)
            rows, a, y, momentum, iterations = (t[index] for t in (rows, a, y, momentum, iterations))
            descent = descent.select(problem, index)
            problem = problem.select(index)
            largest = largest[index] if largest.ndim else largest
        steps = min(check_every, max(max_iterations - int(iterations.max()), 1))
        for _ in range(steps):
            new = ista_step(problem, y, largest, descent(problem, y))
            if method == "ista":
                y = a = new
                continue
            uphill = problem.sum_code((y - new) * (new - a)) > 0
            momentum = torch.where(uphill, 1.0, momentum)
            following = 0.5 * (1 + torch.sqrt(1 + 4 * momentum.square()))
            weight = torch.where(uphill, 0.0, (momentum - 1) / following)
            y = new + problem.per_code(weight) * (new - a)
            a, momentum = new, following
        iterations = iterations + steps
