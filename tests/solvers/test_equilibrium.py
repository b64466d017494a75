"""The equilibrium, its implicit gradient, points without a gradient, and a thousand dictionaries at once."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vars_dyn as vd
from tests import strategies
from tests.references import ones, rows
from tests.strategies import normal, signals_for
from vars_dyn.integration import gradients
from vars_dyn.solvers import support_systems

#: `vars_dyn.equilibrium` is the function.
module = importlib.import_module("vars_dyn.solvers.equilibrium")
#: Both ways to the linear system on the support.
both_paths = pytest.mark.parametrize("limit", [1 << 22, 0], ids=["written out", "matrix-free"])


@contextmanager
def path(limit: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support_systems, "MATRIX_LIMIT", limit)
        yield


def unit_atoms(seed: int, d: int, atoms: int, *batch: int) -> Tensor:
    weight = normal(seed, *batch, d, atoms)
    return weight / weight.norm(dim=-2, keepdim=True)


@given(field=strategies.sparse_fields())
def test_the_equilibrium_is_where_the_field_rests_and_the_problems_argmin(field: vd.Field) -> None:
    if field.instability():
        with pytest.raises(ValueError, match="no stable equilibrium"):
            vd.equilibrium(field)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*are not within the relative gap")
        found = vd.equilibrium(field)
    assert found.code.shape == (*field.signal_batch, *field.dictionary.code_shape)
    size = max(float(part.abs().max()) for part in found.state) + 1.0
    for slope in field(0.0, found.state):
        assert float(slope.abs().max()) <= 1e-9 * size * float(field.stiffness().max())
    torch.testing.assert_close(field.code(found.state), found.code, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.relative_gap, field.problem().relative_gap(found.code), rtol=1e-6, atol=1e-14)


@given(problem=strategies.problems(ridges=st.sampled_from([0.1, 1.0])))
def test_the_jacobian_is_the_one_of_the_optimality_conditions(problem: vd.SparseProblem) -> None:
    """The Jacobian in x is (G_A + ridge I)^-1 P_A^T on the support A, and zero elsewhere. NumPy computes it here."""
    x = problem.x.clone().requires_grad_()
    learnt = problem.with_parts(problem.dictionary, x, problem.lam, problem.ridge)
    code = vd.equilibrium(learnt).code
    weights = normal(5, *code.shape)
    found = torch.autograd.grad((code * weights).sum(), x)[0].reshape(-1, problem.dictionary.signal_size).numpy()
    for one, a, w, got in zip(ones(problem), rows(code, problem), rows(weights, problem), found, strict=True):
        support = (a != 0) | (one.lam == 0 and not one.nonnegative)
        P = one.P[:, support]
        wanted = P @ np.linalg.solve(P.T @ P + one.ridge * np.eye(P.shape[1]), w[support])
        np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-10)


class Inputs:
    """The tensors of a problem whose supports do not change nearby, and the code as a function of the tensors."""

    def __init__(self, kind: str) -> None:
        if kind == "dense":
            self.tensors = (unit_atoms(0, 5, 7), normal(1, 2, 5))
        elif kind == "batched":
            self.tensors = (unit_atoms(2, 4, 5, 2), normal(3, 2, 2, 4))
        elif kind == "conv":
            self.tensors = (normal(4, 2, 1, 2, 2) / 2, normal(5, 2, 1, 4, 4))
        else:
            self.tensors = (normal(6, 1, 1, 2, 2) / 2, normal(8, 2, 9), unit_atoms(7, 9, 3))
        self.kind = kind
        self.tensors = tuple(t.requires_grad_() for t in self.tensors)

    def dictionary(self, first: Tensor, *more: Tensor) -> vd.Dictionary:
        if self.kind in ("dense", "batched"):
            return vd.DenseDictionary(first)
        if self.kind == "conv":
            return vd.ConvDictionary(first, (1, 4, 4))
        return vd.UnionDictionary(vd.DenseDictionary(more[0]), vd.ConvDictionary(first, (1, 3, 3)))


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


@both_paths
@pytest.mark.parametrize(
    ("kind", "nonnegative"), [("dense", False), ("dense", True), ("batched", False), ("conv", True), ("union", False)]
)
def test_gradcheck_of_a_problem(kind: str, nonnegative: bool, limit: int) -> None:
    inputs = Inputs(kind)

    def code(first: Tensor, x: Tensor, *more: Tensor) -> Tensor:
        *more_tensors, lam, ridge = more
        P = inputs.dictionary(first, *more_tensors)
        return vd.equilibrium(vd.SparseProblem(P, x, lam, ridge, nonnegative)).code

    lam = torch.full(inputs.tensors[1].shape[:2] if kind == "batched" else (2,), 0.3, dtype=torch.float64)
    with path(limit):
        assert torch.autograd.gradcheck(code, (*inputs.tensors, lam.requires_grad_(), number(0.05)))


@pytest.mark.parametrize("kind", [vd.SparseRecurrent, vd.Reduced])
def test_gradcheck_of_a_field_in_all_its_constants(kind: Callable[..., vd.Field]) -> None:
    def rest(weight: Tensor, x: Tensor, lam: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
        found = vd.equilibrium(kind(vd.DenseDictionary(weight), x, lam, alpha, beta, gamma))
        return (found.code, *found.state)

    values = (number(0.3), number(1.2), number(2.5), number(2.1))
    assert torch.autograd.gradcheck(rest, (*Inputs("dense").tensors, *values))


@pytest.mark.parametrize("beta", [2.0, 1.8])
def test_gradcheck_where_the_quadratic_form_is_factored(beta: float) -> None:
    """With gamma < 1/alpha the problem is no elastic net. With beta = gamma it has no ridge."""

    def code(weight: Tensor, x: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
        return vd.equilibrium(vd.SparseRecurrent(vd.DenseDictionary(weight), x, 0.2, 1.0, beta, gamma)).code

    gamma = 2.0 if beta == 2.0 else 0.7
    weight = (0.4 * unit_atoms(0, 8, 5)).requires_grad_()
    x = normal(1, 2, 8).requires_grad_()
    assert torch.autograd.gradcheck(code, (weight, x, number(beta), number(gamma)))


def lasso(*batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> vd.SparseProblem:
    P = vd.DenseDictionary(unit_atoms(seed, 12, 20, *batch).to(dtype).requires_grad_())
    return vd.SparseProblem(P, signals_for(P, seed + 1, (5,)).requires_grad_(), 0.4)


def grads(code: Tensor, *wanted: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad((code * normal(9, *code.shape, dtype=code.dtype)).sum(), wanted)


def check_close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert float((a.double() - b.double()).norm()) <= tolerance * float(b.double().norm())


def test_the_gradient_does_not_depend_on_how_the_code_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = lasso()
    tensors = (problem.dictionary.weight, problem.x)
    wanted = grads(vd.equilibrium(problem).code, *tensors)
    start = normal(3, 5, 20)
    check_close(grads(vd.equilibrium(problem, start=start).code, *tensors), wanted, 1e-11)
    solve = partial(vd.solve, method="ista")
    monkeypatch.setattr(module, "solve", solve)
    check_close(grads(vd.equilibrium(problem).code, *tensors), wanted, 1e-11)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint", "adjoint"])
def test_modes_through_time_end_at_the_same_code_and_gradient(mode: str) -> None:
    P = vd.DenseDictionary(unit_atoms(0, 12, 8).requires_grad_())
    problem = vd.SparseProblem(P, normal(1, 3, 12).requires_grad_(), 0.4, ridge=0.3)
    neurons = vd.Reduced(problem.dictionary, problem.x, 0.4)
    for target, state in ((problem, False), (neurons, True)):
        exact = vd.equilibrium(target)
        found = vd.equilibrium(target, mode, tol=1e-10)
        assert found.converged.all()
        assert (found.state is not None) == state
        torch.testing.assert_close(found.code, exact.code, rtol=0, atol=1e-4)
        tensors = (P.weight, problem.x)
        check_close(grads(found.code, *tensors), grads(exact.code, *tensors), 1e-3)


def test_a_batch_is_its_elements() -> None:
    problem = lasso(2, 3)
    together = grads(vd.equilibrium(problem).code, problem.dictionary.weight, problem.x)
    weights = normal(9, 2, 3, 5, 20)
    for i in range(2):
        for j in range(3):
            weight, x = (t[i, j].detach().clone().requires_grad_() for t in (problem.dictionary.weight, problem.x))
            code = vd.equilibrium(vd.SparseProblem(vd.DenseDictionary(weight), x, 0.4)).code
            alone = torch.autograd.grad((code * weights[i, j]).sum(), (weight, x))
            check_close(tuple(t[i, j] for t in together), alone, 1e-11)


class Count(TorchDispatchMode):
    """Count the operations that reach a kernel."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_no_loop_runs_over_the_elements() -> None:
    """2 and 200 copies of one dictionary take equally many operations, forwards and backwards."""
    counts = []
    for elements in (2, 200):
        weight = unit_atoms(0, 12, 20).expand(elements, 12, 20).clone().requires_grad_()
        x = normal(1, 5, 12).expand(elements, 5, 12).clone()
        with Count() as count:
            vd.equilibrium(vd.SparseProblem(vd.DenseDictionary(weight), x, 0.4)).code.sum().backward()
        counts.append(count.calls)
    assert counts[1] <= 1.1 * counts[0]


def test_a_thousand_dictionaries_in_single_precision() -> None:
    weight, x = unit_atoms(0, 49, 16, 1000).float(), normal(1, 1000, 8, 49).float()
    found = []
    for dtype in (torch.float32, torch.float64):
        P = vd.DenseDictionary(weight.to(dtype).requires_grad_())
        solution = vd.equilibrium(vd.SparseProblem(P, x.to(dtype), 0.3))
        assert solution.converged.all()
        found.append(grads(solution.code, P.weight))
    check_close(found[0], found[1], 1e-4)


def test_a_unit_exactly_at_its_threshold_counts_as_inactive() -> None:
    """With P = I the code is soft(x, lam), so x_1 = lam is on the kink. The gradient there is that of an idle unit."""
    x = torch.tensor([[1.0, 0.25, 0.1]], dtype=torch.float64, requires_grad=True)
    problem = vd.SparseProblem(vd.DenseDictionary(torch.eye(3, dtype=torch.float64)), x, 0.25)
    code = vd.equilibrium(problem).code
    assert code.tolist() == [[0.75, 0.0, 0.0]]
    assert torch.autograd.grad(code.sum(), x)[0].tolist() == [[1.0, 0.0, 0.0]]
    near = vd.differentiability(problem, code)
    assert near.smallest_slack.item() == 0.0
    assert near.smallest_active.item() == 0.75
    assert near.condition.item() == 1.0


@both_paths
def test_dependent_atoms_warn_and_give_finite_gradients_of_minimum_norm(limit: int) -> None:
    """Two equal atoms may share a code in any proportion. The gradient in x is that of their sum, shared evenly."""
    atoms = unit_atoms(0, 6, 2)
    P = vd.DenseDictionary(torch.cat([atoms, atoms[:, :1]], 1).requires_grad_())
    x = (3 * atoms[:, 0] + 2 * atoms[:, 1] + 0.1 * normal(1, 2, 6)).requires_grad_()
    problem = vd.SparseProblem(P, x, 0.1)
    # This code has all three atoms on its support. Many other codes are as good.
    single = vd.solve(vd.SparseProblem(vd.DenseDictionary(atoms), x.detach(), 0.1)).code
    shared = torch.stack([0.7 * single[:, 0], single[:, 1], 0.3 * single[:, 0]], 1)
    with path(limit), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "solve", lambda *_, **__: solved(problem, shared))
        with pytest.warns(UserWarning, match="atoms on the support of 2 signals are linearly dependent"):
            code = vd.equilibrium(problem).code
        weights = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
        gradient = torch.autograd.grad((code * weights).sum(), (P.weight, x))
        assert vd.differentiability(problem, code).condition.tolist() == [torch.inf, torch.inf]
    assert all(torch.isfinite(g).all() for g in gradient)
    inverse = np.linalg.pinv((P.weight.T @ P.weight).detach().numpy(), rcond=1e-10)
    wanted = P.weight.detach().numpy() @ inverse @ weights.numpy()
    np.testing.assert_allclose(gradient[1].numpy(), np.stack([wanted, wanted]), rtol=1e-9, atol=1e-12)


def solved(problem: vd.SparseProblem, code: Tensor) -> vd.Solution:
    with torch.no_grad():
        gap, kkt = problem.certificate(code)
    return vd.Solution(code, gap, kkt, torch.zeros_like(gap, dtype=torch.long), gap <= 1e-8)


def test_a_support_that_is_not_proven_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = lasso()
    monkeypatch.setattr(module, "solve", partial(vd.solve, polish=False))
    with pytest.warns(UserWarning, match="the supports of 5 signals are not proven"):
        vd.equilibrium(problem, tol=1e-2)


def test_a_gap_that_is_not_reached_is_warned_of_where_it_was_asked_for() -> None:
    problem = lasso()
    with pytest.warns(UserWarning, match="5 signals are not within the relative gap 1e-12"):
        found = vd.equilibrium(vd.Reduced(problem.dictionary, problem.x, 0.4), "backprop", tol=1e-12, horizon=0.5)
    assert not found.converged.any()


@given(problem=strategies.problems(strategies.dense(), ridges=st.just(0.3)), seed=strategies.seeds)
def test_differentiability_tells_how_far_the_support_holds(problem: vd.SparseProblem, seed: int) -> None:
    """Every quantity against NumPy, one signal at a time."""
    code = vd.solve(problem).code
    found = vd.differentiability(problem, code)
    each = zip(ones(problem), rows(code, problem), *(value.flatten().tolist() for value in found), strict=True)
    for one, a, active, slack, condition in each:
        support = (a != 0) | (one.lam == 0 and not one.nonnegative)
        c = one.pull(a)[~support]
        assert active == pytest.approx(np.abs(a[support]).min() if support.any() else np.inf)
        slacks = one.lam - (c if one.nonnegative else np.abs(c))
        assert slack == pytest.approx(slacks.min() if len(c) else np.inf, abs=1e-9)
        matrix = one.P[:, support].T @ one.P[:, support] + one.ridge * np.eye(support.sum())
        assert condition == pytest.approx(np.linalg.cond(matrix) if support.any() else 1.0, rel=1e-6)


@pytest.mark.parametrize("loss", [torch.sum, lambda code: code.square().sum()], ids=["sum", "squares"])
def test_there_is_no_second_derivative(loss: Callable[[Tensor], Tensor]) -> None:
    """This holds even if the incoming gradient is constant and another term of the loss has a second derivative."""
    problem = lasso()
    x = problem.x
    (first,) = torch.autograd.grad(loss(vd.equilibrium(problem).code) + x.pow(3).sum(), x, create_graph=True)
    for ask in (lambda: first.sum().backward(retain_graph=True), lambda: torch.autograd.grad(first.sum(), x)):
        with pytest.raises(RuntimeError, match=r'"implicit"\) cannot be differentiated a second time'):
            ask()


@pytest.mark.parametrize("transform", ["grad", "jvp", "dual"])
def test_transforms_of_torch_func_are_refused(transform: str) -> None:
    problem = lasso()
    x = problem.x.detach()
    total = lambda x: vd.equilibrium(vd.SparseProblem(problem.dictionary, x, 0.4)).code.sum()  # noqa: E731

    def asked() -> None:
        if transform == "grad":
            torch.func.grad(total)(x)
        elif transform == "jvp":
            torch.func.jvp(total, (x,), (x,))
        else:
            with torch.autograd.forward_ad.dual_level():
                total(torch.autograd.forward_ad.make_dual(x, x))

    with pytest.raises(RuntimeError, match=r"has no rules for torch\.func's transforms"):
        asked()


def test_the_gradient_can_be_taken_twice_and_for_some_tensors_only() -> None:
    problem = lasso()
    code = vd.equilibrium(problem).code
    first = torch.autograd.grad(code.sum(), problem.x, retain_graph=True)
    again = torch.autograd.grad(code.sum(), problem.x)
    check_close(again, first, 0.0)
    fixed = vd.SparseProblem(problem.dictionary.detach(), problem.x, 0.4)
    check_close(torch.autograd.grad(vd.equilibrium(fixed).code.sum(), problem.x), first, 1e-12)
    with torch.no_grad():
        assert not vd.equilibrium(problem).code.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: vd.equilibrium(p, tol=0.0), "tol is 0.0; a number above zero"),
        (lambda p: vd.equilibrium(p, "backprop", horizon=-1.0), "horizon is -1.0; a number above zero"),
        (lambda p: vd.equilibrium(p, "checkpoint", start=p.x), "start is given, but only the implicit"),
        (lambda p: vd.equilibrium(p.to(dtype=torch.bfloat16)), "x is torch.bfloat16; torch.float32 or torch.float64"),
        (lambda p: vd.equilibrium(vd.SparseRecurrent(p.dictionary, p.x, 0.1, gamma=1.0, beta=1.0)), "no stable"),
        (lambda p: vd.differentiability(p, p.x), r"the code has shape \(5, 12\)"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[vd.SparseProblem], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(lasso())


@pytest.mark.gpu
def test_the_gpu_finds_the_same_equilibrium_and_gradient() -> None:
    problem = lasso(3)
    there = problem.to("cuda")
    found, wanted = vd.equilibrium(there), vd.equilibrium(problem)
    torch.testing.assert_close(found.code.cpu(), wanted.code, rtol=1e-10, atol=1e-12)
    (gradient,) = torch.autograd.grad((found.code * normal(9, *found.code.shape).cuda()).sum(), problem.x)
    check_close((gradient,), grads(wanted.code, problem.x), 1e-9)
    assert gradients.mode_for("implicit") == gradients.Implicit()
