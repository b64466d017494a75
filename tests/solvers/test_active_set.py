"""The linear system on a support, and the polish, which ends on the right support."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.references import ones, rows
from tests.strategies import codes_for, normal, seeds, signals_for
from vars_dyn.solvers import active_set, support_systems
from vars_dyn.solvers.active_set import polish
from vars_dyn.solvers.support_systems import support_system

both_paths = pytest.mark.parametrize("limit", [1 << 22, 0], ids=["written out", "matrix-free"])


def some_support(problem: vd.SparseProblem, seed: int) -> Tensor:
    """A support with some atoms for every signal, but none for the first."""
    support = codes_for(problem.dictionary, seed, problem.batch_shape) > 0.4
    support.reshape(-1, problem.dictionary.code_size)[0] = False
    return support


@both_paths
@given(problem=strategies.problems(ridges=st.sampled_from([0.1, 1.0])), seed=seeds)
def test_the_system_is_the_gram_matrix_on_the_support(limit: int, problem: vd.SparseProblem, seed: int) -> None:
    problem = problem.flat()
    support, v = some_support(problem, seed), codes_for(problem.dictionary, seed + 1, problem.batch_shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support_systems, "MATRIX_LIMIT", limit)
        system = support_system(problem, support)
        y, condition = system.solve(v), system.condition()
    assert y.shape == v.shape
    everything = zip(
        ones(problem), *(rows(t, problem) for t in (support, v, y)), condition.flatten().tolist(), strict=True
    )
    for one, mask, right, found, number in everything:
        assert (found[~mask] == 0).all()
        matrix = (one.P.T @ one.P + one.ridge * np.eye(len(right)))[np.ix_(mask, mask)]
        np.testing.assert_allclose(found[mask], np.linalg.solve(matrix, right[mask]), rtol=1e-9, atol=1e-11)
        if limit:
            assert number == pytest.approx(np.linalg.cond(matrix) if mask.any() else 1.0, rel=1e-6)


@both_paths
def test_a_condition_number_is_the_supports_own(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support_systems, "MATRIX_LIMIT", limit)
    P = vd.DenseDictionary(normal(0, 30, 12))
    problem = vd.SparseProblem(P, signals_for(P, 1), 0.1)
    support = normal(2, 3, 12) > 0
    wanted = [np.linalg.cond(P.weight[:, mask].numpy()) ** 2 for mask in support]
    np.testing.assert_allclose(support_system(problem, support).condition(), wanted, rtol=0.1 if not limit else 1e-9)


def test_dependent_atoms_are_recognised_and_get_the_smallest_solution() -> None:
    half = normal(0, 6, 3)
    P = vd.DenseDictionary(torch.cat([half, half], -1))
    problem = vd.SparseProblem(P, signals_for(P, 1, (3,)), 0.1)
    support = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1]], dtype=torch.bool)
    system = support_system(problem, support)
    assert system.singular().tolist() == [False, True, False]
    assert system.condition().isinf().tolist() == [False, True, False]
    v = P.encode(normal(2, 3, 6))
    y = system.solve_least(v)
    gram = (P.weight.mT @ P.weight).numpy()
    for mask, right, found in zip(support.numpy(), v.numpy(), y.numpy(), strict=True):
        least = np.linalg.lstsq(gram[np.ix_(mask, mask)], right[mask], rcond=1e-10)[0]
        np.testing.assert_allclose(found[mask], least, rtol=1e-8)
        assert (found[~mask] == 0).all()


@given(problem=strategies.problems(), seed=seeds, amount=st.sampled_from([0.0, 1e-6, 1e-3]))
def test_a_code_near_the_optimum_is_polished_to_rounding(problem: vd.SparseProblem, seed: int, amount: float) -> None:
    problem = problem.flat()
    exact = vd.solve(problem).code
    near = exact + amount * torch.where(exact == 0, 0.0, codes_for(problem.dictionary, seed, problem.batch_shape))
    near = near.clamp(min=0) if problem.nonnegative else near
    polished = polish(problem, near)
    scale = problem.max_code(problem.dictionary.encode(problem.x).abs()) + problem.lam
    assert (problem.kkt_residual(polished) <= 1e-10 * (1 + scale)).all()


@given(problem=strategies.problems(strategies.dense()), seed=seeds)
def test_from_anywhere_the_polish_ends_at_the_optimum_and_never_rises(problem: vd.SparseProblem, seed: int) -> None:
    problem = problem.flat()
    start = codes_for(problem.dictionary, seed, problem.batch_shape)
    start = torch.where(start.abs() < 0.7, 0.0, start)
    start = start.abs() if problem.nonnegative else start
    kept = start.clone()
    value = problem.objective(start)
    for limit in (1, 2, 4):
        after = problem.objective(polish(problem, start, max_steps=limit + 1))
        assert (after <= value * (1 + 1e-12) + 1e-14).all()
    polished = polish(problem, start)
    assert torch.equal(start, kept)
    for one, code in zip(ones(problem), rows(polished, problem), strict=True):
        assert one.objective(code) <= one.objective(one.argmin()) + 1e-10 * (1 + one.x @ one.x)


@given(problem=strategies.problems(strategies.dense(max_d=6)), seed=seeds)
def test_no_step_of_the_polish_rises(problem: vd.SparseProblem, seed: int) -> None:
    problem = problem.flat()
    a = 2 * codes_for(problem.dictionary, seed, problem.batch_shape)
    a = a.abs() if problem.nonnegative else a
    scale = problem.critical_lam() + problem.lam
    gram = support_systems.gram_matrix(problem.dictionary)
    for _ in range(5):
        c = problem.dictionary.encode(problem.residual(a)) - problem.ridge * a
        after = active_set._step(problem, a, c, scale, gram)
        value = problem.objective(a)
        assert (problem.objective(after) <= value + 1e-12 * (1 + value)).all()
        a = after


def test_many_signals_are_polished_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    P = vd.DenseDictionary(normal(0, 8, 12))
    x = signals_for(P, 1, (20,))
    problem = vd.SparseProblem(P, x, 0.5)
    start = vd.solve(problem, tol=1e-3, polish=False).code
    whole = polish(problem, start)
    monkeypatch.setattr(active_set, "_CHUNK", 3 * 8**2)
    torch.testing.assert_close(polish(problem, start), whole, rtol=0, atol=1e-12)
    own = vd.SparseProblem(vd.DenseDictionary(normal(2, 4, 8, 12)), normal(3, 4, 5, 8), 0.5)
    start = vd.solve(own, tol=1e-3, polish=False).code
    pieces = polish(own, start)
    monkeypatch.undo()
    torch.testing.assert_close(pieces, polish(own, start), rtol=0, atol=1e-12)
