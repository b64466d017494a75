"""Problems of a given quadratic form, and the dictionaries that represent it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests.strategies import codes_for, normal, seeds, signals_for
from vars_dyn.dictionaries.factored import FactoredForm
from vars_dyn.dictionaries.identity import ScaledIdentity
from vars_dyn.penalties import L1, NonNegativeL1, Penalty
from vars_dyn.quadratic import identity_problem, matrix_problem

SHAPES = [(5,), (2, 3)]


def forms(seed: int, *lead: int, n: int) -> Tensor:
    """Positive definite matrices."""
    root = normal(seed, *lead, n, n)
    return root @ root.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)


def written(q: Tensor, b: Tensor, a: Tensor, lam: float) -> Tensor:
    """1/2 a.Q a - b.a + lam |a|_1, for flattened codes."""
    return 0.5 * (a * (a @ q)).sum(-1) - (a * b).sum(-1) + lam * a.abs().sum(-1)


@pytest.mark.parametrize("penalty", [L1(), NonNegativeL1()], ids=lambda penalty: penalty.name)
@given(seed=seeds, batch=st.sampled_from([(), (2,)]), shape=st.sampled_from(SHAPES))
def test_the_objective_is_the_quadratic_form_up_to_a_constant(
    penalty: Penalty, seed: int, batch: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    n = 5 if len(shape) == 1 else 6
    q, b, lam = forms(seed, *batch, n=n), normal(seed + 1, *batch, 3, *shape), 0.3
    problem = matrix_problem(q, b, shape, lam, penalty)
    a, other = (normal(seed + i, *batch, 3, *shape).abs() for i in (2, 3))
    found = problem.objective(a) - problem.objective(other)
    wanted = written(q, *(t.flatten(-len(shape)) for t in (b, a)), lam)
    wanted = wanted - written(q, *(t.flatten(-len(shape)) for t in (b, other)), lam)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
    assert problem.penalty is penalty


@given(seed=seeds, shape=st.sampled_from(SHAPES), scale=st.sampled_from([0.3, 1.0, 7.0]))
def test_the_problem_of_a_multiple_of_the_identity_is_a_gate(seed: int, shape: tuple[int, ...], scale: float) -> None:
    """argmin scale/2 |a|^2 - b.a + lam |a|_1 is soft(b, lam) / scale."""
    b = normal(seed, 4, *shape)
    solution = vd.solve(identity_problem(scale, b, shape, 0.3))
    torch.testing.assert_close(solution.code, vd.SoftThreshold(0.3)(b) / scale, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "dictionary",
    [
        ScaledIdentity(torch.tensor(1.7, dtype=torch.float64), (2, 3)),
        FactoredForm(normal(0, 6, 6), (2, 3)),
        FactoredForm(normal(1, 2, 6, 6), (6,)),
    ],
    ids=["identity", "factored", "batched"],
)
@given(seed=seeds)
def test_both_dictionaries_keep_the_contract(dictionary: vd.Dictionary, seed: int) -> None:
    x, a = signals_for(dictionary, seed), codes_for(dictionary, seed + 1)
    signal, code = len(dictionary.signal_shape), len(dictionary.code_shape)
    one = (dictionary.encode(x) * a).flatten(-code).sum(-1)
    torch.testing.assert_close(one, (x * dictionary.decode(a)).flatten(-signal).sum(-1), rtol=1e-12, atol=1e-12)
    largest = torch.linalg.matrix_norm(dictionary.matrix(), 2).square()
    assert (dictionary.lipschitz() >= largest * (1 - 1e-14)).all()
    torch.testing.assert_close(dictionary.lipschitz(), largest, rtol=1e-12, atol=0)
    twin = dictionary.with_tensors(tuple(2 * t for t in dictionary.tensors()))
    torch.testing.assert_close(twin.decode(a), 2 * dictionary.decode(a))


@pytest.mark.parametrize("entry", [0.0, -1.0, float("nan"), float("inf")])
def test_a_form_that_has_no_factor_is_refused_in_a_sentence(entry: float) -> None:
    q = torch.eye(3, dtype=torch.float64)
    q[1, 1] = entry
    with pytest.raises(ValueError, match="is not positive definite to rounding"):
        matrix_problem(q, torch.ones(2, 3, dtype=torch.float64), (3,), 0.1)
