"""Codes of mixed precision are as good as those of plain precision, and full precision certifies them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.strategies import normal, seeds, signals_for
from vars_dyn.solvers import mixed_precision
from vars_dyn.solvers.batched_supports import Supports, padded, settle
from vars_dyn.solvers.methods import Found
from vars_dyn.solvers.proposals import Proposal


def planted(seed: int, d: int, atoms: int, lead: tuple[int, ...], nonnegative: bool = False) -> vd.SparseProblem:
    """Signals of a few atoms and a little noise. If `lead` has two dimensions, each element has its own dictionary."""
    weight = normal(seed, *lead[:-1], d, atoms)
    P = vd.DenseDictionary(weight / weight.norm(dim=-2, keepdim=True))
    codes = torch.where(torch.rand(*lead, atoms, generator=torch.Generator().manual_seed(seed)) < 4 / atoms, 1.0, 0.0)
    codes = codes * (1 + normal(seed + 1, *lead, atoms).abs())
    codes = codes if nonnegative else codes * normal(seed + 2, *lead, atoms).sign()
    x = P.decode(codes) + 0.01 * normal(seed + 3, *lead, d)
    return vd.SparseProblem(P, x, 0.05, nonnegative=nonnegative)


def rounding(problem: vd.SparseProblem) -> Tensor:
    return 1e4 * torch.finfo(torch.float64).eps * (problem.critical_lam() + problem.lam)


@given(problem=strategies.problems(), tol=st.sampled_from([None, 1e-6]), grow=st.booleans(), limit=st.integers(1, 80))
def test_its_certificate_is_the_problems_own(
    problem: vd.SparseProblem, tol: float | None, grow: bool, limit: int
) -> None:
    problem = problem.flat()
    found, scale, _ = mixed_precision.approach(problem, tol, limit, grow)
    for given_, wanted in zip(found[1:3], problem.certificate(found.code), strict=True):
        torch.testing.assert_close(given_, wanted, rtol=1e-9, atol=1e-15, equal_nan=True)
    torch.testing.assert_close(scale, problem.critical_lam() + problem.lam, rtol=1e-5, atol=1e-30)
    assert (found.iterations <= limit).all()


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(
    ("lead", "grow"), [((40,), True), ((40,), False), ((5, 8), False)], ids=["grown", "admm", "own dictionaries"]
)
def test_it_finds_plain_problems_codes_to_rounding(lead: tuple[int, ...], grow: bool, nonnegative: bool) -> None:
    problem = planted(0, 40, 80 if len(lead) == 1 else 24, lead, nonnegative)
    found = mixed_precision.approach(problem, None, 100_000, grow).found
    right = found.kkt_residual <= rounding(problem)
    assert right.double().mean() > 0.9
    plain = vd.solve(problem, method="fista")
    torch.testing.assert_close(found.code[right], plain.code[right], rtol=0, atol=1e-10)
    assert ((found.code != 0).sum(-1) >= 2).double().mean() > 0.8


def test_hard_supports_are_admms() -> None:
    weight = normal(0, 24, 48)
    problem = vd.SparseProblem(vd.DenseDictionary(weight / weight.norm(dim=0)), normal(1, 30, 24), 0.1)
    found = mixed_precision.approach(problem, None, 100_000).found
    assert ((found.code != 0).sum(-1) > 16).all()
    assert (found.kkt_residual <= rounding(problem)).double().mean() > 0.9
    assert (found.iterations >= 50).all()


@pytest.mark.parametrize("lead", [(8,), (2, 4)], ids=["shared", "own dictionaries"])
@pytest.mark.parametrize("lam", [1e-30, 1.0, 1e60, 1e300])
def test_the_penalty_of_a_signal_of_zeros_moves_no_other_code(lead: tuple[int, ...], lam: float) -> None:
    """A signal of zeros has no size to divide lam by, so lam may exceed the range of single precision."""
    problem = planted(0, 16, 24, lead)
    x = problem.x.clone()
    x[..., 0, :] = 0
    codes = []
    for penalty in (lam, 0.05):
        lams = torch.full(lead, 0.05, dtype=torch.float64)
        lams[..., 0] = penalty
        found = mixed_precision.approach(vd.SparseProblem(problem.dictionary, x, lams), None, 100_000, grow=False).found
        assert (found.kkt_residual[..., 1:] <= rounding(problem)[..., 1:]).double().mean() > 0.8
        assert (found.code[..., 0, :] == 0).all()
        codes.append(found.code)
    assert torch.equal(*codes)


def test_a_gap_is_enough_where_a_gap_is_asked_for() -> None:
    problem = planted(3, 40, 24, (6, 8))
    rough, fine = (vd.solve(problem, method="admm", tol=1e-4, polish=polish) for polish in (False, True))
    assert rough.converged.all()
    assert rough.kkt_residual.max() > 1e-12 > fine.kkt_residual.max()


@pytest.mark.parametrize("lead", [(6,), (3, 4)])
@pytest.mark.parametrize("nonsense", [0.0, 1e6, float("nan"), float("inf")])
def test_what_it_gets_wrong_is_solved_the_plain_way(
    nonsense: float, lead: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = planted(5, 12, 16, lead)
    wanted = vd.solve(problem, method="fista")
    approach = mixed_precision.approach

    def spoilt(problem: vd.SparseProblem, *rest: object, **more: object) -> Proposal:
        found, scale, _ = approach(problem, *rest, **more)
        code = found.code.clone()
        code[1] = code[1] * 0 + nonsense
        return Proposal(Found(code, *problem.certificate(code), found.iterations), scale)

    monkeypatch.setattr(mixed_precision, "approach", spoilt)
    solution = vd.solve(problem)
    assert solution.converged.all()
    assert (solution.kkt_residual <= 1e-12).all()
    torch.testing.assert_close(solution.code, wanted.code, rtol=0, atol=1e-9)
    for name in ("relative_gap", "kkt_residual"):
        torch.testing.assert_close(
            getattr(solution, name), getattr(problem, name)(solution.code), rtol=1e-9, atol=1e-14
        )


def test_a_start_is_not_mixed_precisions() -> None:
    problem = planted(7, 12, 16, (6,))
    start = torch.ones_like(vd.solve(problem).code)
    away = vd.solve(problem, start=start, tol=1e-3, max_iterations=3, polish=False)
    assert not torch.equal(away.code, vd.solve(problem, tol=1e-3, max_iterations=3, polish=False).code)
    assert vd.solve(problem, method="admm", start=start).converged.all()


@given(seed=seeds, n=st.integers(1, 5), atoms=st.integers(1, 7))
def test_supports_take_in_and_let_go(seed: int, n: int, atoms: int) -> None:
    signs = torch.where(normal(seed, n, atoms).abs() > 1, normal(seed + 1, n, atoms).sign(), 0.0)
    more = torch.where((normal(seed + 2, n, atoms) > 0.5) & (signs == 0), 1.0, 0.0).double()
    supports = Supports.of(signs)
    gone = supports._replace(sign=torch.where(supports.atoms == 0, 0.0, supports.sign))
    row, column = more.nonzero(as_tuple=True)
    for found, wanted in (
        (supports, signs),
        (supports.joined(row, column, more[row, column]), signs + more),
        (gone.compact(), torch.cat([torch.zeros(n, 1), signs[:, 1:]], 1).double()),
    ):
        dense = torch.zeros(n, atoms + 1, dtype=torch.float64).scatter_add_(1, found.atoms, found.sign)
        assert torch.equal(dense[:, :-1], wanted)
        assert (found.sign[found.atoms == atoms] == 0).all()
        assert ((found.sign != 0) == (found.atoms < atoms)).all()


@settings(max_examples=15)
@given(seed=seeds, nonnegative=st.booleans())
def test_what_is_settled_obeys_its_conditions(seed: int, nonnegative: bool) -> None:
    problem = planted(seed, 30, 40, (12,), nonnegative)
    P, x = problem.dictionary.matrix().float(), problem.x.float()
    gram, drive = padded(P.mT @ P), padded(x @ P, rows=False)
    lam = problem.lam.float()[:, None]
    settled = settle(gram, drive, lam, Supports.empty(12, 40, drive), problem.penalty, 8, 20)
    done = torch.ones(12, dtype=torch.bool).index_fill(0, settled.left, False)
    assert done.any()
    for i in done.nonzero().flatten().tolist():
        atoms, sign = settled.supports.atoms[i], settled.supports.sign[i].double()
        atoms, sign = atoms[sign != 0], sign[sign != 0]
        A = problem.dictionary.matrix()[:, atoms]
        values = torch.linalg.solve(A.mT @ A, A.mT @ problem.x[i] - 0.05 * sign)
        code = torch.zeros(40, dtype=torch.float64).index_copy(0, atoms, values)
        assert (values * sign > 0).all()
        alone = vd.SparseProblem(problem.dictionary, problem.x[i], 0.05, nonnegative=nonnegative)
        assert alone.kkt_residual(code) <= 0.05 * 2e-4


def test_many_signals_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for lead in ((20,), (6, 3)):
        problem = planted(9, 12, 16, lead)
        whole = vd.solve(problem)
        monkeypatch.setattr(mixed_precision, "_SYSTEMS", 7 * 16**2)
        monkeypatch.setattr(mixed_precision, "_CHUNK", 2 * 3 * 28)
        torch.testing.assert_close(vd.solve(problem).code, whole.code, rtol=0, atol=1e-10)
        monkeypatch.undo()


def test_it_is_not_tried_where_it_cannot_help() -> None:
    P, x = vd.DenseDictionary(normal(0, 4, 6)), normal(1, 3, 4)
    assert mixed_precision.suits(vd.SparseProblem(P, x, 0.1))
    assert not mixed_precision.suits(vd.SparseProblem(P, x, torch.tensor([0.1, 0.0, 0.1]).double()))
    assert not mixed_precision.suits(vd.SparseProblem(P, x, 0.1).to(dtype=torch.float32))
    wide = vd.DenseDictionary(normal(0, 2, 1025))
    assert not mixed_precision.suits(vd.SparseProblem(wide, signals_for(wide, 1), 0.1))
