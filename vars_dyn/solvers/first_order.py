"""First-order methods: ISTA, FISTA with restart, and the polish on the support that finishes their codes."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.dictionaries.dense import DenseDictionary
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.active_set import polish
from vars_dyn.solvers.methods import ROUNDING, Found, Goal, Method, no_steps
from vars_dyn.solvers.support_systems import gram_matrix, is_small

__all__ = ["FirstOrder", "Fista", "Ista", "Iterate", "ProximalStep", "ista_step"]

#: The relative gap at which the steps first hand over to the polish, and the factor on it each time they go on.
_HANDOVER, _TIGHTER = 1e-4, 1e-2
#: Steps after which the polish is tried before that gap is reached, four times as many each time; and how many of them
#: cost about as much as one step of the polish.
_PATIENCE, _PER_POLISH = 500, 10
#: Steps between looks at the gap.
_CHECK_EVERY = 10


def ista_step(
    problem: SparseProblem,
    a: Tensor,
    curvature: Tensor,
    descent: Tensor | None = None,
    threshold: Tensor | None = None,
) -> Tensor:
    """One step of Eq. 12 from `a`: prox(a + (P^T (x - P a) + q - ridge a) / L), with L = `curvature`.

    `curvature` is shaped to broadcast against codes.
    `descent` is P^T (x - P a), and
    `threshold` is lam w / L, where the caller has them.
    """
    if descent is None:
        descent = problem.dictionary.encode_unchecked(problem.x - problem.dictionary.decode_unchecked(a))
    descent = descent - problem.ridge_of(a) if problem.bias is None else problem.with_smooth(descent, a)
    v = a + descent / curvature
    return problem.penalty.prox(v, problem.weight / curvature if threshold is None else threshold)


class ProximalStep(NamedTuple):
    """`ista_step` on a problem, with what does not change from step to step computed once.

    Attributes:
        problem: a flat problem.
        curvature: L + ridge, shaped to broadcast against codes.
        drive: P^T x.
        gram: the Gram matrix where P^T x - G a costs less than P^T (x - P a); otherwise None.
        threshold: lam w / (L + ridge), shaped to broadcast against codes, one per signal at least.
    """

    problem: SparseProblem
    curvature: Tensor
    drive: Tensor
    gram: Tensor | None
    threshold: Tensor

    @classmethod
    def of(cls, problem: SparseProblem) -> ProximalStep:
        """The step of a flat problem."""
        dictionary = problem.dictionary
        dense = isinstance(dictionary, DenseDictionary) and dictionary.code_size <= 2 * dictionary.signal_size
        gram = gram_matrix(dictionary) if dense and is_small(dictionary) else None
        if gram is not None and not dictionary.batch_shape:
            gram = gram[0]
        curvature = _curvature(problem)
        return cls(problem, curvature, dictionary.encode(problem.x), gram, problem.weight / curvature)

    def __call__(self, a: Tensor) -> Tensor:
        """The code one step from `a`."""
        descent = None if self.gram is None else self.drive - a @ self.gram
        return ista_step(self.problem, a, self.curvature, descent, self.threshold)

    def select(self, index: Tensor) -> ProximalStep:
        """The step for the rows `index` of the problem's first dimension."""
        gram = self.gram[index] if self.gram is not None and self.problem.dictionary.batch_shape else self.gram
        own = self.curvature.ndim > len(self.problem.dictionary.code_shape)
        curvature = self.curvature[index] if own else self.curvature
        return ProximalStep(self.problem.select(index), curvature, self.drive[index], gram, self.threshold[index])


def _curvature(problem: SparseProblem) -> Tensor:
    """L + the largest ridge, shaped to broadcast against codes.

    It is one where that is zero, since every step is then zero anyway.
    """
    ridge, largest, dims = problem.ridge, problem.dictionary.lipschitz(), len(problem.dictionary.code_shape)
    if isinstance(ridge, Tensor) and ridge.ndim:
        ridge = ridge.flatten(-dims).amax(-1)[(..., *(None,) * dims)]
    largest = largest.reshape(*largest.shape, *(1,) * (1 + dims)) if largest.ndim else largest
    curvature = largest + ridge
    return torch.where(curvature > 0, curvature, 1.0)


class Iterate(NamedTuple):
    """The state of a method between two steps.

    Attributes:
        code: the codes reached.
        memory: what the method carries to its next step; each tensor begins with the problem's first dimension.
    """

    code: Tensor
    memory: tuple[Tensor, ...] = ()

    def select(self, index: Tensor) -> Iterate:
        """The rows `index` of the first dimension."""
        return Iterate(self.code[index], tuple(part[index] for part in self.memory))


class FirstOrder(Method):
    """Takes steps until the gap is reached, then polishes on the support, and repeats both where that is not enough.

    A subclass defines one step for all signals at once; it may define where the steps start.
    """

    @abstractmethod
    def step(self, iterate: Iterate, proximal: ProximalStep) -> Iterate:
        """The iterate after one more step."""

    def begin(self, problem: SparseProblem, code: Tensor) -> Iterate:
        """The iterate that the first step from `code` is taken from."""
        return Iterate(code)

    def first_code(self, problem: SparseProblem) -> Tensor:
        """Where the steps start unless the caller says where."""
        return problem.x.new_zeros(*problem.batch_shape, *problem.dictionary.code_shape)

    def solve(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> Found:
        """Codes for every signal, from `start` or the method's own first code."""
        code = self.first_code(problem) if start is None else start.clone()
        code = code if problem.penalty.outside(code) is None else problem.penalty.prox(code, 0.0)
        code = code if problem.weights is None else code.masked_fill(problem.weights.isinf(), 0.0)
        return Found.certified(problem, *self.continued(problem, code, no_steps(problem), goal))

    def continued(self, problem: SparseProblem, code: Tensor, iterations: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """The codes and the steps taken in all, going on from `code` after `iterations` steps."""
        if not goal.polish:
            return self._iterated(problem, code, iterations, goal)
        eps, scale = torch.finfo(code.dtype).eps, problem.size_of_descent()
        handover, patience = max(goal.tol, _HANDOVER), _PATIENCE
        out, out_iterations = code.clone(), iterations.clone()
        rows = torch.arange(len(code), device=code.device)
        while True:
            limit = min(goal.max_iterations, int(iterations.max()) + patience)
            code, iterations = self._iterated(problem, code, iterations, Goal(handover, limit, True))
            # Steps are slow where the problem is ill-conditioned, and a polish is not. From far away it may be long.
            late = bool((iterations >= limit).any()) and limit < goal.max_iterations
            code = polish(problem, code, max_steps=patience // _PER_POLISH if late else None)
            gap, kkt = problem.certificate(code)
            out[rows], out_iterations[rows] = code, iterations
            unfinished = (gap > goal.tol) | (kkt > ROUNDING * eps * scale)
            # Where the KKT residual is no more than its own rounding, no code has a smaller gap.
            unfinished &= (kkt > 2 * problem.rounding(code)) & (iterations < goal.max_iterations)
            going = unfinished.reshape(len(rows), -1).any(-1).nonzero().squeeze(-1)
            if not len(going) or handover <= eps:
                return out, out_iterations
            if late:
                patience *= 4
            else:
                handover = max(handover * _TIGHTER, eps)
            if len(going) < len(rows):
                rows, code, iterations, scale = (t[going] for t in (rows, code, iterations, scale))
                problem = problem.select(going)

    def _iterated(self, problem: SparseProblem, code: Tensor, iterations: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """Takes steps, without a polish, until every signal has reached the goal's gap or used up its steps."""
        out, out_iterations = code.clone(), iterations.clone()
        rows = torch.arange(len(code), device=code.device)
        proximal, iterate = ProximalStep.of(problem), self.begin(problem, code)
        # Rounding keeps the gap from falling below this.
        tol = max(goal.tol, 100 * torch.finfo(code.dtype).eps)
        while True:
            # The signals of an element with its own dictionary go on together until the last of them is done.
            busy = ~_reached(proximal.problem, iterate.code, tol) & (iterations < goal.max_iterations)
            keep = busy.reshape(len(busy), -1).any(-1)
            out[rows], out_iterations[rows] = iterate.code, iterations
            if not bool(keep.any()):
                return out, out_iterations
            if not bool(keep.all()):
                index = keep.nonzero().squeeze(-1)
                rows, iterations = rows[index], iterations[index]
                iterate, proximal = iterate.select(index), proximal.select(index)
            steps = min(_CHECK_EVERY, max(goal.max_iterations - int(iterations.max()), 1))
            for _ in range(steps):
                iterate = self.step(iterate, proximal)
            iterations = iterations + steps


class Ista(FirstOrder):
    """The paper's method: Eq. 12 with step 1/L, from P^T x."""

    def first_code(self, problem: SparseProblem) -> Tensor:
        """P^T x."""
        return problem.dictionary.encode(problem.x)

    def step(self, iterate: Iterate, proximal: ProximalStep) -> Iterate:
        """One step of Eq. 12."""
        return Iterate(proximal(iterate.code))


class Fista(FirstOrder):
    """Eq. 12 from a point ahead of the code (Beck and Teboulle 2009), starting at zero.

    Where the momentum of a signal points uphill it is reset (O'Donoghue and Candes 2015).
    """

    def begin(self, problem: SparseProblem, code: Tensor) -> Iterate:
        """The point ahead is the code itself, and the momentum is one."""
        return Iterate(code, (code, torch.ones_like(problem.lam)))

    def step(self, iterate: Iterate, proximal: ProximalStep) -> Iterate:
        """One step from the point ahead, and the next point ahead."""
        problem, (ahead, momentum) = proximal.problem, iterate.memory
        new = proximal(ahead)
        uphill = problem.sum_code((ahead - new) * (new - iterate.code)) > 0
        momentum = torch.where(uphill, 1.0, momentum)
        following = 0.5 * (1 + torch.sqrt(1 + 4 * momentum.square()))
        weight = torch.where(uphill, 0.0, (momentum - 1) / following)
        return Iterate(new, (new + problem.per_code(weight) * (new - iterate.code), following))


def _reached(problem: SparseProblem, a: Tensor, tol: float) -> Tensor:
    """Where the relative gap is within `tol` with rounding included, or within half of it as computed."""
    gap = problem.raw_relative_gap(a, problem.residuals(a))
    near = gap <= 0.5 * tol
    open_rows = ((gap <= tol) & ~near).reshape(len(gap), -1).any(-1).nonzero().squeeze(-1)
    if len(open_rows):
        near[open_rows] |= problem.select(open_rows).relative_gap(a[open_rows]) <= tol
    return near
