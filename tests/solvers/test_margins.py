"""The radius within which no support changes, with scikit-learn's codes as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso
from torch import Tensor

import vars_dyn as vd
from vars_dyn.solvers.margins import support_margins


def drawn(seed: int, signals: int = 3, d: int = 8, atoms: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(d, atoms, generator=generator, dtype=torch.float64)
    x = torch.randn(signals, d, generator=generator, dtype=torch.float64)
    return weight / weight.norm(dim=0), x


def signs(weight: Tensor, x: Tensor, lam: float, positive: bool = False) -> np.ndarray:
    """The signs of scikit-learn's code of one signal."""
    model = Lasso(lam / len(x), fit_intercept=False, tol=1e-12, max_iter=50_000, positive=positive)
    return np.sign(model.fit(weight.numpy(), x.numpy()).coef_)


@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), lam=st.floats(0.15, 0.6), nonnegative=st.booleans())
def test_no_signal_within_has_another_support_and_one_just_outside_has(
    seed: int, lam: float, nonnegative: bool
) -> None:
    weight, x = drawn(seed)
    P = vd.DenseDictionary(weight)
    problem = vd.SparseProblem(P, x, lam, nonnegative=nonnegative)
    code = vd.solve(problem, tol=1e-12).code
    radius = vd.support_radius(problem, code)
    generator = torch.Generator().manual_seed(seed)
    for i in range(len(x)):
        own = signs(weight, x[i], lam, nonnegative)
        assert (np.sign(code[i].numpy()) == own).all()
        if radius[i] < 1e-7:
            continue
        away = torch.randn(x.shape[1], generator=generator, dtype=torch.float64)
        worst = _worst(weight, code[i], x[i], lam, nonnegative)
        for direction in (away / away.norm(), worst):
            inside = x[i] + 0.999 * radius[i] * direction
            assert (signs(weight, inside, lam, nonnegative) == own).all()
        outside = x[i] + 1.001 * radius[i] * worst
        assert (signs(weight, outside, lam, nonnegative) != own).any()


def _worst(weight: Tensor, code: Tensor, x: Tensor, lam: float, nonnegative: bool) -> Tensor:
    """The unit direction to the nearest border, by the gradients of all margins that autograd finds."""
    on = code != 0
    x = x.clone().requires_grad_()
    inverse = torch.linalg.inv(weight[:, on].T @ weight[:, on])
    a = inverse @ (weight[:, on].T @ x - lam * code[on].sign())
    c = weight[:, ~on].T @ (x - weight[:, on] @ a)
    margins = torch.cat([a.abs(), lam - (c if nonnegative else c.abs())])
    slopes = torch.stack([torch.autograd.grad(m, x, retain_graph=True)[0] for m in margins])
    nearest = (margins / slopes.norm(dim=1)).argmin()
    return -slopes[nearest] / slopes[nearest].norm()


@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.99))
def test_supports_hold_while_signal_and_atoms_move_within_what_is_proved(seed: int, share: float) -> None:
    weight, x = drawn(seed)
    problem = vd.SparseProblem(vd.DenseDictionary(weight), x, 0.2, ridge=0.1)
    code = vd.solve(problem, tol=1e-12).code
    margins = support_margins(problem, code)
    assert torch.equal(margins.radius, vd.support_radius(problem, code))
    low, high = torch.zeros(3, dtype=torch.float64), margins.radius.clone()
    for _ in range(40):
        middle = (low + high) / 2
        held = margins.hold(middle, middle.unsqueeze(-1).expand(-1, 12))
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    assert bool((low[margins.radius > 1e-6] > 0).all())
    generator = torch.Generator().manual_seed(seed)
    for i in range(3):
        for _ in range(4):
            move = torch.randn(8, 13, generator=generator, dtype=torch.float64)
            move = share * low[i] * move / move.norm(dim=0)
            moved = vd.SparseProblem(vd.DenseDictionary(weight + move[:, 1:]), x[i] + move[:, 0], 0.2, ridge=0.1)
            assert torch.equal(vd.solve(moved, tol=1e-12).code.sign(), code[i].sign())


def test_the_radius_of_one_atom_is_known() -> None:
    """For the atom (1, 0) and x = (x1, x2) the code is soft(x1, lam): the border is at | |x1| - lam |."""
    x = torch.tensor([[2.0, 7.0], [0.25, 1.0], [0.0, 3.0], [-1.5, 0.0]], dtype=torch.float64)
    problem = vd.SparseProblem(vd.DenseDictionary(torch.tensor([[1.0], [0.0]], dtype=torch.float64)), x, 0.5)
    radius = vd.support_radius(problem, vd.solve(problem).code)
    torch.testing.assert_close(radius, torch.tensor([1.5, 0.25, 0.5, 1.0], dtype=torch.float64))


def test_what_is_no_optimum_and_dependent_atoms_have_radius_zero() -> None:
    weight, x = drawn(1)
    problem = vd.SparseProblem(vd.DenseDictionary(weight), x, 0.2)
    code = vd.solve(problem).code
    assert bool((vd.support_radius(problem, code) > 0).all())
    wrong = torch.zeros_like(code)
    assert bool((vd.support_radius(problem, wrong) == 0).all())
    twice = vd.SparseProblem(vd.DenseDictionary(torch.cat([weight, weight], 1)), x, 0.2)
    assert bool((vd.support_radius(twice, torch.cat([code, code], 1) / 2) == 0).all())
    with pytest.raises(ValueError, match="the code has shape"):
        vd.support_radius(problem, code[:, :3])


def test_weights_and_a_bias_count() -> None:
    weight, x = drawn(2)
    weights = torch.linspace(0.0, 2.0, 12, dtype=torch.float64)
    bias = 0.1 * torch.ones(12, dtype=torch.float64)
    problem = vd.SparseProblem(vd.DenseDictionary(weight), x, 0.3, weights=weights, bias=bias)
    solution = vd.solve(problem, tol=1e-12)
    radius = vd.support_radius(problem, solution.code)
    assert bool((radius > 0).any())
    generator = torch.Generator().manual_seed(0)
    penalised = weights > 0
    for _ in range(10):
        move = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        move = 0.99 * radius[:, None] * move / move.norm(dim=1, keepdim=True)
        moved = vd.solve(
            vd.SparseProblem(vd.DenseDictionary(weight), x + move, 0.3, weights=weights, bias=bias), tol=1e-12
        )
        assert torch.equal(moved.code.sign()[:, penalised], solution.code.sign()[:, penalised])
