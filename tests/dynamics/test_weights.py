"""Fields with weights and bias currents: V falls at its rate, and they come to rest where their problem says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal, states_for

WEIGHTS = torch.tensor([torch.inf, 0.5, 1.0, 2.0, 0.7, 0.0], dtype=torch.float64)
KINDS = (vd.SparseRecurrent, vd.Reduced)


def field(kind: type[vd.SparseRecurrent | vd.Reduced], threshold: str, **constants: float) -> vd.Field:
    P, bias = vd.DenseDictionary(normal(0, 8, 6) / 8**0.5), 0.05 * normal(2, 3, 6)
    return kind(P, normal(1, 3, 8), 0.2, threshold=threshold, weights=WEIGHTS, bias=bias, **constants)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", ["soft", "nonnegative"])
@pytest.mark.parametrize("constants", [{}, {"alpha": 0.7, "beta": 3.0}, {"gamma": 0.5, "beta": 9.0}])
def test_v_falls_at_its_rate(
    kind: type[vd.SparseRecurrent | vd.Reduced], threshold: str, constants: dict[str, float]
) -> None:
    own = field(kind, threshold, **constants)
    state = tuple(part.requires_grad_() for part in states_for(own, 5))
    slopes = torch.autograd.grad(own.lyapunov(state).sum(), state)
    f = own(0.0, state)
    rate = sum((s * d).sum(-1) for s, d in zip(slopes, f, strict=True))
    gate = (own.code(state) != 0) | ((WEIGHTS == 0) & (threshold == "soft"))
    wanted: Tensor = -(gate * f[-1].square()).sum(-1)
    if kind is vd.SparseRecurrent:
        wanted = wanted - f[0].square().sum(-1)
    torch.testing.assert_close(rate, wanted, rtol=1e-9, atol=1e-11)
    assert (own.code(state)[:, 0] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constants", [{}, {"alpha": 0.7, "beta": 3.0}, {"gamma": 0.5, "beta": 9.0}])
def test_the_trajectory_ends_at_the_code_of_the_problem(
    kind: type[vd.SparseRecurrent | vd.Reduced], constants: dict[str, float]
) -> None:
    own = field(kind, "soft", **constants)
    solution = vd.equilibrium(own)
    assert all(float(part.abs().max()) < 1e-7 for part in own(0.0, solution.state))
    times = torch.tensor([0.0, 400.0], dtype=torch.float64)
    end = vd.integrate(own, own.initial_state(), times, gap=1e-9)
    torch.testing.assert_close(own.code(tuple(p[-1] for p in end.states)), solution.code, rtol=0, atol=1e-5)


def test_a_run_in_other_units_is_the_same_run() -> None:
    own = field(vd.SparseRecurrent, "soft")
    large = vd.SparseRecurrent(
        own.dictionary, own.x * 2.0**80, own.lam * 2.0**80, weights=WEIGHTS, bias=own.bias * 2.0**80
    )
    times = torch.tensor([0.0, 5.0], dtype=torch.float64)
    here, there = (vd.integrate(f, f.initial_state(), times).states[1][-1] for f in (own, large))
    torch.testing.assert_close(there * 2.0**-80, here, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gradient", ["implicit", "backprop"])
def test_gradients_reach_weights_and_bias(gradient: str) -> None:
    P, x = vd.DenseDictionary(normal(0, 6, 4) / 6**0.5), normal(1, 2, 6)
    w, q = torch.tensor([0.5, 1.0, 2.0, 0.7]).double().requires_grad_(), (0.02 * normal(2, 4)).requires_grad_()
    code = vd.equilibrium(vd.SparseRecurrent(P, x, 0.1, weights=w, bias=q), gradient, tol=1e-9).code
    found = torch.autograd.grad(code.square().sum(), (w, q))
    exact = vd.equilibrium(vd.SparseProblem(P, x, 0.1, weights=w, bias=q), tol=1e-10).code
    for a, b in zip(found, torch.autograd.grad(exact.square().sum(), (w, q)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
