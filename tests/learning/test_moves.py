"""Moves out of local minima: planted minima are left, good dictionaries stay, and the compiled loops do as torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import vars_dyn as vd
from vars_dyn.learning import Atoms, Learner, Online, Solve, random_dictionary
from vars_dyn.learning.moves import Move, attempt
from vars_dyn.learning.statistics import descend, moments
from vars_dyn.solvers.compiled.active_set import available

REAL: dict[str, Any] = {"dtype": torch.float64}
LAM = 0.3


def sparse(shape: tuple[int, ...], share: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, **REAL).sign() * (
        0.5 + torch.rand(shape, generator=generator, **REAL)
    )
    return torch.where(torch.rand(shape, generator=generator, **REAL) < share, values, 0.0)


def planted(seed: int) -> Tensor:
    return F.normalize(torch.randn(16, 24, generator=torch.Generator().manual_seed(seed), **REAL), dim=0)


def tried(dictionary: vd.Dictionary, x: Tensor, number: int) -> Move | None:
    coding = Solve(tol=1e-4)
    coded = coding(dictionary, x, LAM)
    return attempt(dictionary, x, coded, lambda one, some: coding(one, some, LAM), Atoms(), number)


def test_an_atom_that_mixes_two_is_split_by_one_that_does_nothing() -> None:
    weight = planted(0)
    overlap = (weight.mT @ weight).abs() - torch.eye(24, **REAL)
    one, other = divmod(int(overlap.argmax()), 24)  # two that are hard to tell apart
    sign = torch.sign(weight[:, one] @ weight[:, other])
    merged = weight.clone()
    merged[:, one] = F.normalize(weight[:, one] + sign * weight[:, other], dim=0)
    twin = next(k for k in range(24) if k not in (one, other))
    merged[:, other] = F.normalize(weight[:, twin] + 0.1 * weight[:, (twin + 5) % 24], dim=0)
    x = sparse((400, 24), 0.1, 1) @ weight.mT
    # The twins share their uses, so that either of them may be the one that does least.
    moves = [tried(vd.DenseDictionary(merged), x, number) for number in range(6)]
    made = [move for move in moves if move is not None]
    assert made
    assert all(int(move.moved[0]) == one for move in made)
    assert all(int(move.moved[1]) in (other, twin) for move in made)
    (found,) = made[0].dictionary.tensors()
    assert float((found.mT @ weight[:, [one, other]]).abs().amax(0).min()) > 0.95
    stay = [k for k in range(24) if k not in made[0].moved.tolist()]
    assert torch.equal(found[:, stay], merged[:, stay])


def test_a_dictionary_that_is_right_stays() -> None:
    weight = planted(2)
    x = sparse((200, 24), 0.1, 3) @ weight.mT
    assert all(tried(vd.DenseDictionary(weight), x, number) is None for number in range(6))
    assert tried(vd.DenseDictionary(weight), x[:2], 0) is None  # too few signals to judge by


def test_a_template_at_the_edge_of_its_window_is_moved_to_the_middle() -> None:
    generator = torch.Generator().manual_seed(0)
    templates = F.normalize(torch.randn(2, 25, generator=generator, **REAL), dim=1).reshape(2, 1, 5, 5)
    source = vd.ConvDictionary(templates, (1, 16, 16))
    x = source.decode(sparse((12, *source.code_shape), 0.01, 4))
    weight = F.pad(templates, (2, 2, 2, 2))
    weight[1] = F.pad(templates[1], (0, 4, 3, 1))  # at the left
    weight[1] = torch.roll(weight[1], -1, -1)
    weight[1, :, :, -1] = 0.0  # a column is beyond the edge
    start = vd.ConvDictionary(weight / weight.flatten(1).norm(dim=1)[:, None, None, None], (1, 16, 16), padding=4)
    move = tried(start, x, 1)
    assert move is not None
    assert move.moved.tolist() == [1]
    (found,) = move.dictionary.tensors()
    seen = F.conv2d(F.pad(found[1:], (4, 4, 4, 4)), templates[1:]).abs().amax()
    before = F.conv2d(F.pad(start.weight[1:], (4, 4, 4, 4)), templates[1:]).abs().amax()
    assert float(seen) > 0.98 > float(before)


def test_planted_atoms_are_found_where_learning_alone_ends_in_a_local_minimum() -> None:
    weight, generator = planted(6), 6000
    start = random_dictionary(vd.DenseDictionary(weight), 1006)
    learner = Learner(start, LAM, Online(), atoms=Atoms(patience=1000, moves=10))
    for step in range(120):
        learner.step(sparse((128, 24), 0.1, generator + step) @ weight.mT)
    (found,) = learner.dictionary.tensors()
    assert float((found.mT @ weight).abs().amax(0).gt(0.98).double().mean()) >= 0.9


@pytest.mark.skipif(not available(), reason="needs numba")
@pytest.mark.parametrize("norm", ["ball", "sphere"])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_compiled_loops_do_what_torch_does(norm: str, nonnegative: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = F.normalize(torch.randn(20, 70, generator=generator, **REAL), dim=0)
    dictionary = vd.DenseDictionary(weight.abs() if nonnegative else weight)
    code = torch.randn(100, 70, generator=generator, **REAL)
    code = torch.where(code.abs() > 1.9, code, 0.0)
    code[:, 5] = 0.0  # an atom that stays
    x, atoms = torch.randn(100, 20, generator=generator, **REAL), Atoms(norm, nonnegative)
    fast = descend(dictionary, *moments(dictionary, x, code), atoms, 2).tensors()[0]
    monkeypatch.setattr("vars_dyn.learning.statistics.available", lambda: False)
    plain = descend(dictionary, *moments(dictionary, x, code), atoms, 2).tensors()[0]
    torch.testing.assert_close(fast, plain, atol=1e-13, rtol=1e-12)
    assert torch.equal(fast[:, 5], dictionary.tensors()[0][:, 5])
