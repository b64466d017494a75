"""The implicit gradient of a problem's solution: one linear system on the support, and no trajectory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.integration.gradients.first_order import once_only
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.solve import Solution
from vars_dyn.solvers.support_systems import SupportSystem, free, support_system

__all__ = ["WHAT", "Differentiability", "differentiability", "unproven_supports", "with_gradient"]

#: What the errors call it.
WHAT = 'The implicit gradient of an equilibrium (gradient="implicit")'


def unproven_supports(problem: SparseProblem, solution: Solution) -> Tensor:
    """Where the KKT residual is more than rounding leaves (as `solve` judges it)."""
    with torch.no_grad():
        scale = problem.critical_lam() + problem.lam
        rounding = problem.rounding(solution.code.detach())
    return solution.kkt_residual > 1e5 * torch.finfo(scale.dtype).eps * scale + rounding


def with_gradient(problem: SparseProblem, code: Tensor) -> tuple[Tensor, int]:
    """`code`, differentiable: on the support A, (G_A + ridge I) da_A = d(P_A^T (x - P a) - ridge a_A - lam sgn a_A).

    Second, the number of signals for which that system is singular.
    """
    flat, own = problem.flat().normalised()
    a = own.code(code.reshape(*flat.batch_shape, *flat.dictionary.code_shape))
    support = _support(flat, a)
    with torch.no_grad():
        system = support_system(flat.detach(), support)
        dependent = int(system.singular().sum())
    descent = flat._residuals(a).code
    residual = torch.where(support, descent - flat.per_code(flat.lam) * a.sign(), 0.0)
    return own.code(_OnSupport.apply(residual, a, system), back=True).reshape(code.shape), dependent


def _support(problem: SparseProblem, a: Tensor) -> Tensor:
    return (a != 0) | problem.per_code(free(problem))


class _OnSupport(torch.autograd.Function):
    """The code a(theta) whose residual on the support stays zero: backward solves the (symmetric) system once."""

    @staticmethod
    def forward(ctx, residual: Tensor, code: Tensor, system: SupportSystem) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.system = system
        ctx.save_for_backward(residual)
        return code.clone()

    @staticmethod
    @once_only(WHAT, 'gradient="backprop" can be')
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return ctx.system.solve_least(gradient), None, None


class Differentiability(NamedTuple):
    """How far a code is from where it stops being differentiable; one value per signal.

    Attributes:
        smallest_active: the smallest |a_i| on the support (infinite where it is empty).
        smallest_slack: the smallest lam - |c_i| off the support, c = P^T (x - P a) - ridge a, how far the nearest idle
            unit is from its threshold (infinite where none is idle; for non-negative codes lam - c_i).
        condition: the condition number of G_A + ridge I, by which errors in the gradient are multiplied.
    """

    smallest_active: Tensor
    smallest_slack: Tensor
    condition: Tensor


def differentiability(problem: SparseProblem, code: Tensor) -> Differentiability:
    """`Differentiability` of a problem's solution `code`, (*any, *code_shape); ValueError for another shape."""
    wanted = (*problem.batch_shape, *problem.dictionary.code_shape)
    if tuple(code.shape) != wanted:
        raise ValueError(f"the code has shape {tuple(code.shape)}; {wanted} is wanted")
    with torch.no_grad():
        flat, own = problem.detach().flat().normalised()
        a = own.code(code.detach().reshape(*flat.batch_shape, *flat.dictionary.code_shape))
        support = _support(flat, a)
        c = flat._residuals(a).code
        slack = flat.per_code(flat.lam) - (c if flat.nonnegative else c.abs())
        infinite = torch.full_like(a, torch.inf)
        values = (
            own.amplitude(-flat.max_code(-torch.where(support, a.abs(), infinite))),
            own.descent(-flat.max_code(-torch.where(support, infinite, slack))),
            support_system(flat, support).condition(),
        )
        return Differentiability(*(value.reshape(problem.batch_shape) for value in values))
