"""Whole calls in compiled loops give the codes of the longer way, with certificates that bound the same errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vars_dyn as vd
from tests.references import ones, rows
from tests.strategies import normal, seeds
from vars_dyn.solvers.compiled.active_set import CompiledActiveSet
from vars_dyn.solvers.methods import Found, Goal

pytest.importorskip("numba")

GOALS = {torch.float64: Goal(1e-8, 10_000, True), torch.float32: Goal(1e-5, 10_000, True)}


def at_once(problem: vd.SparseProblem, run: int = 1) -> Found | None:
    return CompiledActiveSet(run).at_once(problem, GOALS[problem.x.dtype])


def unit(seed: int, d: int, atoms: int) -> torch.Tensor:
    """Atoms of norm one."""
    weight = normal(seed, d, atoms)
    return weight / weight.norm(dim=0)


@st.composite
def lassos(draw: st.DrawFn) -> vd.SparseProblem:
    """One signal or several, few or many for each atom, of sizes from 1e-3 to 1e3, in either precision."""
    seed, d, atoms = draw(seeds), draw(st.integers(1, 12)), draw(st.integers(1, 40))
    lead = draw(st.sampled_from([(), (1,), (3,), (2, 7)]))
    weight = normal(seed, d, atoms)
    weight = weight / weight.norm(dim=0) * (1 + 0.5 * torch.rand(atoms, dtype=torch.float64))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    x = normal(seed + 1, *lead, d) * 10 ** draw(st.floats(-3, 3))
    if lead and draw(st.booleans()):
        x[0] = 0
    P, nonnegative = vd.DenseDictionary(weight.to(dtype)), draw(st.booleans())
    share = draw(st.sampled_from([1e-3, 0.01, 0.1, 0.5, 1.1]))
    lam = share * vd.SparseProblem(P, x.to(dtype), 1.0).critical_lam().clamp(min=1e-6)
    return vd.SparseProblem(P, x.to(dtype), lam, nonnegative=nonnegative)


@given(problem=lassos())
def test_codes_and_certificates_are_those_of_the_longer_way(problem: vd.SparseProblem) -> None:
    found = at_once(problem)
    assert found is not None
    assert found.code.shape == (*problem.batch_shape, *problem.dictionary.code_shape)
    assert {part.dtype for part in found[:3]} == {problem.x.dtype}
    single = problem.x.dtype == torch.float32
    for own, bound in zip(found[1:3], problem.certificate(found.code), strict=True):
        assert own.shape == problem.batch_shape
        # The sums round differently.
        torch.testing.assert_close(own, bound, rtol=0.1, atol=1e-14 * float(1 + problem.x.abs().max()))
    for one, code in zip(ones(problem), rows(found.code, problem), strict=True):
        scale = np.abs(one.P.T @ one.x).max() + problem.lam.max().item()
        assert one.kkt(code) <= (1e-6 if single else 1e-11) * scale


def test_a_search_that_is_cut_off_is_left_to_the_longer_way() -> None:
    weight = normal(0, 8, 20)
    P = vd.DenseDictionary(weight / weight.norm(dim=0))
    for n in (1, 12):
        problem = vd.SparseProblem(P, normal(1, n, 8), 0.01)
        assert CompiledActiveSet().at_once(problem, Goal(1e-8, 1, True)) is None
        assert at_once(problem) is not None


def test_what_it_cannot_take_is_solved_the_longer_way() -> None:
    weight, x = unit(0, 6, 9), normal(1, 2, 6)
    P = vd.DenseDictionary(weight)
    taken = vd.SparseProblem(P, x, 0.1)
    assert at_once(taken) is not None
    spread = weight.clone()
    spread[:, 3] *= 50
    none = weight.clone()
    none[:, 3] = 0
    others = {
        "atoms of very different norms": vd.SparseProblem(vd.DenseDictionary(spread), x, 0.1),
        "an atom of zeros": vd.SparseProblem(vd.DenseDictionary(none), x, 0.1),
        "large units": vd.SparseProblem(P, x * 2.0**120, 0.1 * 2.0**120),
        "small units": vd.SparseProblem(P, x * 2.0**-120, 0.1 * 2.0**-120),
        "large atoms": vd.SparseProblem(vd.DenseDictionary(weight * 2.0**40), x, 0.1),
        "a large lam": vd.SparseProblem(P, x, 1e200),
        "no penalty": vd.SparseProblem(P, x, torch.tensor([0.1, 0.0], dtype=torch.float64)),
        "a ridge": vd.SparseProblem(P, x, 0.1, ridge=0.1),
        "weights": vd.SparseProblem(P, x, 0.1, weights=torch.ones(9, dtype=torch.float64)),
        "a bias": vd.SparseProblem(P, x, 0.1, bias=torch.full((9,), 0.01, dtype=torch.float64)),
        "a dictionary per signal": vd.SparseProblem(vd.DenseDictionary(normal(0, 2, 6, 9)), normal(1, 2, 3, 6), 0.1),
    }
    for kind, problem in others.items():
        assert at_once(problem) is None, kind
    for kind in ("atoms of very different norms", "an atom of zeros", "large atoms"):
        many = vd.SparseProblem(others[kind].dictionary, normal(1, 20, 6), 0.1)
        assert at_once(many) is None, kind
        assert vd.solve(many).converged.all(), kind


@pytest.mark.parametrize("lead", [(1,), (40,)])
def test_numbers_that_are_spoilt_later_raise(lead: tuple[int, ...]) -> None:
    """The checks of constructors have passed by then."""
    for which in ("weight", "x"):
        weight, x = unit(0, 6, 9), normal(1, *lead, 6)
        problem = vd.SparseProblem(vd.DenseDictionary(weight), x, 0.1)
        assert at_once(problem) is not None
        (weight if which == "weight" else x)[0, 2] = torch.nan
        with pytest.raises(ValueError, match="NaN or infinite entries"):
            vd.solve(problem)


def test_a_dictionary_that_changes_in_place_is_read_again() -> None:
    """Nothing of a dictionary is kept from call to call, not even where torch does not count a change."""
    weight = unit(0, 6, 9)
    for lead in ((1,), (40,)):
        problem = vd.SparseProblem(vd.DenseDictionary(weight), normal(1, *lead, 6), 0.1)
        before = vd.solve(problem).code
        weight.numpy()[:] = unit(len(lead) + lead[0], 6, 9).numpy()
        assert weight._version == 0
        again = vd.SparseProblem(vd.DenseDictionary(weight.clone()), problem.x, 0.1)
        assert torch.equal(vd.solve(problem).code, vd.solve(again).code)
        assert not torch.equal(vd.solve(problem).code, before)
