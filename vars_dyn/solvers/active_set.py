"""The active-set descent that polishes a code to the argmin it is close to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.support_systems import free, gram_matrix, is_small, support_system

__all__ = ["polish"]

#: The most numbers in a batch of systems that are factored together.
_CHUNK = 1 << 26


def polish(problem: SparseProblem, a: Tensor, *, max_steps: int | None = None) -> Tensor:
    """The argmin near the code `a`, to rounding, by active-set Newton steps along which E never rises.

    For a fixed support and signs the problem is quadratic, and each step goes to the minimum of that quadratic. Entries
    that would change their sign leave the support: all at once if E falls, otherwise the step ends where the first of
    them reaches zero. At a minimum on the support, the entry that violates its optimality condition most joins
    (feature-sign search; Lee, Battle, Raina and Ng, NIPS 2006). Signals that are done leave the batch. `a` and
    `problem` are flat; returns a code of the shape of `a`.
    """
    with torch.no_grad():
        small = is_small(problem.dictionary)
        gram = gram_matrix(problem.dictionary) if small else None
        # A support seldom outgrows the signal's dimension, so a row's systems seldom outgrow this.
        width = min(problem.dictionary.signal_size, problem.dictionary.code_size)
        rows = max(1, _CHUNK // (width**2 * max(math.prod(problem.batch_shape[1:]), 1))) if small else len(a)
        pieces = [a]
        for start in range(0, len(a), max(rows, 1)):
            index = torch.arange(start, min(start + rows, len(a)), device=a.device)
            own = gram[index] if gram is not None and problem.dictionary.batch_shape else gram
            pieces.append(_polish(problem.select(index), a[index], own, max_steps))
        return torch.cat(pieces[1:] or pieces)


def _polish(problem: SparseProblem, a: Tensor, gram: Tensor | None, max_steps: int | None) -> Tensor:
    eps = torch.finfo(a.dtype).eps
    limit = 4 * problem.dictionary.code_size + 20 if max_steps is None else max_steps
    scale = problem.size_of_descent()
    out = a.clone()
    rows = torch.arange(len(a), device=a.device)
    best = torch.full_like(problem.lam, math.inf)
    waited = torch.zeros_like(problem.lam, dtype=torch.long)
    for _ in range(limit):
        residuals = problem.residuals(a)
        c, kkt = residuals.code, problem.raw_kkt(a, residuals)
        better = kkt < best
        out[rows] = torch.where(problem.per_code(better), a, out[rows])
        waited = torch.where(kkt < 0.5 * best, 0, waited + 1)
        best = torch.minimum(kkt, best)
        # Near rounding E cannot rank the steps any more, so a few steps without progress end the search.
        done = (best <= 4 * eps * scale) | ((best <= 1e5 * eps * scale) & (waited > 3))
        rows_done = done.reshape(len(done), -1).all(-1)
        if bool(rows_done.any()):
            keep = (~rows_done).nonzero().squeeze(-1)
            if not len(keep):
                break
            rows, a, c, best, waited, scale = (t[keep] for t in (rows, a, c, best, waited, scale))
            problem = problem.select(keep)
            gram = gram[keep] if gram is not None and problem.dictionary.batch_shape else gram
        a = _step(problem, a, c, scale, gram)
    return out


def _step(problem: SparseProblem, a: Tensor, c: Tensor, scale: Tensor, gram: Tensor | None) -> Tensor:
    """One Newton step on the support; the worst violator joins first where the code is at the support's minimum."""
    eps = torch.finfo(a.dtype).eps
    lam = problem.weight
    sign = a.sign()
    within = problem.max_code(torch.where(sign != 0, (c - problem.penalty.slope(sign, lam)).abs(), 0.0))
    violation = torch.where(sign == 0, problem.penalty.excess(c, lam), -math.inf)
    worst = problem.max_code(violation)
    # An entry joins once the conditions on the support hold, or fail by far less than its own condition.
    join = (worst > 4 * eps * scale) & (within <= torch.maximum(16 * eps * scale, 1e-3 * worst))
    joins = problem.per_code(join) & (violation == problem.per_code(worst))
    sign = torch.where(joins, c.sign(), sign)
    unbound = free(problem)
    support = (sign != 0) | unbound
    direction = support_system(problem, support, gram).solve(
        torch.where(support, c - problem.penalty.slope(sign, lam), 0.0)
    )
    # A newcomer that the rounded system would send the wrong way stays out.
    direction = torch.where((a == 0) & (direction * sign < 0) & ~unbound, 0.0, direction)
    crossing = (a != 0) & (sign * (a + direction) < 0) & ~unbound
    full = torch.where(crossing, 0.0, a + direction)
    ratio = torch.where(crossing, -a / torch.where(crossing, direction, 1.0), math.inf)
    first = -problem.max_code(-ratio)
    part = a + problem.per_code(first.clamp(max=1.0)) * direction
    part = torch.where(crossing & (ratio <= problem.per_code(first)), 0.0, part)
    falls = problem.raw_objective(full) <= problem.raw_objective(a)
    return torch.where(problem.per_code(torch.isinf(first) | falls), full, part)
