"""Problems and their certificates, one value per signal, against NumPy and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.references import ones, rows
from tests.strategies import codes_for, normal, seeds


def candidates(problem: vd.SparseProblem, seed: int) -> Tensor:
    """Arbitrary codes with some zeros. Entries are negative only if the problem allows it."""
    a = codes_for(problem.dictionary, seed, problem.batch_shape) * 0.5
    a = torch.where(a.abs() < 0.2, 0.0, a)
    return a.abs() if problem.nonnegative else a


def least(problem: vd.SparseProblem) -> Tensor:
    """scikit-learn's E* of every signal."""
    values = [one.objective(one.argmin()) for one in ones(problem)]
    return torch.tensor(values, dtype=torch.float64).reshape(problem.batch_shape)


@given(problem=strategies.problems(), seed=seeds)
def test_the_objective_is_its_formula_and_the_gap_bounds_its_excess(problem: vd.SparseProblem, seed: int) -> None:
    a = candidates(problem, seed)
    value, gap, best = problem.objective(a), problem.gap(a), least(problem)
    assert value.shape == gap.shape == problem.batch_shape
    written = [one.objective(row) for one, row in zip(ones(problem), rows(a, problem), strict=True)]
    np.testing.assert_allclose(value.flatten(), written, rtol=1e-12, atol=1e-14)
    assert (gap >= value - best - 1e-13 * (1 + value)).all()
    assert (gap >= 0).all()


@given(problem=strategies.problems(), seed=seeds, data=st.data())
def test_the_gap_bounds_the_excess_close_to_the_optimum_too(
    problem: vd.SparseProblem, seed: int, data: st.DataObject
) -> None:
    solution = vd.solve(problem).code
    near = solution + data.draw(st.sampled_from([1e-1, 1e-3, 1e-6])) * candidates(problem, seed)
    excess = problem.objective(near) - problem.objective(solution)
    assert (problem.gap(near) >= excess - 1e-13 * (1 + problem.objective(near))).all()


@given(
    seed=seeds,
    share=strategies.lam_shares,
    ridge=strategies.ridge_weights,
    nonnegative=st.booleans(),
    lead=strategies.leads,
)
def test_at_a_known_optimum_every_certificate_is_zero(
    seed: int, share: float, ridge: float, nonnegative: bool, lead: tuple[int, ...]
) -> None:
    # The atoms are orthonormal, so a = prox(P^T x) / (1 + ridge), entry by entry.
    P = vd.DenseDictionary(torch.linalg.qr(normal(seed, 7, 5))[0])
    x = normal(seed + 1, *lead, 7)
    lam = share * P.encode(x).abs().amax(-1)
    problem = vd.SparseProblem(P, x, lam, ridge, nonnegative)
    gate = vd.NonNegativeSoftThreshold if nonnegative else vd.SoftThreshold
    a = gate(lam[..., None])(P.encode(x)) / (1 + ridge)
    size = problem.objective(torch.zeros_like(a)) + 1
    assert (problem.gap(a) <= 1e-13 * size).all()
    assert (problem.relative_gap(a) <= 1e-13).all()
    assert (problem.kkt_residual(a) <= 1e-14 * size).all()
    # Certificates of other codes are not zero.
    off = a + 1e-3
    assert (problem.gap(off) > 0).all()
    assert (problem.kkt_residual(off) > 1e-5).all()


def test_the_gap_is_first_order_in_the_error() -> None:
    problem = vd.SparseProblem(vd.DenseDictionary(normal(0, 12, 8)), normal(1, 4, 12), 1.0)
    a, moved = vd.solve(problem).code, normal(2, 4, 8)
    gaps = torch.stack([problem.gap(a + h * moved) for h in (1e-4, 1e-5, 1e-6)])
    assert (gaps[:-1] / gaps[1:] > 5).all()
    assert (gaps[:-1] / gaps[1:] < 150).all()


@given(problem=strategies.problems(), seed=seeds)
def test_the_kkt_residual_is_its_formula(problem: vd.SparseProblem, seed: int) -> None:
    a = candidates(problem, seed)
    if problem.nonnegative:
        a = a - 0.3 * (a > 1)
    written = [one.kkt(row) for one, row in zip(ones(problem), rows(a, problem), strict=True)]
    np.testing.assert_allclose(problem.kkt_residual(a).flatten(), written, rtol=1e-11, atol=1e-13)


@given(problem=strategies.problems(), seed=seeds)
def test_the_certificate_is_the_relative_gap_and_the_kkt_residual(problem: vd.SparseProblem, seed: int) -> None:
    a = candidates(problem, seed)
    relative, kkt = problem.certificate(a)
    torch.testing.assert_close(relative, problem.relative_gap(a), rtol=0, atol=0)
    torch.testing.assert_close(kkt, problem.kkt_residual(a), rtol=0, atol=0)
    size = [0.5 * one.x @ one.x for one in ones(problem)]
    for gap, half, found in zip(problem.gap(a).flatten().tolist(), size, relative.flatten().tolist(), strict=True):
        wanted = gap / half if half else math.inf if gap else 0.0
        assert found == pytest.approx(wanted, rel=1e-12)


@given(problem=strategies.problems(), seed=seeds)
def test_the_gap_is_its_formula_for_each_signal_by_itself(problem: vd.SparseProblem, seed: int) -> None:
    a = candidates(problem, seed)
    written = [one.gap(row) for one, row in zip(ones(problem), rows(a, problem), strict=True)]
    np.testing.assert_allclose(problem.gap(a).flatten(), written, rtol=1e-9, atol=1e-12)


def test_codes_of_the_wrong_sign_are_infinitely_bad() -> None:
    problem = vd.SparseProblem(vd.DenseDictionary(normal(0, 4, 3)), normal(1, 2, 4), 0.1, nonnegative=True)
    a = torch.tensor([[1.0, 0.0, 0.5], [0.2, -1e-9, 0.0]], dtype=torch.float64)
    for value in (problem.objective(a), problem.gap(a), problem.relative_gap(a)):
        assert value.isfinite().tolist() == [True, False]


@given(problem=strategies.problems())
def test_above_the_critical_weight_and_only_there_zero_is_optimal(problem: vd.SparseProblem) -> None:
    critical = problem.critical_lam()
    pull = [one.pull(np.zeros(one.P.shape[1])) for one in ones(problem)]
    wanted = [max(p.max(), 0) if problem.nonnegative else np.abs(p).max() for p in pull]
    np.testing.assert_allclose(critical.flatten(), wanted, rtol=1e-12, atol=1e-15)
    zero = problem.x.new_zeros(*problem.batch_shape, *problem.dictionary.code_shape)

    def at(share: float) -> vd.SparseProblem:
        return vd.SparseProblem(problem.dictionary, problem.x, share * critical, problem.ridge, problem.nonnegative)

    assert (at(1.0 + 1e-6).gap(zero) == 0).all()
    assert (at(1.0 + 1e-6).kkt_residual(zero) == 0).all()
    assert ((at(0.9).gap(zero) > 0) == (critical > 0)).all()
    assert ((at(0.9).kkt_residual(zero) > 0) == (critical > 0)).all()


def test_a_signal_of_zeros_is_solved_by_zero() -> None:
    P = vd.DenseDictionary(normal(0, 4, 3))
    for lam in (0.0, 0.3):
        problem = vd.SparseProblem(P, torch.zeros(2, 4, dtype=torch.float64), lam)
        zero = torch.zeros(2, 3, dtype=torch.float64)
        assert problem.relative_gap(zero).tolist() == [0, 0]
        assert problem.kkt_residual(zero).tolist() == [0, 0]
        assert (problem.relative_gap(zero + 0.1) > 0).all()


def test_without_a_penalty_the_kkt_residual_certifies() -> None:
    P, x = vd.DenseDictionary(normal(0, 6, 4)), normal(1, 2, 6)
    problem = vd.SparseProblem(P, x, torch.tensor([0.0, 0.5], dtype=torch.float64))
    a = torch.linalg.lstsq(P.weight, x.mT).solution.mT
    assert problem.gap(a)[0] == pytest.approx(float(problem.objective(a)[0]))
    relative = problem.relative_gap(a)
    assert relative[0] <= 1e-14
    # The other signal has a penalty, so it has a gap.
    assert float(relative[1]) == pytest.approx(float(problem.gap(a)[1] / (0.5 * x[1].square().sum())), rel=1e-12)
    off = problem.relative_gap(a + 0.1)[0]
    wanted = problem.kkt_residual(a + 0.1)[0] / P.encode(x)[0].abs().max()
    assert float(off) == pytest.approx(float(wanted), rel=1e-12)


def test_more_codes_than_signals_give_more_values() -> None:
    # A trajectory has its time dimension before the batch of signals.
    problem = vd.SparseProblem(vd.DenseDictionary(normal(0, 4, 3)), normal(1, 2, 4), 0.1)
    a = normal(2, 5, 2, 3)
    assert problem.gap(a).shape == (5, 2)
    torch.testing.assert_close(problem.gap(a)[3], problem.gap(a[3]))


@given(problem=strategies.problems(), seed=seeds)
def test_the_objective_and_the_gap_are_differentiable(problem: vd.SparseProblem, seed: int) -> None:
    a = candidates(problem, seed)
    a = torch.where(a == 0, 0.5, a).requires_grad_()
    (slope,) = torch.autograd.grad(problem.objective(a).sum(), a)
    for one, row, got in zip(ones(problem), rows(a, problem), rows(slope, problem), strict=True):
        np.testing.assert_allclose(got, one.lam * np.sign(row) - one.pull(row), rtol=1e-10, atol=1e-12)


@given(problem=strategies.problems(), seed=seeds)
def test_moved_and_cut_off_problems_are_the_same(problem: vd.SparseProblem, seed: int) -> None:
    a = candidates(problem, seed)
    single = problem.to(dtype=torch.float32)
    assert single.objective(a.float()).dtype == torch.float32
    torch.testing.assert_close(single.objective(a.float()).double(), problem.objective(a), rtol=1e-4, atol=1e-5)
    flat = problem.flat()
    gap = flat.gap(a.reshape(*flat.batch_shape, *flat.dictionary.code_shape))
    torch.testing.assert_close(gap.reshape(problem.batch_shape), problem.gap(a), rtol=1e-10, atol=1e-13)
    index = torch.tensor([len(flat.x) - 1, 0])
    chosen = flat.select(index)
    codes = a.reshape(*flat.batch_shape, *flat.dictionary.code_shape)[index]
    torch.testing.assert_close(chosen.gap(codes), gap[index], rtol=1e-10, atol=1e-13)
    x = problem.x.clone().requires_grad_()
    followed = vd.SparseProblem(problem.dictionary, x, problem.lam, problem.ridge, problem.nonnegative)
    assert followed.objective(a).requires_grad
    assert not followed.detach().objective(a).requires_grad


def test_problems_say_what_they_are() -> None:
    P, x = vd.DenseDictionary(normal(0, 4, 3)), normal(1, 2, 4)
    assert str(vd.SparseProblem(P, x, 0.1)).startswith(
        "SparseProblem(kind=LASSO, lam=0.1, x=(2, 4), dictionary=DenseDictionary("
    )
    assert "non-negative elastic net" in str(vd.SparseProblem(P, x, 0.1, 0.5, nonnegative=True))


P = vd.DenseDictionary(normal(0, 4, 3))
x = normal(1, 2, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vd.SparseProblem(P, normal(1, 2, 3), 0.1), r"^x has shape \(2, 3\)"),
        (lambda: vd.SparseProblem(P, torch.full((2, 4), math.nan, dtype=torch.float64), 0.1), r"^x holds NaN"),
        (lambda: vd.SparseProblem(P, torch.ones(2, 4, dtype=torch.int64), 0.1), r"^x is a int64 tensor"),
        (lambda: vd.SparseProblem(P, x.float(), 0.1), r"^x is torch.float32 but the dictionary is torch.float64"),
        (lambda: vd.SparseProblem(P, x, -0.1), r"^lam is -0.1"),
        (lambda: vd.SparseProblem(P, x, math.nan), r"^lam is nan"),
        (lambda: vd.SparseProblem(P, x, torch.ones(3, dtype=torch.float64)), r"^lam has shape \(3,\)"),
        (lambda: vd.SparseProblem(P, x, torch.ones(2, 1, dtype=torch.float64)), r"^lam has shape \(2, 1\)"),
        (lambda: vd.SparseProblem(P, x, torch.tensor([0.1, -0.1], dtype=torch.float64)), r"^lam holds negative"),
        (lambda: vd.SparseProblem(P, x, torch.tensor([0.1, math.nan], dtype=torch.float64)), r"^lam holds NaN"),
        (lambda: vd.SparseProblem(P, x, torch.tensor([0.1, 0.2])), r"^lam is torch.float32 but x is torch.float64"),
        (lambda: vd.SparseProblem(P, x, 0.1, ridge=-1.0), r"^ridge is -1"),
        (lambda: vd.SparseProblem(P, x, 0.1).gap(normal(2, 3, 3)), r"^the code has shape \(3, 3\)"),
        (lambda: vd.SparseProblem(P, x, 0.1).objective(normal(2, 3)), r"^the code has shape \(3,\)"),
        (lambda: vd.SparseProblem(vd.DenseDictionary(normal(0, 2, 4, 3)), x, 0.1), r"^x has shape \(2, 4\)"),
    ],
)
def test_what_makes_no_problem_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
