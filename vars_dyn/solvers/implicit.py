"""The implicit gradient of a problem's solution: one linear system on the support, and no trajectory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vars_dyn.integration.gradients.first_order import once_only
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.methods import ROUNDING
from vars_dyn.solvers.solve import Solution
from vars_dyn.solvers.support_systems import SupportSystem, free, support_system

__all__ = ["REFUSED", "Differentiability", "WithGradient", "differentiability", "unproven_supports", "with_gradient"]

#: The name of this gradient in the errors that refuse what it cannot do.
REFUSED = 'The implicit gradient of an equilibrium (gradient="implicit")'


def unproven_supports(problem: SparseProblem, solution: Solution) -> Tensor:
    """Where the KKT residual is larger than rounding explains, by the same measure as in `solve`; one per signal."""
    with torch.no_grad():
        scale = problem.size_of_descent()
        rounding = problem.rounding(solution.code.detach())
    return solution.kkt_residual > ROUNDING * torch.finfo(scale.dtype).eps * scale + rounding


class WithGradient(NamedTuple):
    """A code that carries a gradient.

    Attributes:
        code: the code, of the values that were given.
        dependent: the number of signals for which the system on the support is singular.
    """

    code: Tensor
    dependent: int


def with_gradient(problem: SparseProblem, code: Tensor) -> WithGradient:
    """A problem's solution `code`, made differentiable in all that the problem depends on.

    On the support A, (G_A + ridge I) da_A = d(P_A^T (x - P a) + q_A - ridge a_A - lam w_A sgn a_A).
    """
    flat, own = problem.flat().normalised()
    a = own.code(code.reshape(*flat.batch_shape, *flat.dictionary.code_shape))
    support = _support(flat, a)
    with torch.no_grad():
        system = support_system(flat.detach(), support)
        dependent = int(system.singular().sum())
    descent = flat.residuals(a).code
    residual = torch.where(support, descent - flat.penalty.slope(a.sign(), flat.weight), 0.0)
    moving = own.code(_OnSupport.apply(residual, a, system), back=True)
    return WithGradient(moving.reshape(code.shape), dependent)


def _support(problem: SparseProblem, a: Tensor) -> Tensor:
    """The entries of a code that may move: the non-zero ones, or all where nothing holds entries at zero."""
    return (a != 0) | free(problem)


class _OnSupport(torch.autograd.Function):
    """The code as a function that keeps the residual on the support at zero; backward solves one symmetric system."""

    @staticmethod
    def forward(ctx, residual: Tensor, code: Tensor, system: SupportSystem) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.system = system
        ctx.save_for_backward(residual)
        return code.clone()

    @staticmethod
    @once_only(REFUSED, 'gradient="backprop" can be')
    def backward(ctx, grad_code: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return ctx.system.solve_least(grad_code), None, None


class Differentiability(NamedTuple):
    """How far a code is from a point where it is not differentiable; one value per signal.

    Attributes:
        smallest_active: the smallest |a_i| on the support (infinite where it is empty).
        smallest_slack: the smallest w_i lam - |c_i| off the support (w_i lam - c_i for non-negative codes), with
            c = P^T (x - P a) + q - ridge a. It says how far the nearest idle unit is from its threshold (infinite where
            none is idle).
        condition: the condition number of G_A + ridge I, which bounds how much errors in the gradient are multiplied.
    """

    smallest_active: Tensor
    smallest_slack: Tensor
    condition: Tensor


def differentiability(problem: SparseProblem, code: Tensor) -> Differentiability:
    """`Differentiability` of a problem's solution `code`, (*any, *code_shape); ValueError for another shape.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
        >>> problem = vd.SparseProblem(P, x, lam=0.5)
        >>> found = vd.differentiability(problem, vd.solve(problem).code)
        >>> [round(v.item(), 3) for v in found[:2]]
        [0.5, 0.2]
    """
    wanted = (*problem.batch_shape, *problem.dictionary.code_shape)
    if tuple(code.shape) != wanted:
        raise ValueError(f"the code has shape {tuple(code.shape)}; {wanted} is wanted")
    with torch.no_grad():
        flat, own = problem.detach().flat().normalised()
        a = own.code(code.detach().reshape(*flat.batch_shape, *flat.dictionary.code_shape))
        support = _support(flat, a)
        c = flat.residuals(a).code
        slack = -flat.penalty.excess(c, flat.weight)
        infinite = torch.full_like(a, torch.inf)
        values = (
            own.amplitude(-flat.max_code(-torch.where(support, a.abs(), infinite))),
            own.descent(-flat.max_code(-torch.where(support, infinite, slack))),
            support_system(flat, support).condition(),
        )
        return Differentiability(*(value.reshape(problem.batch_shape) for value in values))
