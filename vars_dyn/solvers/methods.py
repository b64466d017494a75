"""The contract of the methods of `vars_dyn.solve`: what they are asked for, and what they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.problems import SparseProblem

__all__ = ["ROUNDING", "Found", "Goal", "Method", "no_steps"]

#: A KKT residual of up to this many epsilons of |P^T x| + lam counts as rounding.
ROUNDING = 1e5


class Goal(NamedTuple):
    """What a caller of `solve` wants.

    Attributes:
        tol: the relative gap to reach.
        max_iterations: the largest number of first-order steps per signal.
        polish: whether to finish codes by solving on their supports, to rounding.
    """

    tol: float
    max_iterations: int
    polish: bool


class Found(NamedTuple):
    """Codes with their certificates, and the steps that they took; all but `code` have one value per signal.

    Attributes:
        code: a, of the shape of codes.
        relative_gap, kkt_residual: as `SparseProblem.certificate` computes them from the code.
        iterations: first-order steps taken.
    """

    code: Tensor
    relative_gap: Tensor
    kkt_residual: Tensor
    iterations: Tensor

    @classmethod
    def certified(cls, problem: SparseProblem, code: Tensor, iterations: Tensor) -> Found:
        """The codes, with certificates computed from them."""
        return cls(code, *problem.certificate(code), iterations)


class Method(ABC):
    """A method that finds a problem's codes; `vars_dyn.solvers.solve.METHODS` lists the methods by name."""

    def suits(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> bool:
        """Whether this method can solve the problem; FISTA takes over where it cannot."""
        return True

    def at_once(self, problem: SparseProblem, goal: Goal) -> Found | None:
        """Codes for a problem as the caller gives it, of any shape and units, if there is a shorter way to the goal.

        None where there is none, or where it falls short; `solve` is then called.
        """
        return None

    @abstractmethod
    def solve(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> Found:
        """Codes for every signal, as close to the goal as the method comes.

        `problem` is flat (`SparseProblem.flat`), has at least one signal, is detached from the autograd graph, and its
        numbers neither overflow nor underflow. `start` has the shape of its codes.
        """


def no_steps(problem: SparseProblem) -> Tensor:
    """A count of zero for every signal."""
    return torch.zeros(problem.batch_shape, dtype=torch.long, device=problem.x.device)
