"""Mixed precision: a code's support found in single precision, its values refined in the problem's own precision.

For a given support and signs a sparse problem is a linear system. Most of the time goes into finding the support, and
seven digits are enough for that. The result is a proposal: `SparseProblem` certifies it, and FISTA goes on from it
where the certificate falls short.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.batched_supports import SettledSupports, Supports, Systems, padded, settle
from vars_dyn.solvers.methods import Found, Goal
from vars_dyn.solvers.proposals import Proposal, Proposing
from vars_dyn.solvers.single_precision import Admm, SinglePrecision
from vars_dyn.solvers.support_systems import is_small

__all__ = ["Grown", "MixedPrecision", "approach", "suits"]

#: Gram matrices of up to this many atoms are factored.
_ATOMS = 1024
#: ADMM steps before the supports are tried, for one shared dictionary and for one per element.
_BURST, _SHORT_BURST = 50, 25
#: The most bursts of ADMM.
_BURSTS = 8
#: The least rho of ADMM over the mean of the Gram matrix's diagonal, for one shared dictionary and for one per element.
#: The latter takes few steps, and they do more with a larger rho.
_LEAST_RHO, _LEAST_OWN_RHO = 0.05, 0.2
#: Conditions that fail by at most this many epsilons of |P^T x| + lam hold to rounding.
_ROUNDING = 2e3
#: How many numbers of signals and codes are worked on at once, so that they stay in a processor's cache.
_CHUNK = 1 << 18
#: The most numbers in systems that are factored at once.
_SYSTEMS = 1 << 26


class MixedPrecision(Proposing):
    """ADMM in single precision (Boyd et al. 2011), its codes refined on their supports in the problem's own precision.

    FISTA goes on from there for signals that fall short of their certificates.
    """

    #: Whether an active set is grown from nothing before ADMM.
    grow = False

    def suits(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> bool:
        """True where no start is given and the function `suits` is true of the problem."""
        return start is None and suits(problem)

    def propose(self, problem: SparseProblem, goal: Goal) -> Proposal:
        """Codes by `approach`."""
        return approach(problem, None if goal.polish else goal.tol, goal.max_iterations, self.grow)


class Grown(MixedPrecision):
    """`MixedPrecision` after an active set that is grown from nothing, for codes that are to be polished."""

    grow = True

    def suits(self, problem: SparseProblem, start: Tensor | None, goal: Goal) -> bool:
        """True where codes are to be polished and mixed precision suits."""
        return goal.polish and super().suits(problem, start, goal)


def suits(problem: SparseProblem) -> bool:
    """Whether mixed precision can be tried on a problem.

    It needs a Gram matrix that is small enough to factor, and a penalty on every signal. It also needs double
    precision: a problem in single precision gains nothing from it.
    """
    dictionary = problem.dictionary
    small = is_small(dictionary) and dictionary.code_size <= _ATOMS
    if problem.penalty.tensors():
        return False  # the atoms' weights would have to be gathered on the supports
    return small and problem.x.dtype == torch.float64 and bool((problem.lam > 0).all())


def approach(problem: SparseProblem, tol: float | None, max_iterations: int, grow: bool = True) -> Proposal:
    """A proposal for every signal of a `flat` problem.

    `tol` is the relative gap at which refinement may stop; with None it goes on to rounding. `grow` tries the active
    set from nothing before ADMM, where all signals share one dictionary.
    """
    if problem.dictionary.batch_shape:
        signals = problem.batch_shape[1] * (problem.dictionary.signal_size + problem.dictionary.code_size)
        rows, solve = max(1, _CHUNK // signals), partial(_own)
    else:
        rows, solve = max(1, _SYSTEMS // _widest(problem) ** 2), partial(_shared, grow=grow)
    if rows >= len(problem.x):
        return solve(problem, tol, max_iterations)
    pieces = torch.arange(len(problem.x), device=problem.x.device).split(rows)
    found = [solve(problem.select(index), tol, max_iterations) for index in pieces]
    joined = Found(*(torch.cat(parts) for parts in zip(*(one.found for one in found), strict=True)))
    return Proposal(joined, torch.cat([one.scale for one in found]))


def _widest(problem: SparseProblem) -> int:
    """The largest support that is tried; without a ridge no support is much larger than a signal."""
    d, atoms = problem.dictionary.signal_size, problem.dictionary.code_size
    return atoms if isinstance(problem.ridge, Tensor) or problem.ridge else min(atoms, d + d // 4 + 1)


def _shared(problem: SparseProblem, tol: float | None, max_iterations: int, *, grow: bool) -> Proposal:
    """The proposal where all signals share one dictionary: supports, and the codes refined on them."""
    single = SinglePrecision.of(problem)
    gram, drive = padded(single.gram[0]), padded(single.drive[0], rows=False)
    supports, iterations = _supports(problem, single, gram, drive, max_iterations, grow)
    conditions = _OnSupports(problem, single, gram, supports.compact())
    return _refined(problem, conditions, conditions.first_code(drive), tol, iterations)


def _supports(
    problem: SparseProblem, single: SinglePrecision, gram: Tensor, drive: Tensor, max_iterations: int, grow: bool
) -> tuple[Supports, Tensor]:
    """The supports of codes, by an active set grown from nothing and by ADMM, and the steps that each signal took.

    `gram` and `drive` are the `padded` Gram matrix and P^T x.
    """
    lam, ridge = _padded_lam(single), _padded_ridge(single)
    left = (single.share()[0] < 1).squeeze(-1).nonzero().squeeze(-1)
    supports = Supports.empty(len(drive), len(gram) - 1, drive)
    iterations = torch.zeros(len(drive), dtype=torch.long, device=drive.device)

    def settled_from(start: Supports, limit: int, widest: int) -> SettledSupports:
        own = None if ridge is None else ridge[left]
        return settle(gram, drive[left], lam[left], start, problem.penalty, limit, widest, own)

    if grow and len(left):
        settled = settled_from(supports.select(left), min(12, max_iterations), problem.dictionary.signal_size // 3)
        iterations[left] = settled.steps
        supports, left = supports.put(left, settled.supports), left[settled.left]
    if len(left):
        admm = Admm(single, _LEAST_RHO)
        admm.keep(left)
        for _ in range(_BURSTS):
            steps = min(_BURST, max_iterations - int(iterations.max()))
            if steps <= 0 or not len(left):
                break
            admm.run(steps)
            iterations[left] += steps
            settled = settled_from(Supports.of(admm.code()[0].sign()), 2, _widest(problem))
            supports, left = supports.put(left, settled.supports), left[settled.left]
            admm.keep(settled.left)
    return supports, iterations


def _padded_lam(single: SinglePrecision) -> Tensor:
    """lam of the one element; with one more column where every atom has its own."""
    lam = single.lam[0]
    return lam if lam.shape[1] == 1 else F.pad(lam, (0, 1), value=1.0)


def _padded_ridge(single: SinglePrecision) -> Tensor | None:
    """The ridges of the one element's signals, as `_padded_lam`; None where all share one."""
    if single.ridge is None:
        return None
    return single.ridge[0] if single.ridge.shape[-1] == 1 else padded(single.ridge[0], rows=False)


class _OnSupports:
    """The conditions on given supports, in the problem's own precision, and their systems in single precision."""

    def __init__(self, problem: SparseProblem, single: SinglePrecision, gram: Tensor, supports: Supports) -> None:
        self.problem, self.single, self.supports = problem, single, supports
        self.systems = Systems(gram, supports, _padded_ridge(single))
        self.index = supports.atoms.clamp(max=supports.padding - 1)
        self.sign = supports.sign.to(problem.x.dtype)
        weight = problem.lam[:, None]
        if problem.weights is not None:
            whole = problem.weight.expand(problem.batch_shape + problem.dictionary.code_shape)
            weight = whole.reshape(len(whole), -1).gather(1, self.index)
        self.pull = problem.penalty.slope(self.sign, weight)

    def first_code(self, drive: Tensor) -> Tensor:
        """The codes that solve the systems, to single precision; `drive` is the `padded` P^T x."""
        single, supports = self.single, self.supports
        code = self.problem.x.new_zeros(len(self.index), *self.problem.dictionary.code_shape)
        missing = supports.gather(drive) - single.penalty.slope(supports.sign, supports.own(_padded_lam(single)))
        return self.correct(code, missing * single.descent_scale[0])

    def miss(self, c: Tensor) -> Tensor:
        """How much the conditions on the supports fail, for c = P^T (x - P a) - ridge a."""
        return (c.reshape(len(self.index), -1).gather(1, self.index) * self.sign.abs()).sub_(self.pull)

    def correct(self, code: Tensor, miss: Tensor) -> Tensor:
        """Correct `code`, whose conditions fail by `miss`, in place; returns it."""
        by = self.systems.solve((miss / self.single.descent_scale[0]).float()) * self.single.scale[0]
        code.view(len(self.index), -1).scatter_add_(1, self.index, by * self.sign.abs())
        return code


def _refined(
    problem: SparseProblem, conditions: _OnSupports, code: Tensor, tol: float | None, iterations: Tensor
) -> Proposal:
    """The codes with certificates, corrected for as long as each correction makes the conditions fail by far less."""
    scale = conditions.single.rounding_scale(problem)
    rounding = _ROUNDING * torch.finfo(code.dtype).eps
    last = math.inf
    while True:
        residuals = problem.residuals(code)
        failing = conditions.miss(residuals.code)
        worst = float((failing.abs().amax(-1) / scale).max())
        if worst <= rounding or not worst < 0.3 * last:
            break
        if tol is not None and bool((problem.certify(code, residuals).relative_gap <= tol).all()):
            break
        last, code = worst, conditions.correct(code, failing)
    _, gap, kkt, _ = problem.certify(code, residuals)
    return Proposal(Found(code, gap, kkt, iterations), scale)


def _own(problem: SparseProblem, tol: float | None, max_iterations: int) -> Proposal:
    """The proposal where every element has its own dictionary: ADMM, and conjugate gradients on the supports.

    An element is done when its signals' conditions on the supports hold, or when all its gaps are within `tol`.
    """
    single = SinglePrecision.of(problem)
    admm, steps = Admm(single, _LEAST_OWN_RHO), min(_SHORT_BURST, max_iterations)
    admm.run(steps)
    a = admm.code()
    a += single.correction(a, single.drive - single.pulled(a) - single.penalty.slope(a.sign(), single.lam))
    shape, scale = problem.dictionary.code_shape, single.rounding_scale(problem)
    code = (a * single.scale).reshape(*problem.batch_shape, *shape)
    gap, kkt = torch.empty_like(scale), torch.empty_like(scale)
    rows, last = torch.arange(len(code), device=code.device), torch.full_like(scale[:, 0], math.inf)
    while len(rows):
        some = problem if len(rows) == len(code) else problem.select(rows)
        residuals = some.residuals(code[rows])
        _, gap[rows], kkt[rows], _ = some.certify(code[rows], residuals)
        own, c = single.select(rows), residuals.code.reshape(len(rows), *a.shape[1:])
        a = code[rows].reshape(c.shape)
        # In double precision, because in single precision the difference of c and lam would be rounding.
        weight = some.lam[..., None]
        if some.weights is not None:
            weight = some.weight.expand(some.batch_shape + shape).reshape(c.shape)
        missing = (c - some.penalty.slope(a.sign(), weight)).masked_fill_(a == 0, 0.0)
        failing = missing.abs().amax(-1)
        wanting = failing > _ROUNDING * torch.finfo(code.dtype).eps * scale[rows]
        wanting = wanting if tol is None else wanting & (gap[rows] > tol)
        worst = failing.amax(-1)
        going = (wanting.any(-1) & (worst < 0.3 * last)).nonzero().squeeze(-1)
        rows, last, own, a, missing = rows[going], worst[going], own.select(going), a[going], missing[going]
        by = own.correction(a, (missing / own.descent_scale).float()) * own.scale
        code[rows] += by.reshape(len(rows), *code.shape[1:])
    iterations = torch.full(problem.batch_shape, steps, dtype=torch.long, device=code.device)
    return Proposal(Found(code, gap, kkt, iterations), scale)
