"""Each gate is the proximal operator of its penalty, and its derivative is that of autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from vars_dyn import thresholds

PROXIMAL = [vd.SoftThreshold, vd.NonNegativeSoftThreshold]
GATES = [*PROXIMAL, vd.GeluThreshold]
potentials = st.floats(-5, 5, allow_subnormal=False)
thetas = st.sampled_from([0.0, 0.1, 0.7, 2.0])


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("kind", PROXIMAL)
@given(u=potentials, theta=thetas)
def test_a_gate_is_the_proximal_operator_of_its_penalty(kind: type[vd.Threshold], u: float, theta: float) -> None:
    gate = kind(theta)
    assert gate.penalty is not None

    def cost(a: float) -> float:
        return 0.5 * (a - u) ** 2 + float(gate.penalty(tensor(a)))

    a = float(gate(tensor(u)))
    # The penalty is smooth on each side of zero, so the test minimises on each side. It is infinite below zero if codes
    # must not be negative.
    sides = [(0.0, abs(u) + 1)] if kind is vd.NonNegativeSoftThreshold else [(0.0, abs(u) + 1), (-abs(u) - 1, 0.0)]
    found = [
        scipy.optimize.minimize_scalar(cost, bounds=side, method="bounded", options={"xatol": 1e-9}) for side in sides
    ]
    best = min(found, key=lambda result: result.fun)
    assert cost(a) <= best.fun + 1e-12
    assert a == pytest.approx(best.x, abs=1e-6)


def test_a_penalty_is_infinite_where_codes_must_not_be() -> None:
    penalty = vd.NonNegativeSoftThreshold(0.5).penalty
    assert penalty is not None
    assert penalty(tensor(-1e-12, 0.0, 2.0)).tolist() == [math.inf, 0.0, 1.0]


def test_the_released_gate_stands_for_no_penalty() -> None:
    gate = vd.GeluThreshold(1.0)
    assert gate.penalty is None
    # A proximal operator never decreases. This gate jumps down at zero and decreases before theta - 0.752.
    a = gate(tensor(-1e-9, 1e-9, 0.1, 0.2))
    assert (a.diff() < 0).all()


@given(u=potentials, theta=thetas)
def test_values_are_those_of_the_formulas(u: float, theta: float) -> None:
    v = abs(u) - theta
    assert float(vd.SoftThreshold(theta)(tensor(u))) == pytest.approx(np.sign(u) * max(v, 0), abs=1e-15)
    assert float(vd.NonNegativeSoftThreshold(theta)(tensor(u))) == pytest.approx(max(u - theta, 0), abs=1e-15)
    gelu = np.sign(u) * v * scipy.stats.norm.cdf(v)
    assert float(vd.GeluThreshold(theta)(tensor(u))) == pytest.approx(gelu, abs=1e-14)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("theta", [0.0, 0.3, 1.5])
def test_the_derivative_is_autograds_also_at_kinks(kind: type[vd.Threshold], theta: float) -> None:
    u = torch.cat([torch.linspace(-3, 3, 25, dtype=torch.float64), tensor(theta, -theta, 0.0, -0.0)]).requires_grad_()
    gate = kind(theta)
    (slope,) = torch.autograd.grad(gate(u).sum(), u)
    torch.testing.assert_close(gate.derivative(u.detach()), slope, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", PROXIMAL)
def test_at_its_kink_a_gate_has_the_active_sides_slope(kind: type[vd.Threshold]) -> None:
    assert kind(0.5).derivative(tensor(0.5)) == 1
    # With theta = 0 the gate passes all allowed values, and its derivative at u = 0 is 1.
    u = tensor(0.0).requires_grad_()
    kind(0.0)(u).sum().backward()
    assert u.grad == 1


@pytest.mark.parametrize("kind", GATES)
def test_theta_may_differ_and_be_learned(kind: type[vd.Threshold]) -> None:
    u = torch.tensor([[0.4, -1.3, 2.2], [0.9, -0.2, 1.1]], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([[0.25], [0.75]], dtype=torch.float64, requires_grad=True)
    together = kind(theta)(u)
    apart = torch.stack([kind(t)(row) for t, row in zip(theta.flatten().tolist(), u, strict=True)])
    torch.testing.assert_close(together, apart, rtol=0, atol=0)
    assert torch.autograd.gradcheck(lambda u, theta: kind(theta)(u), (u, theta))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", GATES)
def test_the_dtype_stays(kind: type[vd.Threshold], dtype: torch.dtype) -> None:
    u = torch.linspace(-2, 2, 5, dtype=dtype)
    assert kind(0.5)(u).dtype == dtype
    assert kind(0.5).derivative(u).dtype == dtype


@pytest.mark.parametrize("theta", [-0.1, math.nan, math.inf, tensor(0.1, -0.2), tensor(0.1, math.nan)])
def test_thresholds_must_be_at_least_zero(theta: object) -> None:
    for kind in GATES:
        with pytest.raises(ValueError, match=r"^theta "):
            kind(theta)


@pytest.mark.parametrize("function", [thresholds.soft_threshold, thresholds.nonnegative_threshold])
def test_without_a_gradient_the_numbers_are_the_same(function: Callable[[Tensor, Tensor | float], Tensor]) -> None:
    u = torch.tensor([-math.inf, -2.0, -0.5, -0.3, -0.0, 0.0, 0.3, 0.5, 2.0, math.inf, math.nan], dtype=torch.float64)
    for theta in (0.0, 0.5, torch.full((11,), 0.5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)):
        with torch.no_grad():
            quick = function(u, theta)
        assert torch.equal(quick.nan_to_num(7.0), function(u, theta).nan_to_num(7.0))
        assert torch.equal(quick.isnan(), u.isnan())


def test_the_plain_functions_are_the_gates() -> None:
    u = torch.linspace(-2, 2, 41, dtype=torch.float64)
    for function, kind in [
        (thresholds.soft_threshold, vd.SoftThreshold),
        (thresholds.nonnegative_threshold, vd.NonNegativeSoftThreshold),
        (thresholds.gelu_threshold, vd.GeluThreshold),
    ]:
        assert torch.equal(function(u, 0.3), kind(0.3)(u))
