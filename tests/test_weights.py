"""Weighted penalties and biases: objective, certificates, solvers and gradients, against scikit-learn and NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.campaigns import weights as campaign
from tests.references import ones, rows
from tests.strategies import codes_for, normal, seeds

#: Shares of lam that leave something to solve.
some = st.sampled_from([0.03, 0.2, 0.5])
METHODS = ("auto", "fista", "admm", "ista")


@st.composite
def weighted_problems(draw: st.DrawFn, ridges: st.SearchStrategy[float] = strategies.ridge_weights) -> vd.SparseProblem:
    """A problem with weights, some with a silenced atom, a free one, and a bias within or beyond the penalties."""
    plain = draw(strategies.problems(shares=some, ridges=ridges))
    bias = draw(st.sampled_from([0.0, 0.0, 0.5, 0.9, 1.1]))
    problem = strategies.weighted(plain, draw(seeds), silenced=draw(st.booleans()), free=draw(st.booleans()), bias=bias)
    atoms = plain.dictionary.matrix()[..., -1].norm(dim=-1)
    assume(bool((atoms > 1e-3).all()))  # a free atom of zeros is no independent one
    assume(bool(problem.bounded().all()))
    return problem


def candidates(problem: vd.SparseProblem, seed: int) -> Tensor:
    """Arbitrary codes in the problem's domain, with some zeros."""
    a = codes_for(problem.dictionary, seed, problem.batch_shape) * 0.5
    a = torch.where(a.abs() < 0.2, 0.0, a)
    a = a.abs() if problem.nonnegative else a
    assert problem.weights is not None
    return a.masked_fill(problem.weights.isinf(), 0.0)


@settings(max_examples=10)
@given(problem=weighted_problems(), seed=seeds)
def test_objective_and_kkt_are_their_formulas_and_the_gap_bounds_the_excess(
    problem: vd.SparseProblem, seed: int
) -> None:
    a = candidates(problem, seed)
    each = list(ones(problem))
    written = [one.objective(row) for one, row in zip(each, rows(a, problem), strict=True)]
    np.testing.assert_allclose(problem.objective(a).flatten(), written, rtol=1e-12, atol=1e-14)
    kkt = [one.kkt(row) for one, row in zip(each, rows(a, problem), strict=True)]
    # The bound includes the rounding of every entry, and its worst entry need not be the worst violation.
    np.testing.assert_allclose(problem.kkt_residual(a).flatten(), kkt, rtol=1e-9, atol=1e-11)
    solution = vd.solve(problem)
    for one, row, value, gap in zip(
        each, rows(solution.code, problem), written, problem.gap(a).flatten().tolist(), strict=True
    ):
        assert gap >= value - one.objective(row) - 1e-12 * (1 + abs(value))


@settings(max_examples=8)
@given(problem=weighted_problems(), method=st.sampled_from(METHODS))
def test_every_method_comes_within_its_gap_of_coordinate_descent(problem: vd.SparseProblem, method: str) -> None:
    solution = vd.solve(problem, method, max_iterations=3000)
    gaps = problem.gap(solution.code).flatten().tolist()
    for one, row, gap in zip(ones(problem), rows(solution.code, problem), gaps, strict=True):
        best = one.objective(one.descended(2000))
        size = 0.5 * one.x @ one.x + abs(best)
        assert one.objective(row) - best <= gap + 1e-12 * size
    if method != "ista":
        assert solution.converged.all()


@settings(max_examples=8)
@given(plain=strategies.problems(shares=some, ridges=st.just(0.0)), seed=seeds, silenced=st.booleans())
def test_weights_are_rescaled_columns(plain: vd.SparseProblem, seed: int, silenced: bool) -> None:
    problem = strategies.weighted(plain, seed, silenced=silenced)
    solution = vd.solve(problem)
    assert solution.converged.all()
    gaps = problem.gap(solution.code).flatten().tolist()
    for one, row, gap in zip(ones(problem), rows(solution.code, problem), gaps, strict=True):
        best = one.objective(one.rescaled_argmin())
        size = 0.5 * one.x @ one.x
        assert -1e-9 * size <= best - one.objective(row) + gap
        assert one.objective(row) <= best + 1e-12 * size
    if silenced:
        assert (solution.code.flatten(-len(plain.dictionary.code_shape))[..., 0] == 0).all()


def test_a_silenced_atom_is_no_atom() -> None:
    weight, x = normal(0, 6, 9), normal(1, 4, 6)
    silent = torch.ones(9, dtype=torch.float64).index_fill(0, torch.tensor([2, 5]), torch.inf)
    keep = torch.isfinite(silent)
    found = vd.solve(vd.SparseProblem(vd.DenseDictionary(weight), x, 0.2, weights=silent))
    wanted = vd.solve(vd.SparseProblem(vd.DenseDictionary(weight[:, keep]), x, 0.2))
    torch.testing.assert_close(found.code[:, keep], wanted.code, rtol=0, atol=1e-10)
    assert (found.code[:, ~keep] == 0).all()
    off = found.code + torch.where(keep, 0.0, 1e-9)
    problem = vd.SparseProblem(vd.DenseDictionary(weight), x, 0.2, weights=silent)
    for value in (problem.objective(off), problem.gap(off), problem.relative_gap(off)):
        assert value.isinf().all()


@pytest.mark.parametrize("nonnegative", [False, True])
def test_free_atoms_are_projected_out(nonnegative: bool) -> None:
    """With atoms of weight zero the other atoms solve the problem of the projected dictionary."""
    weight, x = normal(0, 8, 10), normal(1, 5, 8)
    weights = torch.ones(10, dtype=torch.float64).index_fill(0, torch.tensor([3, 7]), 0.0)
    problem = vd.SparseProblem(vd.DenseDictionary(weight), x, 0.2, nonnegative=nonnegative, weights=weights)
    solution = vd.solve(problem, tol=1e-11)
    assert solution.converged.all()
    if not nonnegative:
        free = weights == 0
        basis = torch.linalg.qr(weight[:, free])[0]
        away = torch.eye(8, dtype=torch.float64) - basis @ basis.mT
        rest = vd.solve(vd.SparseProblem(vd.DenseDictionary(away @ weight[:, ~free]), x @ away, 0.2))
        torch.testing.assert_close(solution.code[:, ~free], rest.code, rtol=0, atol=1e-9)
    # Off the optimum the gap is still useful: a code that ignores the free atoms is far, one with a small error near.
    off = solution.code + 1e-6
    assert (problem.relative_gap(off) < 1e-3).all()
    assert (problem.relative_gap(off) >= (problem.objective(off) - problem.objective(solution.code)) / 100).all()


def test_dependent_free_atoms_are_refused() -> None:
    weight = normal(0, 6, 4)
    weight[:, 3] = 2 * weight[:, 2]
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    problem = vd.SparseProblem(vd.DenseDictionary(weight), normal(1, 2, 6), 0.1, weights=weights)
    with pytest.raises(ValueError, match="weights is zero for 2 atoms that are linearly dependent"):
        vd.solve(problem)
    ridged = vd.SparseProblem(vd.DenseDictionary(weight), normal(1, 2, 6), 0.1, 0.1, weights=weights)
    assert vd.solve(ridged).converged.all()


def test_a_bias_in_the_range_of_the_atoms_is_a_change_of_the_signal() -> None:
    P, x, p = vd.DenseDictionary(normal(0, 5, 8)), normal(1, 3, 5), normal(2, 3, 5)
    biased = vd.solve(vd.SparseProblem(P, x, 0.3, bias=P.encode(p)), tol=1e-11)
    torch.testing.assert_close(biased.code, vd.solve(vd.SparseProblem(P, x + p, 0.3)).code, rtol=0, atol=1e-9)


def test_a_bias_that_leaves_no_minimum_is_refused() -> None:
    weight = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    x = normal(1, 2, 2)

    def problem(size: float, ridge: float = 0.0) -> vd.SparseProblem:
        # Along (1, -1) nothing is reconstructed, and E changes by 2 lam - 2 size.
        bias = size * torch.tensor([1.0, -1.0], dtype=torch.float64)
        return vd.SparseProblem(vd.DenseDictionary(weight), x, 0.1, ridge, bias=bias)

    assert problem(0.09).bounded().all()
    assert not problem(0.11).bounded().any()
    assert problem(0.11).gap(torch.zeros(2, 2, dtype=torch.float64)).isinf().all()
    with pytest.raises(ValueError, match=r"^bias exceeds the penalty of its atoms, and for 2 of 2 signals"):
        vd.solve(problem(0.11))
    assert vd.solve(problem(0.11, 0.1)).converged.all()
    field = vd.SparseRecurrent(vd.DenseDictionary(weight), x, 0.1, bias=torch.tensor([0.11, -0.11]).double())
    with pytest.raises(ValueError, match="no stable equilibrium is proved: bias currents exceed"):
        field.problem()


@settings(max_examples=8)
@given(problem=weighted_problems(), seed=seeds, by=st.tuples(st.integers(-200, 200), st.integers(-200, 200)))
def test_certificates_do_not_depend_on_units(problem: vd.SparseProblem, seed: int, by: tuple[int, int]) -> None:
    a, (i, j) = candidates(problem, seed), by
    # In their own units and in others both problems are brought to the same ones.
    i, j = i + 150, j - 150
    assume(abs(i) > 110 or abs(j) > 110)
    first, other = (rescaled(problem, *units) for units in ((150, -150), (i, j)))
    here, there = first.relative_gap(a * 2.0**300), other.relative_gap(a * 2.0 ** (i - j))
    torch.testing.assert_close(there, here, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        other.kkt_residual(a * 2.0 ** (i - j)) * 2.0 ** -(i + j), first.kkt_residual(a * 2.0**300), rtol=1e-12, atol=0
    )


def rescaled(problem: vd.SparseProblem, i: int, j: int) -> vd.SparseProblem:
    """The problem in units 2^i of its signals and 2^j of its dictionary."""
    return vd.SparseProblem(
        problem.dictionary.scaled(torch.full(problem.dictionary.largest().shape, j, dtype=torch.int32)),
        problem.x * 2.0**i,
        problem.lam * 2.0 ** (i + j),
        problem.ridge * 4.0**j,
        problem.nonnegative,
        weights=problem.weights,
        bias=None if problem.bias is None else problem.bias * 2.0 ** (i + j),
    )


@pytest.mark.parametrize("bias", [0.0, 0.5])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_implicit_gradients_are_finite_differences(bias: float, nonnegative: bool) -> None:
    weight, x = normal(0, 6, 8), normal(1, 2, 6)
    weights = 0.5 + torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights[0], weights[-1] = torch.inf, 0.0
    q = bias * 0.3 * weights.masked_fill(weights.isinf(), 0.0) * normal(3, 8).clamp(-1, 1)
    inputs = [weight, x, torch.tensor([0.3, 0.2]).double(), weights, q]

    def code(P: Tensor, x: Tensor, lam: Tensor, w: Tensor, q: Tensor) -> Tensor:
        problem = vd.SparseProblem(vd.DenseDictionary(P), x, lam, nonnegative=nonnegative, weights=w, bias=q)
        return vd.equilibrium(problem, tol=1e-11).code

    leaves = [t.clone().requires_grad_() for t in inputs]
    direction = normal(9, 2, 8)
    slopes = torch.autograd.grad((code(*leaves) * direction).sum(), leaves)
    assert all(torch.isfinite(s).all() for s in slopes)
    for k, slope in enumerate(slopes):
        moved = normal(20 + k, *inputs[k].shape)
        # A weight of zero or infinity stays what it is.
        moved = torch.where(inputs[3].isinf() | (inputs[3] == 0), 0.0, moved) if k == 3 else moved
        step = 1e-6
        ends = []
        for sign in (1, -1):
            at = list(inputs)
            at[k] = inputs[k] + sign * step * moved
            ends.append((code(*at) * direction).sum())
        assert float((slope * moved).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-7)


def test_the_gaps_gradient_is_its_formulas() -> None:
    P, x, a = normal(0, 5, 4), normal(1, 2, 5), normal(2, 2, 4)
    w, q = torch.tensor([1.0, 0.4, 2.0, 0.7]).double(), torch.tensor([0.1, -0.1, 0.2, 0.0]).double()
    inputs = tuple(t.requires_grad_() for t in (P, x, torch.tensor([0.4, 0.3]).double(), w, q, a))

    def relative(P: Tensor, x: Tensor, lam: Tensor, w: Tensor, q: Tensor, a: Tensor) -> Tensor:
        return vd.SparseProblem(vd.DenseDictionary(P), x, lam, weights=w, bias=q).relative_gap(a)

    assert torch.autograd.gradcheck(relative, inputs)


@settings(max_examples=6)
@given(plain=strategies.problems(shares=some), seed=seeds)
def test_flat_selected_and_converted_problems_are_the_same(plain: vd.SparseProblem, seed: int) -> None:
    problem = strategies.weighted(plain, seed, silenced=True, bias=0.5)
    a = candidates(problem, seed)
    flat = problem.flat()
    codes = a.reshape(*flat.batch_shape, *flat.dictionary.code_shape)
    gap = problem.gap(a)
    torch.testing.assert_close(flat.gap(codes).reshape(gap.shape), gap, rtol=1e-10, atol=1e-13)
    index = torch.tensor([len(flat.x) - 1, 0])
    torch.testing.assert_close(flat.select(index).gap(codes[index]), flat.gap(codes)[index], rtol=1e-10, atol=1e-13)
    single = problem.to(dtype=torch.float32)
    torch.testing.assert_close(single.objective(a.float()).double(), problem.objective(a), rtol=1e-4, atol=1e-4)
    # A bias beyond what is found to be bounded is refused.
    assume(bool(single.to(dtype=torch.float64).bounded().all()))
    assert vd.solve(single, tol=1e-4).converged.all()


def test_the_critical_weight_counts_the_bias_and_leaves_free_atoms_out() -> None:
    P, x = vd.DenseDictionary(normal(0, 6, 5)), normal(1, 3, 6)
    weights = torch.tensor([1.0, 0.5, 2.0, torch.inf, 0.0], dtype=torch.float64)
    q = torch.tensor([0.1, -0.2, 0.0, 5.0, 0.1], dtype=torch.float64)
    problem = vd.SparseProblem(P, x, 1.0, weights=weights, bias=q)
    critical = problem.critical_lam()
    for share, idle in ((1 + 1e-9, True), (0.99, False)):
        code = vd.solve(vd.SparseProblem(P, x, share * critical, weights=weights, bias=q)).code
        assert ((code[:, :4] == 0).all(-1) == idle).all()


P, x = vd.DenseDictionary(normal(0, 4, 3)), normal(1, 2, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vd.SparseProblem(P, x, 0.1, weights=-torch.ones(3).double()), "^weights holds negative"),
        (lambda: vd.SparseProblem(P, x, 0.1, weights=torch.full((3,), math.nan).double()), "^weights holds NaN"),
        (lambda: vd.SparseProblem(P, x, 0.1, weights=torch.ones(4).double()), r"^weights has shape \(4,\)"),
        (lambda: vd.SparseProblem(P, x, 0.1, weights=torch.ones(3)), "^weights is torch.float32"),
        (lambda: vd.SparseProblem(P, x, 0.1, bias=torch.full((3,), math.inf).double()), "^bias holds NaN or infinite"),
        (
            lambda: vd.SparseProblem(P, x, 0.1, weights=torch.eye(3)[:2].double()),
            "^weights is zero for an atom at some",
        ),
        (lambda: vd.SparseRecurrent(P, x, 0.1, weights=-torch.ones(3).double()), "^weights holds negative"),
    ],
)
def test_what_makes_no_problem_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_sample_of_the_campaign_holds() -> None:
    counts, failures = campaign.campaign(24, 1)
    assert not failures, failures[0]
    assert counts["solved"] >= 20
    assert counts["solved"] + counts["unbounded"] == 24
