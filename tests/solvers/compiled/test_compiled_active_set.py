"""The compiled active set finds the optima that independent solvers find, also of degenerate problems."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.references import ones, rows
from tests.strategies import normal, seeds
from vars_dyn.solvers.compiled import active_set
from vars_dyn.solvers.compiled.active_set import CompiledActiveSet
from vars_dyn.solvers.first_order import Fista
from vars_dyn.solvers.methods import Found, Goal
from vars_dyn.solvers.mixed_precision import Grown
from vars_dyn.solvers.solve import METHODS

pytest.importorskip("numba")

#: The ways to c: from a Gram matrix, one signal after the other, and in rounds of all signals.
WAYS = {"gram": (0.0, 8), "alone": (1e9, 10**9), "rounds": (1e9, 0)}


def proposed(problem: vd.SparseProblem, way: str, limit: int = 10_000) -> Found:
    """What the method proposes before FISTA may repair it."""
    per_atom, few = WAYS[way]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active_set, "_SIGNALS_PER_ATOM", per_atom)
        patch.setattr(active_set, "_FEW", few)
        patch.setattr(active_set, "_SMALL", 0)
        return CompiledActiveSet().propose(problem.flat(), Goal(1e-8, limit, True)).found


def rounding(problem: vd.SparseProblem) -> Tensor:
    return 1e4 * torch.finfo(torch.float64).eps * (problem.drive().abs().amax(-1) + problem.lam)


@st.composite
def cases(draw: st.DrawFn) -> vd.SparseProblem:
    """Shared dictionaries, wide and tall, with parts that are equal, opposite, zero or nearly so."""
    seed, d, atoms, n = draw(seeds), draw(st.integers(1, 12)), draw(st.integers(1, 20)), draw(st.integers(1, 5))
    weight = normal(seed, d, atoms)
    if draw(st.booleans()):
        weight = torch.cat([weight, weight[:, :1], -weight[:, -1:], 2 * weight[:, :1], 0 * weight[:, :1]], -1)
    x, kind = normal(seed + 1, n, d), draw(st.sampled_from(["plain", "nonnegative", "ridge", "weights", "bias"]))
    P = vd.DenseDictionary(weight)
    share = draw(st.sampled_from([1e-4, 0.01, 0.1, 0.5, 1.1]))
    lam = share * vd.SparseProblem(P, x, 1.0).critical_lam().clamp(min=1e-3)
    more: dict[str, object] = {}
    if kind == "weights":
        weights = 0.2 + normal(seed + 2, weight.shape[1]).abs()
        more["weights"] = torch.where(normal(seed + 3, weight.shape[1]) > 1, torch.inf, weights)
    elif kind == "bias":
        more["bias"] = 0.9 * lam.min() * normal(seed + 2, n, weight.shape[1]).clamp(-1, 1)
    return vd.SparseProblem(P, x, lam, ridge=0.1 if kind == "ridge" else 0.0, nonnegative=kind == "nonnegative", **more)


@given(problem=cases(), way=st.sampled_from(list(WAYS)))
def test_proposals_are_the_argmin(problem: vd.SparseProblem, way: str) -> None:
    found = proposed(problem, way)
    assert (found.kkt_residual <= rounding(problem)).all()
    for name, own in (("relative_gap", found.relative_gap), ("kkt_residual", found.kkt_residual)):
        torch.testing.assert_close(own, getattr(problem, name)(found.code), rtol=1e-2, atol=1e-13)
    for one, code in zip(ones(problem), rows(found.code, problem), strict=True):
        assert one.kkt(code) <= 1e-9
        reference = one.argmin() if problem.weights is None and problem.bias is None else one.descended()
        assert one.objective(code) <= one.objective(reference) + 1e-11 * (1 + one.x @ one.x)
        assert (code[np.isinf(one.threshold)] == 0).all()


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize(("n", "d", "atoms", "lam"), [(40, 24, 60, 0.1), (30, 40, 20, 0.01), (12, 80, 200, 0.05)])
def test_the_ways_agree_with_fista(way: str, n: int, d: int, atoms: int, lam: float) -> None:
    weight = normal(0, d, atoms)
    problem = vd.SparseProblem(vd.DenseDictionary(weight / weight.norm(dim=0)), normal(1, n, d), lam)
    found = proposed(problem, way)
    plain = vd.solve(problem, method="fista")
    assert (found.kkt_residual <= rounding(problem)).all()
    assert ((found.code != 0).sum(-1) > 10).all()
    torch.testing.assert_close(found.code, plain.code, rtol=0, atol=1e-10)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = normal(0, 10, 20)
    problem = vd.SparseProblem(vd.DenseDictionary(weight), normal(1, 400, 10), 0.3)
    alone = proposed(problem, "gram")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for part, other in zip(proposed(problem, "gram"), alone, strict=True):
        assert torch.equal(part, other)


def test_supports_that_outgrow_their_room_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_set, "_ROOM", 2)
    monkeypatch.setattr(active_set, "_FACTORS", 300)
    monkeypatch.setattr(active_set, "_CHUNK", 1)
    monkeypatch.setattr(active_set, "FEWEST", 5)
    weight = normal(0, 20, 30)
    problem = vd.SparseProblem(vd.DenseDictionary(weight / weight.norm(dim=0)), normal(1, 13, 20), 0.01)
    found = proposed(problem, "rounds")
    assert ((found.code != 0).sum(-1) > 15).all()
    assert (found.kkt_residual <= rounding(problem)).all()


@pytest.mark.parametrize("way", list(WAYS))
def test_a_limit_stops_the_rounds_and_fista_goes_on(way: str) -> None:
    weight = normal(0, 20, 40)
    problem = vd.SparseProblem(vd.DenseDictionary(weight / weight.norm(dim=0)), normal(1, 6, 20), 0.01)
    found = proposed(problem, way, limit=2)
    assert (found.kkt_residual > 1e-3).any()
    torch.testing.assert_close(found.kkt_residual, problem.kkt_residual(found.code), rtol=1e-2, atol=1e-13)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledActiveSet, "propose", lambda self, own, goal: _limited(own, goal))
        solution = vd.solve(problem, method="active-set")
    assert solution.converged.all()
    torch.testing.assert_close(solution.code, vd.solve(problem, method="fista").code, rtol=0, atol=1e-9)


_propose = CompiledActiveSet.propose


def _limited(problem: vd.SparseProblem, goal: Goal) -> object:
    return _propose(CompiledActiveSet(), problem, goal._replace(max_iterations=2))


def test_nearly_collinear_atoms_take_few_rounds() -> None:
    """The supports have as many atoms as a signal has entries, and the codes are large and cancel one another."""
    from sklearn.linear_model import LassoLars

    weight = 1e-3 * normal(0, 25, 36) + normal(1, 25, 1)
    P, x = vd.DenseDictionary(weight), normal(2, 3, 25)
    lam = 1e-6 * vd.SparseProblem(P, x, 1.0).critical_lam()
    problem = vd.SparseProblem(P, x, lam)
    solution = vd.solve(problem)
    assert (solution.iterations < 200).all()
    assert (solution.kkt_residual <= 1e-8 * problem.critical_lam()).all()
    for one, code in zip(ones(problem), rows(solution.code, problem), strict=True):
        peer = LassoLars(alpha=one.lam / 25, fit_intercept=False, max_iter=10_000, eps=1e-18).fit(one.P, one.x)
        assert one.objective(code) <= one.objective(peer.coef_) * (1 + 1e-6)


@given(seed=seeds, by=st.tuples(st.integers(-100, 100), st.integers(-100, 100)))
def test_units_do_not_matter(seed: int, by: tuple[int, int]) -> None:
    """Signals and atoms from 1e-30 to 1e30: powers of two change no digit."""
    weight, x = normal(seed, 6, 9), normal(seed + 1, 4, 6)
    e, f = (2.0**k for k in by)
    plain = vd.solve(vd.SparseProblem(vd.DenseDictionary(weight), x, 0.1), "active-set")
    other = vd.solve(vd.SparseProblem(vd.DenseDictionary(weight * f), x * e, 0.1 * e * f), "active-set")
    assert other.converged.all()
    torch.testing.assert_close(other.code * (f / e), plain.code, rtol=1e-12, atol=1e-14)


def test_it_takes_what_it_can_solve() -> None:
    P, goal = vd.DenseDictionary(normal(0, 6, 9)), Goal(1e-8, 100, True)
    x = normal(1, 4, 6)
    suits = CompiledActiveSet().suits
    assert suits(vd.SparseProblem(P, x, 0.1), None, goal)
    assert not suits(vd.SparseProblem(P, x, torch.tensor([0.1, 0.1, 0.0, 0.1], dtype=torch.float64)), None, goal)
    assert not suits(vd.SparseProblem(P, x, 0.1), normal(2, 4, 9), goal)
    assert not suits(vd.SparseProblem(P, x, 0.1), None, goal._replace(polish=False))
    assert not suits(vd.SparseProblem(P.to(dtype=torch.float16), x.half(), 0.1), None, goal)
    assert not suits(vd.SparseProblem(vd.DenseDictionary(normal(0, 2, 6, 9)), normal(1, 2, 4, 6), 0.1), None, goal)


def test_single_precision_stays_single() -> None:
    P, x = vd.DenseDictionary(normal(0, 6, 9)), normal(1, 4, 6)
    problem = vd.SparseProblem(P.to(dtype=torch.float32), x.float(), 0.1)
    single, double = vd.solve(problem, "active-set"), vd.solve(vd.SparseProblem(P, x, 0.1), "active-set")
    assert {part.dtype for part in (single.code, single.relative_gap, single.kkt_residual)} == {torch.float32}
    assert single.converged.all()
    assert (single.iterations == double.iterations).all()
    assert torch.equal(single.relative_gap, problem.relative_gap(single.code))
    torch.testing.assert_close(single.code.double(), double.code, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1])
def test_small_batches_keep_their_shape(n: int) -> None:
    P = vd.DenseDictionary(normal(0, 6, 9))
    for lead in ((n,), (2, n), (n, 3)):
        solution = vd.solve(vd.SparseProblem(P, normal(1, *lead, 6), 0.1), "active-set")
        assert solution.code.shape == (*lead, 9)
        assert solution.converged.shape == lead
        assert solution.converged.all()


def test_signals_of_zeros_and_large_weights_have_codes_of_zeros() -> None:
    P = vd.DenseDictionary(normal(0, 6, 9))
    x = normal(1, 4, 6)
    x[1] = 0
    lam = torch.tensor([0.1, 0.1, 1e300, 0.1], dtype=torch.float64)
    solution = vd.solve(vd.SparseProblem(P, x, lam), "active-set")
    assert solution.converged.all()
    assert (solution.code != 0).any(-1).tolist() == [True, False, False, True]


@given(problem=strategies.problems())
def test_without_numba_the_codes_are_the_same(problem: vd.SparseProblem) -> None:
    with_numba = vd.solve(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(active_set, "available", lambda: False)
        without = vd.solve(problem)
        named = vd.solve(problem, "active-set")
    for other in (without, named):
        assert other.converged.all()
        assert (problem.objective(with_numba.code) <= problem.objective(other.code) * (1 + 1e-9) + 1e-12).all()
        assert (problem.objective(other.code) <= problem.objective(with_numba.code) * (1 + 1e-9) + 1e-12).all()


def test_numba_is_looked_for_and_imported_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    active_set.available.cache_clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    assert not active_set.available()
    active_set.available.cache_clear()
    monkeypatch.undo()
    assert active_set.available()


def test_auto_prefers_it_where_it_suits() -> None:
    called = []
    P = vd.DenseDictionary(normal(0, 6, 9))
    with pytest.MonkeyPatch.context() as patch:
        for kind in (CompiledActiveSet, Grown, Fista):
            own = kind.solve

            def noted(self: object, *rest: object, kind: type = kind, own: object = own) -> Found:
                called.append(kind.__name__)
                return own(self, *rest)  # type: ignore[operator]

            patch.setattr(kind, "solve", noted)
        patch.setattr(CompiledActiveSet, "at_once", lambda *_: None)
        vd.solve(vd.SparseProblem(P, normal(1, 4, 6), 0.1))
        vd.solve(vd.SparseProblem(vd.DenseDictionary(normal(0, 2, 6, 9)), normal(1, 2, 4, 6), 0.1))
    assert called[0] == "CompiledActiveSet"
    assert called[1] == "Grown"
    assert "active-set" in METHODS
