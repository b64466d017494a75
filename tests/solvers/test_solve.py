"""`solve` certifies its codes, agrees with scikit-learn, and takes the steps that the paper gives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.references import Array, One, ones, rows
from tests.strategies import codes_for, normal, seeds, signals_for
from vars_dyn.solvers import support_systems
from vars_dyn.solvers.first_order import Ista, Iterate, ProximalStep
from vars_dyn.solvers.methods import Goal
from vars_dyn.solvers.solve import METHODS


def check_optimal(problem: vd.SparseProblem, solution: vd.Solution, kkt: float = 1e-8) -> None:
    """Check that the certificate is small and true, and that scikit-learn agrees where its solution is good enough."""
    assert solution.code.shape == (*problem.batch_shape, *problem.dictionary.code_shape)
    assert solution.converged.all()
    assert (solution.relative_gap <= 1e-8).all()
    for name in ("relative_gap", "kkt_residual"):
        torch.testing.assert_close(
            getattr(solution, name), getattr(problem, name)(solution.code), rtol=1e-2, atol=1e-14, equal_nan=True
        )
    for one, code, found in zip(
        ones(problem), rows(solution.code, problem), solution.kkt_residual.flatten().tolist(), strict=True
    ):
        assert found <= kkt
        assert one.kkt(code) <= kkt
        reference = one.argmin()
        assert one.objective(code) <= one.objective(reference) + 1e-12 * (1 + one.x @ one.x)
        if one.curvature(code) > 1e-3 and one.kkt(reference) <= 1e-9:
            np.testing.assert_allclose(code, reference, atol=1e-6)


@pytest.mark.parametrize("method", ["fista", "ista"])
@given(problem=strategies.problems())
def test_solutions_are_scikit_learns(method: str, problem: vd.SparseProblem) -> None:
    check_optimal(problem, vd.solve(problem, method=method))


@given(problem=strategies.problems())
def test_a_method_is_one_class_and_a_name(problem: vd.SparseProblem) -> None:
    """The example in CONTRIBUTING reaches certified optima, also without the polish."""
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)), names)
    steps = []

    class Counted(names["Inertial"]):  # type: ignore[misc]
        def step(self, iterate: Iterate, proximal: ProximalStep) -> Iterate:
            steps.append(len(iterate.code))
            return super().step(iterate, proximal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "inertial", Counted())
        check_optimal(problem, vd.solve(problem, "inertial"))
        before = len(steps)
        rough = vd.solve(problem, "inertial", tol=1e-4, polish=False)
    assert rough.converged.all()
    assert len(steps) - before == int(rough.iterations.max())


def test_fista_takes_over_where_a_method_does_not_suit() -> None:
    class Refusing(Ista):
        def suits(self, problem: vd.SparseProblem, start: Tensor | None, goal: Goal) -> bool:
            return False

    P = vd.DenseDictionary(normal(0, 8, 12))
    problem = vd.SparseProblem(P, normal(1, 5, 8), 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "refusing", Refusing())
        found = vd.solve(problem, "refusing", max_iterations=7, polish=False)
    wanted, other = (vd.solve(problem, name, max_iterations=7, polish=False).code for name in ("fista", "ista"))
    assert torch.equal(found.code, wanted)
    assert not torch.equal(found.code, other)


@given(problem=strategies.problems(shares=st.just(0.0)))
def test_without_a_penalty_solutions_are_least_squares(problem: vd.SparseProblem) -> None:
    solution = vd.solve(problem)
    assert solution.converged.all()
    assert (solution.kkt_residual <= 1e-8).all()
    for one, code in zip(ones(problem), rows(solution.code, problem), strict=True):
        assert one.objective(code) <= one.objective(one.argmin()) + 1e-9 * (1 + one.x @ one.x)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(("d", "atoms"), [(16, 40), (40, 16), (24, 24)])
@pytest.mark.parametrize("share", [1e-3, 0.1])
def test_middling_sizes_are_polished_to_rounding(d: int, atoms: int, share: float, nonnegative: bool) -> None:
    P = vd.DenseDictionary(normal(d, d, atoms) / d**0.5)
    x = signals_for(P, 1, (6,))
    lam = share * vd.SparseProblem(P, x, 1.0, nonnegative=nonnegative).critical_lam()
    problem = vd.SparseProblem(P, x, lam, nonnegative=nonnegative)
    check_optimal(problem, vd.solve(problem), kkt=1e-11)


@given(seed=seeds, share=st.sampled_from([1e-3, 0.1, 0.5]), nonnegative=st.booleans())
def test_atoms_given_twice_do_no_harm(seed: int, share: float, nonnegative: bool) -> None:
    half = normal(seed, 6, 5)
    P = vd.DenseDictionary(torch.cat([half, half, -half[:, :1], 2 * half[:, 1:2], torch.zeros_like(half[:, :1])], -1))
    x = signals_for(P, seed + 1, (4,))
    lam = share * vd.SparseProblem(P, x, 1.0, nonnegative=nonnegative).critical_lam()
    problem = vd.SparseProblem(P, x, lam, nonnegative=nonnegative)
    solution = vd.solve(problem)
    check_optimal(problem, solution)
    assert (solution.code[..., -1] == 0).all()


def test_hard_and_trivial_signals_share_a_batch() -> None:
    P = vd.DenseDictionary(normal(0, 12, 20))
    x = signals_for(P, 1, (5,))
    x[1] = 0
    critical = P.encode(x).abs().amax(-1)
    lam = critical * torch.tensor([1e-3, 1.0, 1.0 + 1e-9, 0.5, 0.999], dtype=torch.float64)
    problem = vd.SparseProblem(P, x, lam)
    solution = vd.solve(problem)
    check_optimal(problem, solution)
    assert ((solution.code != 0).sum(-1) > 0).tolist() == [True, False, False, True, True]
    # Signals whose optimum is the start at zero take no step.
    assert solution.iterations[1] == solution.iterations[2] == 0


def test_no_signals_are_solved_at_once() -> None:
    solution = vd.solve(vd.SparseProblem(vd.DenseDictionary(normal(0, 4, 3)), normal(1, 0, 4), 0.1))
    assert solution.code.shape == (0, 3)
    assert solution.converged.shape == (0,)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_units_do_not_matter(scale: float) -> None:
    problem = hard_problem()
    plain = vd.solve(problem)
    scaled = vd.solve(vd.SparseProblem(problem.dictionary, scale * problem.x, scale * problem.lam))
    assert scaled.converged.all()
    torch.testing.assert_close(scaled.code / scale, plain.code, rtol=0, atol=1e-10)
    other = vd.DenseDictionary(scale * problem.dictionary.weight)
    scaled = vd.solve(vd.SparseProblem(other, problem.x, scale * problem.lam))
    assert scaled.converged.all()
    torch.testing.assert_close(scaled.code * scale, plain.code, rtol=0, atol=1e-10)


def test_signals_with_and_without_a_penalty_share_a_batch() -> None:
    P, x = vd.DenseDictionary(normal(0, 8, 5)), normal(1, 3, 8)
    for nonnegative in (False, True):
        problem = vd.SparseProblem(P, x, torch.tensor([0.5, 0.0, 2.0]).double(), nonnegative=nonnegative)
        solution = vd.solve(problem)
        assert solution.converged.all()
        assert (solution.kkt_residual <= 1e-12).all()
        for one, code in zip(ones(problem), rows(solution.code, problem), strict=True):
            np.testing.assert_allclose(code, one.argmin(), atol=1e-6)


def test_a_single_signal_needs_no_batch_dimension() -> None:
    problem = vd.SparseProblem(vd.DenseDictionary(normal(0, 4, 3)), normal(1, 4), 0.1)
    check_optimal(problem, vd.solve(problem))


def ista(one: One, a: Array, L: float, steps: int) -> Array:
    """Eq. 12 in NumPy."""
    for _ in range(steps):
        v = a + one.pull(a) / L
        shrunk = np.maximum(v - one.lam / L, 0)
        a = shrunk if one.nonnegative else shrunk - np.maximum(-v - one.lam / L, 0)
    return a


def fista(one: One, a: Array, L: float, steps: int) -> Array:
    """Beck and Teboulle's method. Like O'Donoghue and Candes it drops the momentum if it points uphill."""
    y, t = a, 1.0
    for _ in range(steps):
        new = ista(one, y, L, 1)
        if (y - new) @ (new - a) > 0:
            y, t = new, (1 + math.sqrt(5)) / 2
        else:
            following = (1 + math.sqrt(1 + 4 * t * t)) / 2
            y, t = new + (t - 1) / following * (new - a), following
        a = new
    return a


@pytest.mark.parametrize("steps", [1, 9, 10, 37])
@given(problem=strategies.problems(strategies.dense()))
def test_ista_takes_the_steps_of_eq_12_from_the_papers_start(steps: int, problem: vd.SparseProblem) -> None:
    solution = vd.solve(problem, method="ista", tol=1e-14, max_iterations=steps, polish=False)
    L = float(problem.dictionary.lipschitz()) + float(problem.ridge)
    for one, code, taken in zip(
        ones(problem), rows(solution.code, problem), solution.iterations.flatten().tolist(), strict=True
    ):
        start = one.P.T @ one.x
        start = np.maximum(start, 0) if one.nonnegative else start
        # Signals whose gap is zero up to rounding leave early.
        assert taken == steps or one.gap(code) <= 1e-13 * (one.x @ one.x)
        np.testing.assert_allclose(code, ista(one, start, L, taken), atol=1e-11)


@given(problem=strategies.problems(strategies.dense()))
def test_fista_takes_its_own_steps_from_zero(problem: vd.SparseProblem) -> None:
    solution = vd.solve(problem, tol=1e-14, max_iterations=45, polish=False)
    L = float(problem.dictionary.lipschitz()) + float(problem.ridge)
    for one, code, taken in zip(
        ones(problem), rows(solution.code, problem), solution.iterations.flatten().tolist(), strict=True
    ):
        assert taken == 45 or one.gap(code) <= 1e-13 * (one.x @ one.x)
        # At a restart, rounding may choose between two equal directions, so the test compares the objective only.
        wanted = fista(one, np.zeros(one.P.shape[1]), L, taken)
        assert one.objective(code) == pytest.approx(one.objective(wanted), rel=1e-6, abs=1e-9)


def hard_problem() -> vd.SparseProblem:
    """A problem with coherent atoms. Its first signal is slow, and its second is easy."""
    P = vd.DenseDictionary(normal(0, 20, 30) + 0.5)
    x = signals_for(P, 1, (3,))
    lam = P.encode(x).abs().amax(-1) * torch.tensor([0.01, 0.9, 0.1], dtype=torch.float64)
    return vd.SparseProblem(P, x, lam)


def test_fista_is_faster_than_ista() -> None:
    problem = hard_problem()
    fast = vd.solve(problem, tol=1e-5, polish=False)
    slow = vd.solve(problem, method="ista", tol=1e-5, max_iterations=20_000, polish=False)
    assert fast.converged.all()
    assert 3 * fast.iterations[0] < slow.iterations[0]


def test_signals_leave_when_they_are_done_and_do_not_disturb_each_other() -> None:
    problem = hard_problem()
    together = vd.solve(problem, tol=1e-7, polish=False)
    assert together.iterations[1] < together.iterations[0]
    for i in range(3):
        alone = vd.solve(vd.SparseProblem(problem.dictionary, problem.x[i], problem.lam[i]), tol=1e-7, polish=False)
        assert alone.iterations == together.iterations[i]
        torch.testing.assert_close(alone.code, together.code[i], rtol=1e-9, atol=1e-11)
        assert alone.relative_gap <= 1e-7


@pytest.mark.parametrize("polish", [True, False])
@given(problem=strategies.problems(), limit=st.integers(1, 12))
def test_converged_is_true_only_where_it_is(polish: bool, problem: vd.SparseProblem, limit: int) -> None:
    solution = vd.solve(problem, tol=1e-12, max_iterations=limit, polish=polish)
    certified = problem.relative_gap(solution.code)
    torch.testing.assert_close(solution.relative_gap, certified, rtol=1e-6, atol=1e-13)
    assert torch.equal(solution.converged, solution.relative_gap <= 1e-12)
    assert (solution.iterations <= limit).all()


def test_too_few_steps_are_admitted() -> None:
    solution = vd.solve(hard_problem(), max_iterations=2, polish=False)
    assert solution.converged.tolist() == [False, False, False]
    assert solution.iterations.tolist() == [2, 2, 2]


def test_a_start_is_where_it_starts() -> None:
    problem = hard_problem()
    solved = vd.solve(problem)
    again = vd.solve(problem, start=solved.code)
    assert again.iterations.tolist() == [0, 0, 0]
    torch.testing.assert_close(again.code, solved.code, rtol=0, atol=1e-10)
    start = codes_for(problem.dictionary, 5)
    kept = start.clone()
    step = vd.solve(problem, method="ista", start=start, max_iterations=1, polish=False)
    L = float(problem.dictionary.lipschitz())
    for one, code, first in zip(ones(problem), step.code.numpy(), start.numpy(), strict=True):
        np.testing.assert_allclose(code, ista(one, first, L, 1), atol=1e-12)
    assert torch.equal(start, kept)


@given(P=st.one_of(strategies.batched_dense(), strategies.random_features()), seed=seeds)
def test_each_element_of_a_batch_has_its_own_dictionary(P: vd.Dictionary, seed: int) -> None:
    problem = vd.SparseProblem(P, signals_for(P, seed, (3,)), 0.2)
    solution = vd.solve(problem)
    check_optimal(problem, solution)


@pytest.mark.parametrize(
    "P",
    [
        vd.ConvDictionary(normal(0, 3, 1, 3, 3) / 3, (1, 9, 8), stride=2, padding=1),
        vd.FourierDictionary(normal(1, 2, 1, 6, 6) / 6),
        vd.UnionDictionary(
            vd.ConvDictionary(normal(2, 2, 1, 3, 3) / 3, (1, 5, 5)), vd.DenseDictionary(normal(3, 2, 25, 4))
        ),
    ],
    ids=["conv", "fourier", "union"],
)
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_without_the_matrix_written_out_solutions_are_the_same(
    P: vd.Dictionary, ridge: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = signals_for(P, 7, (3,))
    lam = 0.1 * vd.SparseProblem(P, x, 1.0).critical_lam()
    problem = vd.SparseProblem(P, x, lam, ridge)
    written = vd.solve(problem)
    monkeypatch.setattr(support_systems, "MATRIX_LIMIT", 0)
    applied = vd.solve(problem)
    check_optimal(problem, applied)
    torch.testing.assert_close(problem.objective(applied.code), problem.objective(written.code), rtol=1e-12, atol=0)
    curvatures = [one.curvature(a) for one, a in zip(ones(problem), rows(written.code, problem), strict=True)]
    if min(curvatures) > 1e-3:
        torch.testing.assert_close(applied.code, written.code, rtol=0, atol=1e-8)


def test_a_dictionary_too_large_to_be_written_out_is_solved() -> None:
    P = vd.ConvDictionary(normal(0, 8, 1, 5, 5) / 5, (1, 32, 32), padding=2)
    assert not support_systems.is_small(P)
    x = signals_for(P, 1, (2,))
    problem = vd.SparseProblem(P, x, 0.3 * P.encode(x).flatten(1).abs().amax(-1))
    solution = vd.solve(problem)
    assert solution.converged.all()
    assert (solution.kkt_residual <= 1e-8).all()
    assert ((solution.code != 0).flatten(1).sum(-1) > 5).all()


@given(problem=strategies.problems())
def test_float32_is_solved_in_float32(problem: vd.SparseProblem) -> None:
    single = problem.to(dtype=torch.float32)
    solution = vd.solve(single, tol=1e-4)
    assert solution.code.dtype == solution.relative_gap.dtype == torch.float32
    excess = problem.objective(solution.code.double()) - problem.objective(vd.solve(problem).code)
    size = 0.5 * problem.sum_signal(problem.x.square())
    assert (excess <= 2e-4 * size + 1e-30).all()


def test_solutions_carry_no_graph() -> None:
    P = vd.DenseDictionary(normal(0, 4, 3).requires_grad_())
    x = normal(1, 2, 4).requires_grad_()
    solution = vd.solve(vd.SparseProblem(P, x, torch.full((2,), 0.1, dtype=torch.float64, requires_grad=True)))
    assert not any(t.requires_grad for t in solution[:5] if isinstance(t, Tensor))
    assert torch.is_grad_enabled()


problem = vd.SparseProblem(vd.DenseDictionary(normal(0, 4, 3)), normal(1, 2, 4), 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: vd.solve(problem, method="newton"),
            r"^method is 'newton'; one of ista, fista, admm, active-set, auto is wanted",
        ),
        (lambda: vd.solve(problem, tol=0.0), r"^tol is 0.0"),
        (lambda: vd.solve(problem, tol=-1e-3), r"^tol is -0.001"),
        (lambda: vd.solve(problem, tol=math.nan), r"^tol is nan"),
        (lambda: vd.solve(problem, max_iterations=0), r"^max_iterations is 0"),
        (lambda: vd.solve(problem, start=normal(2, 3)), r"^start has shape \(3,\); \(2, 3\) is wanted"),
        (lambda: vd.solve(problem, start=normal(2, 2, 3).float()), r"^start is torch.float32"),
        (lambda: vd.solve(problem, start=normal(2, 2, 3) / 0), r"^start holds NaN or infinite"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
