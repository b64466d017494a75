"""Proximal maps, derivatives, dual norms, boxes and gaps of penalties, also of one that the package does not know."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests.references import One
from tests.strategies import normal, seeds
from vars_dyn.penalties import L1, NonNegativeL1, Penalty, penalty_of

ATOMS = 7


class WeightedL1(L1):
    """sum_i w_i |a_i| with w > 0. A user would write it like this, without any code of the solvers."""

    name = "weighted"

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def bounds(self, weight: float | Tensor) -> tuple[float | Tensor | None, float | Tensor]:
        return super().bounds(weight * self.weights)

    def prox(self, v: Tensor, weight: float | Tensor) -> Tensor:
        return super().prox(v, weight * self.weights)

    def derivative(self, v: Tensor, weight: float | Tensor) -> Tensor:
        return super().derivative(v, weight * self.weights)

    def excess(self, c: Tensor, weight: float | Tensor) -> Tensor:
        return super().excess(c, weight * self.weights)

    def violation(self, c: Tensor, sign: Tensor, weight: float | Tensor) -> Tensor:
        return super().violation(c, sign, weight * self.weights)

    def dual_norm(self, c: Tensor, loose: Tensor | None = None) -> Tensor:
        most = c.abs() if loose is None else c.abs() + loose
        return (most / self.weights).amax(-1)

    def cost(self, size: Tensor) -> Tensor:
        return self.weights * size

    def slope(self, sign: Tensor, weight: float | Tensor) -> Tensor:
        return weight * self.weights * sign

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weights,)

    def with_tensors(self, tensors: tuple[Tensor, ...]) -> WeightedL1:
        return WeightedL1(*tensors)


WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 1.0, 2.0, 0.7], dtype=torch.float64)
PENALTIES = [L1(), NonNegativeL1(), WeightedL1(WEIGHTS)]
every = pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: penalty.name)
weights = st.sampled_from([0.0, 0.1, 0.7, 2.0])


def codes(penalty: Penalty, seed: int, *lead: int) -> Tensor:
    """Codes with some zeros, at which the penalty is finite."""
    a = normal(seed, *lead, ATOMS)
    a = torch.where(a.abs() < 0.4, 0.0, a)
    return a.abs() if penalty.nonnegative else a


@every
@settings(max_examples=15)
@given(seed=seeds, weight=weights)
def test_the_proximal_map_minimises(penalty: Penalty, seed: int, weight: float) -> None:
    v = 2 * normal(seed, ATOMS)
    a = penalty.prox(v, weight)

    def cost(i: int, entry: float) -> float:
        code = torch.zeros(ATOMS, dtype=torch.float64)
        code[i] = entry
        return 0.5 * (entry - float(v[i])) ** 2 + float(penalty.value(code, weight)[i])

    for i in range(0, ATOMS, 3):
        reach = abs(float(v[i])) + 1
        sides = [(0.0, reach)] if penalty.nonnegative else [(0.0, reach), (-reach, 0.0)]
        found = [
            scipy.optimize.minimize_scalar(lambda e, i=i: cost(i, e), bounds=side, method="bounded") for side in sides
        ]
        best = min(found, key=lambda result: result.fun)
        assert cost(i, float(a[i])) <= best.fun + 1e-12
        assert float(a[i]) == pytest.approx(best.x, abs=1e-4)


@every
@given(seed=seeds, weight=weights)
def test_the_derivative_is_that_of_differences(penalty: Penalty, seed: int, weight: float) -> None:
    v, h = 2 * normal(seed, 40, ATOMS), 1e-6
    lower, upper = penalty.bounds(weight)
    away = (v - upper).abs() > 2 * h
    away = away if lower is None else away & ((v - lower).abs() > 2 * h)
    slope = (penalty.prox(v + h, weight) - penalty.prox(v - h, weight)) / (2 * h)
    torch.testing.assert_close(penalty.derivative(v, weight)[away], slope[away], rtol=0, atol=1e-8)


@every
@given(seed=seeds)
def test_the_dual_norm_is_hoelders(penalty: Penalty, seed: int) -> None:
    """c.a <= |c|_dual r(a) holds for all a, with equality for a multiple of one atom."""
    c, a = normal(seed, 30, ATOMS), codes(penalty, seed + 1, 30)
    norm = penalty.dual_norm(c)
    assert ((c * a).sum(-1) <= norm * penalty.value(a, 1.0).sum(-1) + 1e-12).all()
    eye = torch.eye(ATOMS, dtype=torch.float64)
    atoms = eye if penalty.nonnegative else torch.cat([eye, -eye])
    reached = (c @ atoms.T / penalty.value(atoms, 1.0).sum(-1)).amax(-1).clamp(min=0)
    torch.testing.assert_close(norm, reached, rtol=1e-14, atol=0)


@every
@given(seed=seeds)
def test_a_dual_norm_of_what_is_loose_is_the_largest_within(penalty: Penalty, seed: int) -> None:
    c = normal(seed, 12, ATOMS)
    for loose in (normal(seed + 1, 12, ATOMS).abs(), normal(seed + 2, 12, 1).abs()):
        at_most = torch.maximum(penalty.dual_norm(c + loose), penalty.dual_norm(c - loose))
        torch.testing.assert_close(penalty.dual_norm(c, loose), at_most, rtol=1e-14, atol=0)


@every
@given(seed=seeds, weight=weights)
def test_value_and_box_are_conjugates(penalty: Penalty, seed: int, weight: float) -> None:
    """weight r is the box's support function, prox(v) is v minus its projection, excess is how far v is outside."""
    a, v = codes(penalty, seed, 20), 2 * normal(seed + 1, 20, ATOMS)
    lower, upper = penalty.bounds(weight)
    least = torch.as_tensor(-math.inf if lower is None else lower, dtype=torch.float64)
    ends = torch.maximum(torch.where(a == 0, 0.0, upper * a), torch.where(a == 0, 0.0, least * a))
    torch.testing.assert_close(penalty.value(a, weight), ends, rtol=1e-14, atol=0)
    inside = torch.minimum(torch.maximum(v, least), torch.as_tensor(upper, dtype=torch.float64))
    torch.testing.assert_close(penalty.prox(v, weight), v - inside, rtol=0, atol=1e-14)
    torch.testing.assert_close(penalty.excess(v, weight), torch.maximum(v - upper, least - v), rtol=0, atol=1e-14)


@every
@given(seed=seeds, weight=weights)
def test_no_condition_is_violated_where_prox_leaves_a_code_alone(penalty: Penalty, seed: int, weight: float) -> None:
    """a = prox(a + c) if and only if c is a subgradient at a."""
    v = 2 * normal(seed, 20, ATOMS)
    a = penalty.prox(v, weight)
    c = v - a
    assert (penalty.violation(c, a.sign(), weight) <= 1e-14).all()
    off = c + torch.where(a == 0, 0.0, 0.3)
    assert (penalty.violation(off, a.sign(), weight)[a != 0] > 0.29).all()
    beyond = penalty.violation(penalty.bounds(weight)[1] + torch.full_like(c, 0.2), torch.zeros_like(a), weight)
    torch.testing.assert_close(beyond, torch.full_like(c, 0.2), rtol=0, atol=1e-14)


def solved(P: Tensor, x: Tensor, penalty: Penalty, lam: float, ridge: float) -> np.ndarray:
    """The argmin by scikit-learn: a weighted penalty is the plain one of the dictionary P diag(1 / w)."""
    w = penalty.tensors()[0] if penalty.tensors() else torch.ones(P.shape[1], dtype=torch.float64)
    return One((P / w).numpy(), x.numpy(), lam, ridge, penalty.nonnegative).argmin() / w.numpy()


@every
@settings(max_examples=8)
@given(seed=seeds, share=st.sampled_from([0.05, 0.3, 0.8]), ridge=st.sampled_from([0.0, 0.2]))
def test_the_gap_bounds_the_excess(penalty: Penalty, seed: int, share: float, ridge: float) -> None:
    P, x, a = normal(seed, 9, ATOMS) / 3, normal(seed + 1, 5, 9), codes(penalty, seed + 2, 5) / 2
    ridge = 0.0 if penalty.tensors() else ridge
    lam = share * float(vd.SparseProblem(vd.DenseDictionary(P), x, 1.0, penalty=penalty).critical_lam().max())
    problem = vd.SparseProblem(vd.DenseDictionary(P), x, lam, ridge, penalty=penalty)
    best = torch.from_numpy(np.stack([solved(P, one, penalty, lam, ridge) for one in x]))
    value = 0.5 * (best @ P.T - x).square().sum(-1) + 0.5 * ridge * best.square().sum(-1)
    least = value + lam * penalty.cost(best.abs()).sum(-1)
    gap = problem.gap(a)
    assert (gap >= problem.objective(a) - least - 1e-12).all()
    assert (gap >= 0).all()
    # At the best code the gap is zero.
    for method in ("auto", "ista", "admm"):
        solution = vd.solve(problem, method=method)
        assert solution.converged.all()
        torch.testing.assert_close(solution.code, best, rtol=1e-5, atol=1e-6)


@every
def test_fields_come_to_rest_where_their_penalty_says(penalty: Penalty) -> None:
    P, x = vd.DenseDictionary(normal(0, 9, ATOMS) / 3), normal(1, 4, 9)
    for kind in (vd.SparseRecurrent, vd.Reduced):
        field = kind(P, x, 0.2, threshold=penalty)
        assert field.parameters()["threshold"] == penalty.name
        rest = vd.equilibrium(field)
        torch.testing.assert_close(field.code(rest.state), rest.code, rtol=0, atol=1e-12)
        moving = field(0.0, rest.state)
        assert max(float(part.abs().max()) for part in moving) < 1e-12
        best = torch.from_numpy(np.stack([solved(P.weight, one, penalty, 0.2, 0.0) for one in x]))
        torch.testing.assert_close(rest.code, best, rtol=1e-5, atol=1e-6)


def test_tensors_of_a_penalty_move_with_its_problem() -> None:
    weights = torch.ones(ATOMS, dtype=torch.float32).requires_grad_()
    P, x = vd.DenseDictionary(normal(0, 9, ATOMS, dtype=torch.float32)), normal(1, 4, 9, dtype=torch.float32)
    problem = vd.SparseProblem(P, x, 0.2, penalty=WeightedL1(weights))
    assert problem.tensors()[-1] is weights
    assert not problem.detach().penalty.tensors()[0].requires_grad
    assert problem.to(dtype=torch.float64).penalty.tensors()[0].dtype == torch.float64
    (slope,) = torch.autograd.grad(problem.objective(normal(2, 4, ATOMS, dtype=torch.float32)).sum(), weights)
    torch.testing.assert_close(slope, 0.2 * normal(2, 4, ATOMS, dtype=torch.float32).abs().sum(0))


def test_a_penalty_goes_by_name_or_by_itself() -> None:
    assert isinstance(penalty_of("threshold", "soft"), L1)
    assert isinstance(penalty_of("threshold", "nonnegative"), NonNegativeL1)
    assert penalty_of("threshold", PENALTIES[2]) is PENALTIES[2]
    with pytest.raises(ValueError, match=r"^threshold is 'hard'; one of soft, nonnegative is wanted"):
        penalty_of("threshold", "hard")
    P, x = vd.DenseDictionary(normal(0, 4, 3)), normal(1, 2, 4)
    with pytest.raises(ValueError, match=r"^nonnegative is True, but penalty is L1\(\)"):
        vd.SparseProblem(P, x, 0.1, nonnegative=True, penalty=L1())
    assert vd.SparseProblem(P, x, 0.1, penalty=NonNegativeL1()).nonnegative
