"""Methods that propose codes. Proposals are certified, and FISTA goes on from those that fall short."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.first_order import Fista
from vars_dyn.solvers.methods import ROUNDING, Found, Goal, Method

__all__ = ["ENOUGH", "Proposal", "Proposing"]

#: A proposal to be polished is taken if its KKT residual is at most this many epsilons of |P^T x| + lam.
ENOUGH = 1e-1 * ROUNDING


class Proposal(NamedTuple):
    """What was proposed.

    Attributes:
        found: codes with their certificates.
        scale: about |P^T x| + lam of each signal; rounding is measured relative to it.
        final: whether the certificate consists of rounding, so that no other code would have a much better one; None
            where that is not known.
    """

    found: Found
    scale: Tensor
    final: Tensor | None = None


class Proposing(Method):
    """A method whose codes FISTA improves for signals that fall short of their certificates."""

    @abstractmethod
    def propose(self, problem: SparseProblem, goal: Goal) -> Proposal:
        """Codes for every signal, with certificates; `problem` is as in `Method.solve`."""

    def solve(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> Found:
        """Codes by `propose`; FISTA goes on for signals that fall short of the goal."""
        found, scale, final = self.propose(problem, goal)
        rounding = ENOUGH * torch.finfo(scale.dtype).eps if goal.polish else math.inf
        left = ~((found.relative_gap <= goal.tol) & (found.kkt_residual <= rounding * scale))
        left = left if final is None else left & ~final
        if not bool(left.any()):
            return found
        rest, index = _rest(problem, left)
        code, iterations = (
            part[index].reshape(*rest.batch_shape, *part.shape[left.ndim :]) for part in (found.code, found.iterations)
        )
        worse = ~(rest.raw_objective(code) <= rest.raw_objective(torch.zeros_like(code)))
        code = code.masked_fill(problem.per_code(worse), 0.0)
        again = Found.certified(rest, *Fista().continued(rest, code, iterations, goal))
        for part, new in zip(found, again, strict=True):
            part[index] = new.reshape(part[index].shape)
        return found


def _rest(problem: SparseProblem, left: Tensor) -> tuple[SparseProblem, tuple[Tensor, ...]]:
    """The problem of the signals `left`, and their index in `problem`.

    Where these signals are no more than there are dictionaries, each gets a copy of its own dictionary. Elsewhere all
    signals of the same elements are taken along.
    """
    index = left.nonzero(as_tuple=True)
    if len(index) == 2 and len(index[0]) <= len(left):
        dictionary = problem.dictionary.select(index[0])
        ridge = problem.ridges_of(index)
        if problem.has_own_ridges and isinstance(ridge, Tensor):
            ridge = ridge[:, None]
        dims = len(dictionary.code_shape)
        atoms = (t if t is None or t.ndim == dims else t[:, None] for t in problem.atoms_of(index))
        x, lam = problem.x[index][:, None], problem.lam[index][:, None]
        return problem.with_parts(dictionary, x, lam, ridge, None, *atoms), index
    index = (index[0].unique(),)
    return problem.select(index[0]), index
