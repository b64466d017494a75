"""Problems to certified solutions: ISTA, FISTA with restart, and a polish on the support."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._compile import uncompiled
from vars_dyn.active_set import gram_matrix, is_small
from vars_dyn.active_set import polish as polish_code
from vars_dyn.dictionaries.dense import DenseDictionary
from vars_dyn.problems import SparseProblem
from vars_dyn.thresholds import nonnegative_threshold, soft_threshold

__all__ = ["METHODS", "Solution", "ista_step", "solve"]

METHODS = ("ista", "fista")
#: The relative gap at which iterating first hands over to the polish, and by how much less each time it comes back.
_HANDOVER, _TIGHTER = 1e-4, 1e-2


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
    method: str = "fista",
    tol: float = 1e-8,
    max_iterations: int = 100_000,
    start: Tensor | None = None,
    polish: bool = True,
) -> Solution:
    """Solve a sparse problem for every signal and certify the result.

    Args:
        problem: the problem; its tensors' dtype is used throughout (float64 where a tight certificate is wanted).
        method: "fista" (Beck and Teboulle 2009, restarted per signal where momentum points uphill, O'Donoghue and
            Candes 2015), or "ista" (Eq. 12 with step 1/L), slower, for comparison with the paper.
        tol: the relative gap to reach.
        max_iterations: first-order steps at most, per signal.
        start: codes to start from; by default P^T x for ISTA, the paper's start, and zero for FISTA.
        polish: whether to finish by solving on the support, to machine precision. Without it the code is the method's
            own iterate, at tol.

    Signals whose gap is reached leave the batch. Returns a `Solution`; a signal that did not get there has `converged`
    False. The result is not differentiable: `vars_dyn.equilibrium` is. Raises ValueError for an unknown method, a
    tolerance or a count that is not above zero, or a start of another shape.
    """
    _checks.choice("method", method, METHODS)
    _checks.number("tol", tol, positive=True)
    _checks.count("max_iterations", max_iterations)
    code_shape = (*problem.batch_shape, *problem.dictionary.code_shape)
    if start is not None:
        _checks.floating_tensor("start", start)
        _checks.same_kind("start", start, problem.x, "x")
        if tuple(start.shape) != code_shape:
            raise ValueError(f"start has shape {tuple(start.shape)}; {code_shape} is wanted")
    _checks.full_precision("x", problem.x)
    with torch.no_grad(), torch.autocast(problem.x.device.type, enabled=False):
        flat = problem.detach().flat()
        lead = flat.batch_shape
        if start is not None:
            a = start.detach().reshape(*lead, *problem.dictionary.code_shape).clone()
        else:
            a = (
                flat.dictionary.encode(flat.x)
                if method == "ista"
                else flat.x.new_zeros(*lead, *problem.dictionary.code_shape)
            )
        if flat.nonnegative:
            a = a.clamp(min=0)
        iterations = torch.zeros(lead, dtype=torch.long, device=a.device)
        if math.prod(lead):
            a, iterations = _solve_flat(flat, a, method, tol, max_iterations, polish)
        gap, kkt = flat.certificate(a)
        gap, kkt, iterations = (part.reshape(problem.batch_shape) for part in (gap, kkt, iterations))
        return Solution(a.reshape(code_shape), gap, kkt, iterations, gap <= tol)


def _solve_flat(
    problem: SparseProblem, a: Tensor, method: str, tol: float, max_iterations: int, polish: bool
) -> tuple[Tensor, Tensor]:
    iterations = torch.zeros(problem.batch_shape, dtype=torch.long, device=a.device)
    if not polish:
        return _iterate(problem, a, iterations, method, tol, max_iterations)
    eps = torch.finfo(a.dtype).eps
    scale = problem.critical_lam() + problem.lam
    handover = max(tol, _HANDOVER)
    while True:
        a, iterations = _iterate(problem, a, iterations, method, handover, max_iterations)
        a = polish_code(problem, a)
        gap, kkt = problem.certificate(a)
        unfinished = (gap > tol) | (kkt > 1e5 * eps * scale)
        if not bool((unfinished & (iterations < max_iterations)).any()) or handover <= eps:
            return a, iterations
        handover = max(handover * _TIGHTER, eps)


def ista_step(problem: SparseProblem, a: Tensor, largest: Tensor, descent: Tensor | None = None) -> Tensor:
    """One step of Eq. 12 from `a`: prox(a + (P^T (x - P a) - ridge a) / L), with L = `largest` shaped to broadcast.

    `descent` is P^T (x - P a), where the caller has it.
    """
    if descent is None:
        descent = problem.dictionary._encode(problem.x - problem.dictionary._decode(a))
    v = a + (descent - problem.ridge * a) / largest
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
    largest = problem.dictionary.lipschitz() + problem.ridge
    largest = torch.where(largest > 0, largest, 1.0)
    return (
        largest.reshape(*largest.shape, *(1,) * (1 + len(problem.dictionary.code_shape))) if largest.ndim else largest
    )


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
        busy = (problem.relative_gap(a) > tol) & (iterations < max_iterations)
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
