"""Certificates hold in floating point: at every scale, with rounding, and where numbers overflow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.campaigns import certificates as campaign
from tests.strategies import codes_for, normal, seeds, signals_for

both = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def test_no_certificate_is_false_in_a_sample_of_the_campaign() -> None:
    counts, false = campaign.campaign(600, 1, batch=30)
    assert not false, false[0][:2000]
    assert counts["solved_within_tol"] > 300
    assert counts["zero_within_tol"] < 200
    assert min(counts[name] for name in ("with_weights", "with_bias", "hierarchy", "not_bounded")) > 30


def rescaled(problem: vd.SparseProblem, i: int, j: int) -> vd.SparseProblem:
    """The same problem, with signals in units of 2^i and the dictionary in units of 2^j."""
    P = problem.dictionary.scaled(torch.tensor(j, dtype=torch.int32))
    return vd.SparseProblem(
        P, problem.x * 2.0**i, problem.lam * 2.0 ** (i + j), problem.ridge * 4.0**j, problem.nonnegative
    )


#: Exponents at which a problem's own numbers are normal, while products of them overflow or underflow.
exponents = st.tuples(st.integers(-300, 300), st.integers(-300, 300))


@settings(max_examples=20)
@given(problem=strategies.problems(), seed=seeds, by=exponents)
def test_certificates_do_not_depend_on_units(problem: vd.SparseProblem, seed: int, by: tuple[int, int]) -> None:
    a = codes_for(problem.dictionary, seed, problem.batch_shape)
    a = a.abs() if problem.nonnegative else a
    i, j = by
    other = rescaled(problem, i, j)
    moved = a * 2.0 ** (i - j)
    assert torch.equal(other.relative_gap(moved), problem.relative_gap(a))
    assert torch.equal(other.kkt_residual(moved), problem.kkt_residual(a) * 2.0 ** (i + j))
    if abs(2 * i) < 900:
        assert torch.equal(other.gap(moved), problem.gap(a) * 4.0**i)
        torch.testing.assert_close(other.objective(moved), problem.objective(a) * 4.0**i, rtol=1e-14, atol=0)
    assert torch.equal(other.critical_lam(), problem.critical_lam() * 2.0 ** (i + j))


@pytest.mark.parametrize("method", ["auto", "fista", "ista", "admm"])
@settings(max_examples=8)
@given(problem=strategies.problems(shares=st.sampled_from([0.03, 0.2, 0.9])), by=exponents)
def test_solutions_do_not_depend_on_units(method: str, problem: vd.SparseProblem, by: tuple[int, int]) -> None:
    i, j = by
    # `solve` brings problems with such sizes to common units, so the results agree to the bit.
    here, there = rescaled(problem, 150, -150), rescaled(problem, 150 + i, j - 150)
    found, other = (vd.solve(one, method, max_iterations=300) for one in (here, there))
    if abs(150 + i) > 100 or abs(j - 150) > 100:
        assert torch.equal(other.code, found.code * 2.0 ** (i - j))
        assert torch.equal(other.relative_gap, found.relative_gap)
    assert torch.equal(other.converged, found.converged)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float32, 1e-23),
        (torch.float64, 1e-163),
        (torch.float32, 1e20),
        (torch.float64, 1e200),
        (torch.float64, 1e-320),
    ],
)
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_code_of_zeros_is_no_solution_of_a_small_or_large_signal(
    dtype: torch.dtype, size: float, ridge: float
) -> None:
    P = vd.DenseDictionary(normal(0, 8, 12, dtype=dtype))
    x = (normal(1, 3, 8) * size).to(dtype)
    lam = 0.1 * P.encode(x).abs().amax(-1)
    problem = vd.SparseProblem(P, x, lam, ridge)
    zero = x.new_zeros(3, 12)
    assert (problem.relative_gap(zero) > 0.3).all()
    solution = vd.solve(problem, tol=1e-5)
    assert solution.converged.all() or size == 1e-320  # codes of that size have three digits only
    assert ((solution.code != 0).sum(-1) > 0).all()
    assert (vd.equilibrium(vd.SparseRecurrent(P, x, lam, beta=2 + ridge), tol=1e-2).code != 0).any()


@both
@pytest.mark.parametrize("method", ["auto", "fista", "ista", "admm"])
@pytest.mark.parametrize("size", [1e-30, 1e-50, 1e50, 0.0])
def test_dictionaries_of_any_size_are_solved(dtype: torch.dtype, method: str, size: float) -> None:
    if dtype == torch.float32:
        size = math.copysign(abs(size) ** 0.6, size)
    weight = (normal(0, 5, 7) * size).to(dtype)
    P = vd.DenseDictionary(weight)
    x = normal(1, 4, 5, dtype=dtype)
    lam = 0.1 * P.encode(x).abs().amax(-1)
    solution = vd.solve(vd.SparseProblem(P, x, lam), method, tol=1e-5)
    assert solution.converged.all()
    assert ((solution.code != 0).any(-1) == (size > 0)).all()


def test_elements_of_a_batch_have_scales_of_their_own() -> None:
    sizes = torch.tensor([1e-150, 1.0, 1e150], dtype=torch.float64)[:, None, None]
    weight, x = normal(0, 3, 6, 8), normal(1, 3, 2, 6)
    lam = torch.full((3, 2), 0.3, dtype=torch.float64)
    plain = vd.SparseProblem(vd.DenseDictionary(weight), x, lam, nonnegative=True)
    other = vd.SparseProblem(vd.DenseDictionary(weight * sizes), x, lam * sizes[..., 0], nonnegative=True)
    found, wanted = vd.solve(other), vd.solve(plain)
    assert found.converged.all()
    torch.testing.assert_close(found.code * sizes, wanted.code, rtol=1e-9, atol=1e-12)
    # All elements share the ridge, so its weight beside the dictionary differs from element to element.
    ridged = vd.solve(vd.SparseProblem(vd.DenseDictionary(weight * sizes), x, lam * sizes[..., 0], 1.0))
    assert ridged.converged.all()
    for i, size in enumerate(sizes.flatten().tolist()):
        alone = vd.SparseProblem(vd.DenseDictionary(weight[i] * size), x[i], lam[i] * size, 1.0)
        torch.testing.assert_close(vd.solve(alone).code, ridged.code[i], rtol=1e-9, atol=0)
    # Each signal may have its own, beside a dictionary that is nothing to it.
    each = vd.SparseProblem(
        vd.DenseDictionary(weight * sizes), x, lam * sizes[..., 0], torch.tensor([[1.0, 2.0]] * 3).double()
    )
    assert vd.solve(each).converged.all()


def test_nearly_equal_atoms_without_a_penalty_are_not_claimed_better_than_they_are() -> None:
    """Atoms like these cost the normal equations half of the digits, and make their residual look too small."""
    rng = np.random.default_rng(0)
    P = rng.standard_normal((300, 6, 1)) + 10.0 ** rng.uniform(-9, -5, (300, 1, 1)) * rng.standard_normal((300, 6, 4))
    x = rng.standard_normal((300, 1, 6))
    problem = vd.SparseProblem(vd.DenseDictionary(torch.from_numpy(P)), torch.from_numpy(x), 0.0)
    a = vd.solve(problem, max_iterations=50).code
    claimed = problem.kkt_residual(a).flatten().numpy()
    true = campaign.Judge.of(problem).kkt(a[:, 0].numpy().astype(np.longdouble))
    assert (claimed >= true).all()
    assert np.median(claimed / true) < 1e3


@pytest.mark.parametrize("kind", strategies.KINDS)
@settings(max_examples=20)
@given(data=st.data(), seed=seeds)
def test_a_dictionarys_rounding_is_within_its_bound(kind: str, data: st.DataObject, seed: int) -> None:
    """Compare single precision with double precision.

    The test takes each kind of dictionary by itself, since few draws reveal a bad bound.
    """
    P = data.draw(strategies.KINDS[kind]())
    single = P.to(dtype=torch.float32)
    double, bound = single.to(dtype=torch.float64), single._rounding()
    u = torch.finfo(torch.float32).eps / 2
    x = signals_for(single, seed)
    a = codes_for(single, seed, x.shape[: x.ndim - len(P.signal_shape)])
    a = torch.where(a.abs() < 0.5, 0.0, a)
    codes, signals = tuple(range(-len(P.code_shape), 0)), tuple(range(-len(P.signal_shape), 0))
    atoms = double._decode(
        torch.eye(P.code_size, dtype=torch.float64)
        .reshape(-1, *P.code_shape)
        .expand(*P.batch_shape, P.code_size, *P.code_shape)
    )
    true = atoms.flatten(-len(P.signal_shape)).norm(dim=-1).unflatten(-1, P.code_shape)
    norms = bound.norms.double()
    assert (norms * (1 + 1e-5) >= (true.unsqueeze(len(P.batch_shape)) if P.batch_shape else true)).all()
    wrong = (single.encode(x) - double.encode(x.double())).abs()
    size = x.double().square().sum(signals).sqrt().reshape(*x.shape[: x.ndim - len(signals)], *(1,) * len(codes))
    assert (wrong <= 1.01 * bound.encode * u * norms * size).all(), "encode rounds more than _rounding() says"
    wrong = (single.decode(a) - double.decode(a.double())).square().sum(signals).sqrt()
    terms = (a != 0).sum(codes).clamp(max=bound.decode) if bound.sparse else bound.decode
    allowed = 1.01 * terms * u * (norms * a.abs()).sum(codes)
    assert (wrong <= allowed).all(), "decode rounds more than _rounding() says"


def test_a_certificate_of_a_large_problem_stays_useful() -> None:
    weight = normal(0, 256, 512)
    P = vd.DenseDictionary(weight / weight.norm(dim=0))
    codes = torch.where(torch.rand(20, 512, generator=torch.Generator().manual_seed(0)) < 0.04, normal(1, 20, 512), 0.0)
    solution = vd.solve(vd.SparseProblem(P, P.decode(codes) + 0.01 * normal(2, 20, 256), 0.05), tol=1e-12)
    assert solution.converged.all()
    assert (solution.kkt_residual <= 1e-12).all()


@both
@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("lam", [0.3, 0.0])
def test_what_cannot_be_computed_is_no_certificate(dtype: torch.dtype, nonsense: float, lam: float) -> None:
    for nonnegative in (False, True):
        problem = vd.SparseProblem(
            vd.DenseDictionary(normal(0, 4, 3, dtype=dtype)), normal(1, 2, 4, dtype=dtype), lam, 0.1, nonnegative
        )
        a = torch.zeros(2, 3, dtype=dtype)
        a[0, 1] = nonsense
        for value in (problem.gap(a), problem.relative_gap(a), problem.kkt_residual(a), *problem.certificate(a)):
            assert not value[0] < math.inf
            assert value[1] < math.inf


@settings(max_examples=20)
@given(problem=strategies.problems(ridges=st.sampled_from([0.0, 0.3])), seed=seeds, by=st.integers(-200, 200))
def test_gradients_do_not_depend_on_units(problem: vd.SparseProblem, seed: int, by: int) -> None:
    """This checks the gradient of the gap in the code, and that of the equilibrium in x."""
    a = codes_for(problem.dictionary, seed, problem.batch_shape).abs() + 0.1
    slopes = []
    for one, code in ((problem, a), (rescaled(problem, by, -by), a * 4.0**by)):
        code = code.clone().requires_grad_()
        slopes.append(torch.autograd.grad(one.gap(code).sum(), code)[0])
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-9, atol=1e-12)
    if not problem.ridge:
        return
    jacobians = []
    for one in (problem, rescaled(problem, by, -by)):
        x = one.x.clone().requires_grad_()
        code = vd.equilibrium(one.with_parts(one.dictionary, x, one.lam, one.ridge)).code
        jacobians.append(torch.autograd.grad((code * normal(5, *code.shape)).sum(), x)[0])
    torch.testing.assert_close(jacobians[1] * 2.0**-by, jacobians[0], rtol=1e-7, atol=1e-9)


def test_the_gaps_gradient_is_its_formulas() -> None:
    P, x = normal(0, 5, 4), normal(1, 2, 5)
    inputs = (
        P.requires_grad_(),
        x.requires_grad_(),
        torch.tensor([0.4, 0.2]).double().requires_grad_(),
        normal(2, 2, 4),
    )

    def relative(P: Tensor, x: Tensor, lam: Tensor, a: Tensor) -> Tensor:
        return vd.SparseProblem(vd.DenseDictionary(P), x, lam).relative_gap(a)

    assert torch.autograd.gradcheck(relative, (*inputs[:3], inputs[3].requires_grad_()))
    # Compute the gradient twice, and once more after a change of the dictionary.
    problem = vd.SparseProblem(vd.DenseDictionary(P), x, 0.3)
    a = normal(2, 2, 4)
    first = problem.relative_gap(a)
    first.sum().backward()
    problem.relative_gap(a).sum().backward()
    with torch.no_grad():
        P.mul_(2)
    torch.testing.assert_close(problem.relative_gap(a), vd.SparseProblem(vd.DenseDictionary(P), x, 0.3).relative_gap(a))


@settings(max_examples=20)
@given(P=strategies.dictionaries(), by=st.integers(-520, 500))
def test_the_lipschitz_bound_holds_at_every_scale(P: vd.Dictionary, by: int) -> None:
    plain = P.lipschitz()
    scaled = P.scaled(torch.tensor(by, dtype=torch.int32)).lipschitz()
    assert (scaled >= plain * 4.0**by * (1 - 1e-12)).all()
    assert ((scaled > 0) == (plain > 0)).all()
    if abs(2 * by) < 900:
        torch.testing.assert_close(scaled, plain * 4.0**by, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", strategies.KINDS)
@settings(max_examples=10)
@given(data=st.data())
def test_a_bound_beyond_the_dtype_is_infinite_and_one_below_it_is_not_zero(kind: str, data: st.DataObject) -> None:
    P = data.draw(strategies.KINDS[kind]())
    assume((P.lipschitz() > 1e-6).all())
    small, large = (P.scaled(torch.tensor(by, dtype=torch.int32)).lipschitz() for by in (-664, 664))
    assert (small > 0).all()
    assert small.isfinite().all()
    assert large.isinf().all()


@both
def test_a_tolerance_that_the_dtype_cannot_verify_is_refused(dtype: torch.dtype) -> None:
    problem = vd.SparseProblem(vd.DenseDictionary(normal(0, 4, 3, dtype=dtype)), normal(1, 2, 4, dtype=dtype), 0.1)
    least = r"9\.54e-07" if dtype == torch.float32 else r"1\.78e-15"
    for call in (vd.solve, vd.equilibrium):
        with pytest.raises(
            ValueError, match=rf"^tol is 1e-16; {dtype} verifies a relative gap of {least} at the least"
        ):
            call(problem, tol=1e-16)
        assert call(problem).converged.all()


@both
@pytest.mark.parametrize("method", ["auto", "fista", "ista", "admm"])
@pytest.mark.parametrize("polish", [True, False])
def test_no_signals_are_solved_by_every_method(dtype: torch.dtype, method: str, polish: bool) -> None:
    for batch, lead in (((), (0,)), ((), (2, 0)), ((3,), (3, 0)), ((0,), (0, 2))):
        P = vd.DenseDictionary(normal(0, *batch, 4, 3, dtype=dtype))
        for lam, ridge, nonnegative in ((0.1, 0.0, False), (0.0, 0.5, True)):
            problem = vd.SparseProblem(P, torch.zeros(*lead, 4, dtype=dtype), lam, ridge, nonnegative)
            solution = vd.solve(problem, method, polish=polish)
            assert solution.code.shape == (*lead, 3)
            assert all(part.shape == lead for part in solution[1:5] if isinstance(part, Tensor))


@pytest.mark.parametrize("gradient", ["implicit", "backprop", "checkpoint", "adjoint"])
def test_no_signals_come_to_rest(gradient: str) -> None:
    for batch, lead in (((), (0,)), ((3,), (3, 0))):
        P = vd.DenseDictionary(normal(0, *batch, 4, 3).requires_grad_())
        x = torch.zeros(*lead, 4, dtype=torch.float64)
        for target in (vd.SparseProblem(P, x, 0.1), vd.SparseRecurrent(P, x, 0.1), vd.Reduced(P, x, 0.1)):
            found = vd.equilibrium(target, gradient)
            assert found.code.shape == (*lead, 3)
            assert found.converged.shape == lead


@pytest.mark.parametrize("method", ["auto", "fista", "ista", "admm"])
@pytest.mark.parametrize("nonsense", [math.nan, math.inf])
def test_a_dictionary_spoilt_after_it_was_made_is_refused_in_a_sentence(method: str, nonsense: float) -> None:
    for shape in ((4, 3), (2, 4, 3)):
        P = vd.DenseDictionary(normal(0, *shape))
        problem = vd.SparseProblem(P, normal(1, 2, 2, 4), 0.1, 0.1)
        assert vd.solve(problem, method).converged.all()
        P.weight[..., 1, 1] = nonsense
        with pytest.raises(ValueError, match="holds NaN or infinite entries; finite numbers are wanted"):
            vd.solve(problem, method)


@both
@pytest.mark.parametrize("method", ["auto", "fista", "ista", "admm"])
@pytest.mark.parametrize("weight", [torch.ones(4, 6), torch.zeros(4, 6), torch.eye(4)[:, [0, 0, 1, 1, 1, 2]] * 1e15])
def test_singular_gram_matrices_are_no_trouble(dtype: torch.dtype, method: str, weight: Tensor) -> None:
    P = vd.DenseDictionary(weight.to(dtype))
    for lam, nonnegative in ((0.1, False), (0.0, False), (0.1, True), (0.0, True)):
        lam = lam * float(weight.max())
        problem = vd.SparseProblem(P, normal(1, 3, 4, dtype=dtype), lam, 0.0, nonnegative)
        solution = vd.solve(problem, method, max_iterations=1000)
        assert solution.converged.all()
        assert torch.isfinite(solution.code).all()


def test_an_entry_that_underflows_in_other_units_is_still_an_entry() -> None:
    """The code 1e-200 is 1e-400 beside a signal of 1e200; but its atom is silenced, or its sign is wrong."""
    P, x = vd.DenseDictionary(torch.ones(1, 2, dtype=torch.float64)), torch.full((1, 1), 1e200, dtype=torch.float64)
    silent = torch.tensor([1.0, math.inf], dtype=torch.float64)
    problem = vd.SparseProblem(P, x, 1.0, weights=silent)
    off = torch.tensor([[1e200, 1e-200]], dtype=torch.float64)
    assert problem.relative_gap(off * torch.tensor([1.0, 0.0])).item() < 1e-12
    for value in (problem.gap(off), problem.relative_gap(off), problem.kkt_residual(off)):
        assert value.isinf().all()
    signed = vd.SparseProblem(P, x, 1.0, nonnegative=True)
    assert signed.relative_gap(off).item() < 1e-12
    assert signed.relative_gap(off * torch.tensor([1.0, -1.0])).isinf().all()
    # An entry of the wrong size violates its own condition, however small it is.
    strong = vd.SparseProblem(P, x, 1e210)
    assert strong.kkt_residual(torch.zeros_like(off)).item() == 0
    assert strong.kkt_residual(off * torch.tensor([0.0, 1.0])).item() >= 1e210 * (1 - 1e-9)


def test_free_atoms_that_are_small_in_single_precision_do_no_harm() -> None:
    weight = normal(0, 6, 4, dtype=torch.float32)
    weight[:, 3] *= 1e-25  # its square is no number of single precision
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    problem = vd.SparseProblem(vd.DenseDictionary(weight), normal(1, 3, 6, dtype=torch.float32), 0.3, weights=weights)
    code = vd.solve(problem, max_iterations=300).code
    assert code.isfinite().all()
    assert not problem.relative_gap(code).isnan().any()


@pytest.mark.parametrize(("weight", "relative"), [(math.inf, 0.9981), (2e303, math.inf)])
def test_a_bias_far_above_the_signal_hides_no_gap(weight: float, relative: float) -> None:
    """The second atom never becomes active. In units of its bias the signal's square underflows."""
    eye = torch.eye(2, dtype=torch.float64)
    weights, bias = (torch.tensor(each, dtype=torch.float64) for each in ([1.0, weight], [0.0, 1e200]))
    problem = vd.SparseProblem(vd.DenseDictionary(eye), eye[:1], 1e-3, weights=weights, bias=bias)
    # Without it E falls from 1/2 at zero to lam - lam^2 / 2.
    assert 0.998 <= float(problem.relative_gap(torch.zeros(1, 2, dtype=torch.float64))) <= relative
    assert float(problem.gap(torch.zeros(1, 2, dtype=torch.float64))) >= 0.499
