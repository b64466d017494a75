"""Equilibria: where a field comes to rest, or a problem's solution, certified and differentiable."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from vars_dyn import _checks
from vars_dyn._compile import uncompiled
from vars_dyn.dynamics.base import Field
from vars_dyn.dynamics.sparse import SparseRecurrent
from vars_dyn.integration import gradients
from vars_dyn.integration.gradients.first_order import refuse_transforms
from vars_dyn.integration.integrate import integrate
from vars_dyn.problems import SparseProblem
from vars_dyn.solvers.implicit import REFUSED, unproven_supports, with_gradient
from vars_dyn.solvers.solve import Solution, solve, tolerance

__all__ = ["equilibrium"]


@uncompiled
def equilibrium(
    target: Field | SparseProblem,
    gradient: str | gradients.Mode = "implicit",
    *,
    tol: float | None = None,
    start: Tensor | None = None,
    max_iterations: int = 100_000,
    horizon: float = 10_000.0,
) -> Solution:
    """Where a field comes to rest, or a problem's argmin, with its certificate and its gradient.

    Args:
        target: a field with a stable equilibrium, or a problem.
        gradient: a mode of `vars_dyn.integration.gradients`. "implicit" finds the code by the fastest certified route
            (`solve`) and differentiates the optimality conditions on its support. "backprop", "checkpoint" and
            "adjoint" integrate the field (for a problem, the VARS neurons that solve it) until its gap is within tol,
            and differentiate the integration.
        tol: the relative gap to reach; by default 1e-8 in float64 and 1e-5 in float32.
        start: codes to start `solve` from; for "implicit" only. It changes the time taken, never the gradient.
        max_iterations: the largest number of first-order steps of `solve`.
        horizon: the time at which an integration gives up.

    Returns:
        A `Solution` whose code and state (None for a problem) carry gradients to every tensor of the dictionary, x,
        lam, and to those of alpha, beta, gamma and ridge that are tensors. `relative_gap` and `kkt_residual` carry no
        gradient.

    Raises:
        ValueError: for a field without a stable equilibrium, with the reason, for one whose x never comes to rest
            (where it does, the equilibrium is that of x at rest), for a start where none is used, and for a
            tol that the dtype cannot verify.

    Warns where a signal's gap is not within tol; where the optimality conditions do not prove its support, since a
    wrong support gives a wrong gradient; and where the atoms on its support are linearly dependent. In the last case
    the code is not a differentiable function of the data, and the gradient of minimum norm is given. A unit exactly at
    its threshold counts as inactive, and the gradient is the derivative from that side. `differentiability` tells how
    far the code is from either case.

    The implicit gradient is exact for the support found. It does not depend on how the code was found, and it needs no
    trajectory. It cannot be differentiated once more, nor taken under a transform of torch.func: both raise a
    RuntimeError. The time constants do not move the equilibrium, so they get no gradient.

    Examples:
        >>> P = vd.DenseDictionary(torch.eye(3, dtype=torch.float64))
        >>> x = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64, requires_grad=True)
        >>> solution = vd.equilibrium(vd.SparseRecurrent(P, x, lam=0.5))
        >>> solution.code.sum().backward()
        >>> x.grad.tolist()  # one where a unit is active
        [1.0, 1.0, 0.0]
    """
    mode = gradients.mode_for(gradient)
    resting = target.at_rest() if isinstance(target, Field) else target
    x = resting.x
    _checks.full_precision("x", x)
    tol = tolerance(tol, x.dtype)
    if start is not None and not isinstance(mode, gradients.Implicit):
        raise ValueError("start is given, but only the implicit gradient's solver takes one; None is wanted")
    with torch.autocast(x.device.type, enabled=False):
        if isinstance(mode, gradients.Implicit):
            solution, complaints = _implicit(resting, tol, start, max_iterations)
        else:
            solution, complaints = _integrated(target, mode, tol, horizon), []
    lost = int((~solution.converged).sum())
    if lost:
        worst = float(solution.relative_gap.max())
        complaints.append(f"{lost} signals are not within the relative gap {tol:.3g} (the worst: {worst:.3g})")
    for complaint in complaints:
        warnings.warn(complaint, stacklevel=3)
    return solution


def _implicit(
    target: Field | SparseProblem, tol: float, start: Tensor | None, max_iterations: int
) -> tuple[Solution, list[str]]:
    """The solution with its implicit gradient, and the warnings to give."""
    problem = target.problem() if isinstance(target, Field) else target
    refuse_transforms(REFUSED, 'call it outside of them, or with gradient="backprop"', problem.tensors())
    solution = solve(problem, tol=tol, max_iterations=max_iterations, start=start)
    complaints = []
    if torch.is_grad_enabled() and any(t.requires_grad for t in problem.tensors()):
        code, dependent = with_gradient(problem, solution.code)
        unproven = int((unproven_supports(problem, solution) & solution.converged).sum())
        solution = solution._replace(code=code)
        if unproven:
            complaints.append(
                f"the supports of {unproven} signals are not proven: their gaps are within {tol:.3g}, but their KKT "
                "residuals are not zero to rounding; their gradients may be wrong (try a smaller tol, or float64)"
            )
        if dependent:
            complaints.append(
                f"the atoms on the support of {dependent} signals are linearly dependent: their codes' gradients are "
                "not unique, and those of minimum norm are given (a ridge makes them unique)"
            )
    if isinstance(target, Field):
        solution = solution._replace(state=target.state_at(solution.code))
    return solution, complaints


def _integrated(target: Field | SparseProblem, mode: gradients.Mode, tol: float, horizon: float) -> Solution:
    """The end of a trajectory that stops at the gap; the gradient is that of the trajectory."""
    field = target if isinstance(target, Field) else _neurons_of(target)
    times = torch.tensor([0.0, float(_checks.number("horizon", horizon, positive=True))], dtype=torch.float64)
    trajectory = integrate(field, field.initial_state(), times, gap=tol, gradient=mode)
    state = tuple(part[-1] for part in trajectory.states)
    code = field.code(state)
    with torch.no_grad():
        gap, kkt = field.detach().at_rest().problem().certificate(code.detach())
    evaluations = torch.full(gap.shape, trajectory.statistics.evaluations, dtype=torch.long, device=gap.device)
    return Solution(code, gap, kkt, evaluations, gap <= tol, state if isinstance(target, Field) else None)


def _neurons_of(problem: SparseProblem) -> SparseRecurrent:
    """The VARS neurons whose equilibrium solves `problem`: alpha = 1, gamma = 2, beta = 2 + ridge."""
    beta, p = 2.0 + problem.ridge, problem
    if isinstance(beta, Tensor) and beta.ndim == len(p.dictionary.code_shape) and p.batch_shape:
        beta = beta[None]  # one per atom, which the signals' batch might have the shape of
    return SparseRecurrent(p.dictionary, p.x, p.lam, beta=beta, threshold=p.penalty, weights=p.weights, bias=p.bias)
