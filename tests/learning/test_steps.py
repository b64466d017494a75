"""The step of learning: what each rule does to the atoms, against references that are written out or independent."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

import vars_dyn as vd
from vars_dyn.learning import (
    Atoms,
    Equilibrium,
    Gradient,
    Hebbian,
    Integrate,
    Learner,
    Online,
    Solve,
    random_dictionary,
)
from vars_dyn.learning.atoms import atoms_of, revived
from vars_dyn.learning.statistics import descend, moments

REAL: dict[str, Any] = {"dtype": torch.float64}
KINDS = ("dense", "conv", "strided", "fourier")


def made(kind: str, seed: int = 0) -> vd.Dictionary:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, **REAL)

    if kind == "dense":
        return vd.DenseDictionary(drawn(6, 9))
    if kind == "conv":
        return vd.ConvDictionary(drawn(3, 2, 3, 2), (2, 7, 6), padding=1)
    if kind == "strided":
        return vd.ConvDictionary(drawn(3, 1, 3, 3), (1, 8, 9), stride=2)
    return vd.FourierDictionary(drawn(2, 1, 4, 5))


def signals(dictionary: vd.Dictionary, count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *dictionary.signal_shape, generator=torch.Generator().manual_seed(seed), **REAL)


@pytest.mark.parametrize("kind", ["dense", "conv", "strided"])
def test_the_statistics_are_those_of_the_misfit(kind: str) -> None:
    """1/2 |x - P a|^2 for another weight, from the statistics alone."""
    dictionary, other = made(kind), made(kind, 5)
    x = signals(dictionary, 4)
    code = torch.randn(4, *dictionary.code_shape, generator=torch.Generator().manual_seed(2), **REAL)
    code = torch.where(code.abs() > 0.8, code, 0.0)
    gram, cross = moments(dictionary, x, code)
    (weight,) = other.tensors()
    matrix = weight if kind == "dense" else weight.movedim(0, 1).reshape(weight.shape[1], -1)
    found = 0.5 * x.square().sum() - (matrix * cross).sum() + 0.5 * (matrix @ gram * matrix).sum()
    expected = 0.5 * (x - other.decode(code)).square().sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("norm", ["ball", "sphere"])
def test_the_descent_reaches_a_minimum_that_scipy_confirms(kind: str, norm: str) -> None:
    dictionary = made(kind)
    x = signals(dictionary, 30)
    code = torch.randn(30, *dictionary.code_shape, generator=torch.Generator().manual_seed(2), **REAL)
    code = torch.where(code.abs() > 1.0, code, 0.0)
    gram, cross = moments(dictionary, x, code)
    atoms = Atoms(norm, patience=None)
    found = descend(dictionary, gram, cross, atoms, 300)

    def misfit(flat: np.ndarray) -> tuple[float, np.ndarray]:
        rows = torch.tensor(flat, **REAL).reshape(atoms_of(dictionary).shape).requires_grad_()
        size = rows.norm(dim=1, keepdim=True)
        inside = rows / (size if norm == "sphere" else size.clamp(1))
        shape = dictionary.tensors()[0]
        weight = inside.mT if kind == "dense" else inside.reshape(shape.shape)
        loss = 0.5 * (x - dictionary.with_tensors((weight,)).decode(code)).square().sum()
        loss.backward()
        assert rows.grad is not None
        return float(loss.detach()), rows.grad.reshape(-1).numpy()

    at = misfit(atoms_of(found).reshape(-1).numpy())[0]
    best = minimize(misfit, atoms_of(found).reshape(-1).numpy(), jac=True, method="L-BFGS-B").fun
    norms = atoms_of(found).norm(dim=1)
    assert bool((norms <= 1 + 1e-12).all())
    assert at <= best * (1 + 1e-6)
    assert at < misfit(atoms_of(dictionary).reshape(-1).numpy())[0]


@given(st.integers(0, 2**31), st.sampled_from(KINDS[:3]), st.sampled_from(["sphere", "ball"]), st.booleans())
def test_no_pass_raises_the_quadratic(seed: int, kind: str, norm: str, nonnegative: bool) -> None:
    atoms = Atoms(norm, nonnegative, None)
    dictionary = random_dictionary(made(kind, seed), seed, atoms)
    x = signals(dictionary, 5, seed)
    code = F.relu(torch.randn(5, *dictionary.code_shape, generator=torch.Generator().manual_seed(seed), **REAL))
    changed = descend(dictionary, *moments(dictionary, x, code), atoms, 1)

    def misfit(one: vd.Dictionary) -> float:
        return float((x - one.decode(code)).square().sum())

    assert misfit(changed) <= misfit(dictionary) * (1 + 1e-9)
    rows = atoms_of(changed)
    assert bool((rows.norm(dim=1) <= 1 + 1e-9).all())
    assert not nonnegative or bool((rows >= 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_the_hebbian_change_is_the_residual_times_the_code(kind: str) -> None:
    """For a dense dictionary the outer product; for all, the direction of the misfit's fall by finite differences."""
    dictionary = random_dictionary(made(kind), 1)
    x = signals(dictionary, 8)
    learner = Learner(dictionary, 0.3, Hebbian(rate=1e-3, decay=None), atoms=Atoms(patience=None))
    code = vd.solve(vd.SparseProblem(dictionary, x, 0.3), tol=1e-6).code
    learner.step(x)
    change = atoms_of(learner.dictionary) - atoms_of(dictionary)
    if kind == "dense":
        outer = (x - dictionary.decode(code)).mT @ code / len(x)
        step = 1e-3 * torch.nan_to_num(outer / code.square().mean(0))  # unused atoms stay
        wanted = F.normalize(dictionary.tensors()[0] + step, dim=0) - dictionary.tensors()[0]
        torch.testing.assert_close(change.mT, wanted, atol=1e-6, rtol=1e-3)
    before = (x - dictionary.decode(code)).square().sum()
    after = (x - learner.dictionary.decode(code)).square().sum()
    assert float(after) < float(before)


def test_the_gradient_through_the_equilibrium_is_that_of_the_loss() -> None:
    """With share = 0.5 the part of the gradient through the codes counts; plain SGD shows it."""
    dictionary = random_dictionary(made("dense"), 3)
    x, lam, share, rate = signals(dictionary, 5), 0.2, 0.5, 1e-4
    rule = Gradient(partial(torch.optim.SGD, lr=rate), share=share)
    learner = Learner(dictionary, lam, rule, Equilibrium(tol=1e-12), Atoms("ball", patience=None))
    inner = vd.DenseDictionary(0.5 * dictionary.tensors()[0])  # inside the ball, where nothing is projected
    learner = Learner(inner, lam, rule, Equilibrium(tol=1e-12), Atoms("ball", patience=None))
    learner.step(x)
    slope = (inner.tensors()[0] - learner.dictionary.tensors()[0]) / rate

    def loss(weight: Tensor) -> float:
        one = vd.DenseDictionary(weight)
        code = vd.solve(vd.SparseProblem(one, x, lam), tol=1e-12).code
        return float((0.5 * (x - one.decode(code)).square().sum(1) + share * lam * code.abs().sum(1)).mean())

    direction = torch.randn(6, 9, generator=torch.Generator().manual_seed(4), **REAL)
    (weight,) = inner.tensors()
    numeric = (loss(weight + 1e-6 * direction) - loss(weight - 1e-6 * direction)) / 2e-6
    assert float((slope * direction).sum()) == pytest.approx(numeric, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_atom_becomes_what_the_dictionary_explains_worst(kind: str) -> None:
    dictionary = random_dictionary(made(kind), 2)
    residual = 0.01 * signals(dictionary, 3)
    one = torch.zeros(1, *dictionary.code_shape, **REAL)
    atom = 1
    places = one.reshape(1, dictionary.code_shape[0], -1)[0, atom]
    places[len(places) // 2 + (2 if len(places) > 1 else 0)] = 3.0  # an inner place
    residual[1] = random_dictionary(dictionary, 99).decode(one)[0]  # the worst is an atom of another dictionary
    found, chosen = revived(dictionary, torch.tensor([atom]), residual, Atoms())
    assert chosen.tolist() == [atom]
    code = found.encode(residual)[1].reshape(dictionary.code_shape[0], -1)[atom]
    assert float(code.max()) == pytest.approx(float(residual[1].norm()), rel=1e-9)  # it explains all of that residual
    rest = [i for i in range(len(atoms_of(found))) if i != atom]
    assert torch.equal(atoms_of(found)[rest], atoms_of(dictionary)[rest])


def test_unused_atoms_are_counted_and_revived() -> None:
    weight = torch.eye(6, 9, **REAL)
    weight[:, 6:] = F.normalize(torch.ones(6, 3, **REAL), dim=0)
    learner = Learner(vd.DenseDictionary(weight), 0.5, Hebbian(), atoms=Atoms(patience=20))
    x = torch.zeros(10, 6, **REAL)
    x[:, 0] = 1.0 + torch.arange(10, **REAL)
    steps = [learner.step(x) for _ in range(3)]
    assert [step.dead for step in steps] == [0, 8, 0]  # all but the first atom, after 20 signals
    assert steps[1].revived == 8
    assert learner.idle[0].tolist()[0] == 0


@pytest.mark.parametrize("codes", [Solve(), Equilibrium(), Integrate(horizon=200.0, rtol=1e-5)])
def test_all_ways_to_codes_agree(codes: Any) -> None:
    dictionary = random_dictionary(made("dense"), 0)
    x = signals(dictionary, 4)
    exact = vd.solve(vd.SparseProblem(dictionary, x, 0.3), tol=1e-10).code
    coded = codes(dictionary, x, 0.3)
    torch.testing.assert_close(coded.code, exact, atol=2e-3, rtol=0)
    assert float(coded.relative_gap.max()) < 1e-3


@pytest.mark.parametrize("rule", [Online(), Hebbian(), Gradient()])
def test_the_objective_falls_on_natural_statistics(rule: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 16, generator=generator, **REAL)
    learner = Learner(random_dictionary(vd.DenseDictionary(mixing), 1), 0.5, rule)
    sparse = torch.randn(400, 16, generator=generator, **REAL) ** 3
    objectives = [learner.step(sparse[k % 8 :: 8] @ mixing.mT).objective for k in range(24)]
    assert np.mean(objectives[-8:]) < 0.95 * np.mean(objectives[:8])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Learner(made("dense"), 0.0), "lam is 0.0"),
        (lambda: Learner(made("dense"), 0.1, "magic"), "one of online, hebbian, gradient"),
        (lambda: Learner(made("dense"), 0.1, codes="magic"), "one of solve, equilibrium, integrate"),
        (lambda: Learner(made("fourier"), 0.1, "online"), "the hebbian or the gradient method is wanted"),
        (lambda: Learner(made("dense"), 0.1, Gradient(share=0.5)), "the codes carry no gradient"),
        (lambda: Learner(vd.DenseDictionary(torch.ones(2, 3, 4)), 0.1), "a batched dictionary"),
        (lambda: Learner(made("dense"), 0.1).step(torch.ones(3, 5, **REAL)), "x has shape"),
        (lambda: Learner(made("dense"), 0.1).step(torch.full((3, 6), torch.nan, **REAL)), "NaN"),
        (lambda: Atoms("cube"), "one of sphere, ball"),
    ],
)
def test_bad_input_gets_one_sentence(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
