"""A ridge of each signal and each atom: values, certificates, solvers and gradients, against SciPy and Clarabel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.references import interior_point
from tests.strategies import codes_for, normal, seeds
from vars_dyn.solvers.methods import Goal
from vars_dyn.solvers.solve import METHODS

kinds = st.one_of(strategies.dense(max_d=6, max_atoms=8), strategies.batched_dense(), strategies.conv(max_side=3))
spreads = st.sampled_from(["signal", "atom", "both"])


def spread_ridge(seed: int, spread: str, batch: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Ridges over two decades, some of them zero; the shape says of what they are, even where sizes agree."""
    sizes = {"signal": (*batch, *(1,) * len(shape)), "atom": (1, *shape) if batch else shape, "both": (*batch, *shape)}
    value = 10 ** normal(seed, *sizes[spread])
    return torch.where(value < 0.3, 0.0, value)


@st.composite
def ridged(draw: st.DrawFn, share: float | None = None) -> vd.SparseProblem:
    """A problem with ridges that differ, by turns with weights, a bias, and a size far from one."""
    plain = draw(strategies.problems(kinds, shares=st.sampled_from([0.03, 0.2, 0.5]), ridges=st.just(0.0)))
    shape, seed = plain.dictionary.code_shape, draw(seeds)
    ridge = spread_ridge(seed, draw(spreads), plain.batch_shape, shape)
    if draw(st.booleans()):
        weighted = strategies.weighted(plain, seed, bias=draw(st.sampled_from([0.0, 0.9])))
        w, q = weighted.weights, weighted.bias
        found = vd.SparseProblem(plain.dictionary, plain.x, plain.lam, ridge, plain.nonnegative, weights=w, bias=q)
        assume(bool(found.bounded().all()))
        return found
    power = draw(st.sampled_from([0, 0, 30, -40]))
    dictionary = plain.dictionary.with_tensors(tuple(t * 2.0**power for t in plain.dictionary.tensors()))
    return vd.SparseProblem(dictionary, plain.x, plain.lam * 2.0**power, ridge * 4.0**power, plain.nonnegative)


def written(problem: vd.SparseProblem) -> list[dict[str, Any]]:
    """The arrays of each signal's problem; a ridge is as many rows more."""
    matrices = problem.dictionary.matrix().reshape(-1, problem.dictionary.signal_size, problem.dictionary.code_size)
    x = problem.x.reshape(-1, problem.dictionary.signal_size).numpy()
    each, full = len(x) // len(matrices), (*problem.batch_shape, *problem.dictionary.code_shape)

    def per_atom(value: Tensor | float | None, default: float) -> np.ndarray:
        value = torch.as_tensor(default if value is None else value, dtype=torch.float64)
        return value.expand(full).reshape(len(x), -1).numpy()

    ridge, weights, bias = per_atom(problem.ridge, 0), per_atom(problem.weights, 1), per_atom(problem.bias, 0)
    lam = problem.lam.flatten().numpy()
    return [
        {"P": matrices[k // each].numpy(), "x": x[k], "ridge": ridge[k], "level": lam[k] * weights[k], "bias": bias[k]}
        for k in range(len(x))
    ]


def value(of: dict[str, Any], a: np.ndarray) -> float:
    r = of["x"] - of["P"] @ a
    return float(r @ r / 2 + of["level"] @ np.abs(a) - of["bias"] @ a + of["ridge"] @ a**2 / 2)


def argmin(of: dict[str, Any], nonnegative: bool) -> np.ndarray:
    squares = [(1.0, of["P"], of["x"]), (1.0, np.diag(np.sqrt(of["ridge"])), np.zeros(len(of["ridge"])))]
    found = interior_point(squares, of["level"], of["bias"], nonnegative)
    assert found is not None
    return found


@settings(max_examples=10)
@given(problem=ridged(), seed=seeds)
def test_values_are_their_formulas_and_the_gap_bounds_the_excess(problem: vd.SparseProblem, seed: int) -> None:
    a = codes_for(problem.dictionary, seed, problem.batch_shape) * 0.3
    a = torch.where(a.abs() < 0.1, 0.0, a.abs() if problem.nonnegative else a)
    objective, gap, kkt = (f(a).flatten().numpy() for f in (problem.objective, problem.gap, problem.kkt_residual))
    for k, (of, row) in enumerate(zip(written(problem), a.reshape(len(gap), -1).numpy(), strict=True)):
        e = value(of, row)
        assert objective[k] == pytest.approx(e, rel=1e-11, abs=1e-300)
        c = of["P"].T @ (of["x"] - of["P"] @ row) + of["bias"] - of["ridge"] * row
        idle = c - of["level"] if problem.nonnegative else np.abs(c) - of["level"]
        violation = np.where(row == 0, np.maximum(idle, 0), np.abs(c - of["level"] * np.sign(row)))
        assert kkt[k] == pytest.approx(violation.max(), rel=1e-8, abs=1e-9 * np.abs(c).max())
        if 1e-3 < np.abs(of["P"]).max() < 1e3:  # Clarabel's own range
            assert gap[k] >= e - value(of, argmin(of, problem.nonnegative)) - 1e-9 * (1 + abs(e))


@settings(max_examples=12)
@given(problem=ridged(), method=st.sampled_from(["auto", "active-set", "admm", "fista"]))
def test_every_method_reaches_its_gap_and_clarabels_minimum(problem: vd.SparseProblem, method: str) -> None:
    solution = vd.solve(problem, method)
    assert bool(solution.converged.all())
    codes = solution.code.reshape(-1, problem.dictionary.code_size).numpy()
    for of, row in zip(written(problem), codes, strict=True):
        if 1e-3 < np.abs(of["P"]).max() < 1e3:
            best = value(of, argmin(of, problem.nonnegative))
            assert value(of, row) <= best + 1e-8 * (1 + abs(best))


@pytest.mark.parametrize("spread", ["signal", "atom", "both"])
def test_no_method_leaves_them_to_fista(spread: str) -> None:
    """ADMM and the active set take them as they are, and solve nearly all signals themselves."""
    P, x = vd.DenseDictionary(torch.nn.functional.normalize(normal(0, 16, 40), dim=0)), normal(1, 30, 16)
    ridge = spread_ridge(2, spread, (30,), (40,))
    problem = vd.SparseProblem(P, x, 0.1, ridge).flat()
    for name in ("admm", "active-set"):
        method = METHODS[name]
        assert method.suits(problem, None, Goal(1e-8, 1000, True))
        proposal = method.propose(problem, Goal(1e-8, 1000, True))  # type: ignore[attr-defined]
        assert float((proposal.found.relative_gap < 1e-8).double().mean()) > 0.9


def test_equal_ridges_are_one_ridge() -> None:
    P, x = vd.DenseDictionary(normal(0, 6, 9)), normal(1, 2, 3, 6)
    one = vd.SparseProblem(P, x, 0.1, 0.7)
    for shape in [(2, 3), (9,), (2, 3, 1), (2, 3, 9), (1, 1, 9)]:
        other = vd.SparseProblem(P, x, 0.1, torch.full(shape, 0.7, dtype=torch.float64))
        for method in ("auto", "fista", "admm"):
            codes = (vd.solve(p, method).code for p in (one, other))
            torch.testing.assert_close(*codes, rtol=1e-10, atol=1e-12)
        a = normal(3, 2, 3, 9)
        for name in ("objective", "gap", "relative_gap", "kkt_residual"):
            torch.testing.assert_close(getattr(one, name)(a), getattr(other, name)(a), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spread", ["signal", "atom", "both"])
def test_the_implicit_gradient_is_that_of_finite_differences(spread: str) -> None:
    P, x, at = vd.DenseDictionary(normal(0, 6, 9) / 6**0.5), normal(1, 3, 6), normal(2, 3, 9)
    start = spread_ridge(4, spread, (3,), (9,)) + 0.2

    def loss(ridge: Tensor) -> Tensor:
        return (vd.equilibrium(vd.SparseProblem(P, x, 0.1, ridge), tol=1e-13).code * at).sum()

    ridge = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(ridge), ridge)
    toward, step = normal(5, *start.shape), 1e-6
    with torch.no_grad():
        quotient = (loss(start + step * toward) - loss(start - step * toward)) / (2 * step)
    assert float((slope * toward).sum()) == pytest.approx(float(quotient), rel=1e-6)


@pytest.mark.parametrize(
    ("ridge", "sentence"),
    [
        (
            torch.ones(3).double(),
            r"that of the signals' batch and of the atoms; \(3, 1\) .* or \(1, 3\) for one per atom",
        ),
        (torch.ones(4).double(), r"one number per atom, \(3,\), one per signal, \(3,\)"),
        (-torch.ones(3, 1).double(), "ridge holds entries that are negative"),
        (torch.full((1, 3), torch.nan).double(), "ridge holds NaN"),
        (torch.ones(3, 1), "ridge is torch.float32 but x is torch.float64"),
    ],
)
def test_what_is_refused(ridge: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        vd.SparseProblem(vd.DenseDictionary(normal(0, 5, 3)), normal(1, 3, 5), 0.1, ridge)
