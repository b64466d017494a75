"""A path of solutions is, at each lam, the solution of that lam alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal, seeds
from vars_dyn.solvers.compiled import active_set


def lams(problem: vd.SparseProblem, count: int, least: float) -> Tensor:
    top = problem.critical_lam()
    return top * torch.logspace(0.05, np.log10(least), count, dtype=top.dtype).reshape(-1, *(1,) * top.ndim)


@given(
    seed=seeds,
    lead=st.sampled_from([(), (1,), (9,), (2, 3)]),
    kind=st.sampled_from(["plain", "nonnegative", "ridge", "ridges", "weights", "bias", "batched", "single"]),
    numba=st.booleans(),
)
def test_each_lam_has_its_own_solution(seed: int, lead: tuple[int, ...], kind: str, numba: bool) -> None:
    batched = kind == "batched"
    lead = (2, *lead[-1:]) if batched and lead else (2, 1) if batched else lead
    weight, x = normal(seed, *lead[:-1] if batched else (), 6, 10), normal(seed + 1, *lead, 6)
    more = {
        "nonnegative": {"nonnegative": True},
        "ridge": {"ridge": 0.1},
        "ridges": {"ridge": 0.1 + normal(seed + 2, *lead, 10).abs()},
        "weights": {"weights": 0.5 + normal(seed + 2, 10).abs()},
        "bias": {"bias": 0.01 * normal(seed + 2, *lead, 10).clamp(-1, 1)},
    }.get(kind, {})
    dtype = torch.float32 if kind == "single" else torch.float64
    problem = vd.SparseProblem(vd.DenseDictionary(weight.to(dtype)), x.to(dtype), 1.0, **more)
    wanted = lams(problem, 6, 0.05).clamp(min=0.05)
    with pytest.MonkeyPatch.context() as patch:
        if not numba:
            patch.setattr(active_set, "available", lambda: False)
        path = vd.solve_path(problem, wanted)
    assert path.code.shape == (6, *problem.batch_shape, 10)
    assert path.converged.all()
    for lam, code, gap in zip(wanted, path.code, path.relative_gap, strict=True):
        alone = vd.SparseProblem(problem.dictionary, problem.x, lam if lam.ndim else float(lam), **more)
        assert (alone.relative_gap(code) <= (1e-5 if kind == "single" else 1e-8)).all()
        torch.testing.assert_close(gap, alone.relative_gap(code), rtol=0.1, atol=1e-12)


def test_lams_may_stand_in_any_order_and_be_shared() -> None:
    problem = vd.SparseProblem(vd.DenseDictionary(normal(0, 8, 20)), normal(1, 5, 8), 1.0)
    values = [0.3, 2.0, 0.1, 1.0]
    path = vd.solve_path(problem, values)
    for lam, code in zip(values, path.code, strict=True):
        own = vd.solve(vd.SparseProblem(problem.dictionary, problem.x, lam))
        torch.testing.assert_close(code, own.code, rtol=0, atol=1e-11)
    assert vd.solve_path(problem, []).code.shape == (0, 5, 20)


def test_it_agrees_with_lars_on_a_path() -> None:
    from sklearn.linear_model import lars_path

    weight, x = normal(2, 20, 60), normal(3, 20)
    weight = weight / weight.norm(dim=0)
    problem = vd.SparseProblem(vd.DenseDictionary(weight), x, 1.0)
    alphas, _, codes = lars_path(weight.numpy(), x.numpy(), method="lasso", alpha_min=1e-3)
    kinks = 20 * alphas[1:-1]
    path = vd.solve_path(problem, kinks.tolist())
    np.testing.assert_allclose(path.code.numpy().T, codes[:, 1:-1], atol=1e-8)


def test_a_search_goes_on_from_the_last() -> None:
    pytest.importorskip("numba")
    weight = normal(0, 40, 100)
    P = vd.DenseDictionary(weight / weight.norm(dim=0))
    for n in (1, 50):
        problem = vd.SparseProblem(P, normal(1, n, 40), 1.0)
        wanted = lams(problem, 30, 0.05)
        path = vd.solve_path(problem, wanted)
        each = torch.stack([vd.solve(vd.SparseProblem(P, problem.x, lam)).iterations for lam in wanted])
        assert path.iterations.sum() < 0.6 * each.sum()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([0.1, -1.0], "lams holds entries that are not above zero"),
        ([0.1, float("nan")], "lams holds NaN or infinite entries"),
        (torch.ones(3, 2, dtype=torch.float64), r"lams has shape \(3, 2\); \(L,\) or \(L, \*\(5,\)\) is wanted"),
        (torch.ones(3), "lams is torch.float32 but x is torch.float64"),
    ],
)
def test_bad_lams_are_refused(given: object, words: str) -> None:
    problem = vd.SparseProblem(vd.DenseDictionary(normal(0, 8, 20)), normal(1, 5, 8), 1.0)
    with pytest.raises(ValueError, match=words):
        vd.solve_path(problem, given)  # type: ignore[arg-type]
