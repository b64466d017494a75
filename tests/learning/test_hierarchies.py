"""Layers that learn together: codes by the joint energy, each layer by the rule on what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr
from torch import Tensor
from torch.nn import functional as F

import vars_dyn as vd
from vars_dyn.learning import Atoms, Gradient, Hebbian, Learner, Online, Solve, load_dictionary, random_dictionary
from vars_dyn.learning.statistics import descend

REAL: dict[str, Any] = {"dtype": torch.float64}
LAM, COUPLING = (0.2, 0.1), (1.5,)


def start(seed: int = 0) -> vd.HierarchyDictionary:
    layers = (vd.DenseDictionary(torch.ones(8, 12, **REAL)), vd.DenseDictionary(torch.ones(12, 10, **REAL)))
    found = random_dictionary(vd.HierarchyDictionary(*layers, coupling=COUPLING), seed)
    assert isinstance(found, vd.HierarchyDictionary)
    return found


def signals(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), **REAL)


def test_each_layer_changes_by_the_rule_on_the_code_below() -> None:
    dictionary, x = start(), signals(40)
    problem = vd.hierarchy_problem(x, dictionary.layers, LAM, COUPLING)
    code = vd.solve(problem, tol=1e-10).code
    lower, upper = dictionary.split(code)
    learner = Learner(dictionary, LAM, Online(), Solve(tol=1e-10), Atoms(patience=None))
    step = learner.step(x)
    assert step.objective == pytest.approx(float(problem.objective(code).mean()), rel=1e-8)
    assert step.magnitude == pytest.approx(float(code.abs().sum(1).mean()), rel=1e-6)
    found = learner.dictionary
    assert isinstance(found, vd.HierarchyDictionary)
    for layer, changed, seen, own in zip(dictionary.layers, found.layers, (x, lower), (lower, upper), strict=True):
        wanted = descend(layer, own.mT @ own / 40, seen.mT @ own / 40, Atoms(), 1)
        torch.testing.assert_close(changed.tensors()[0], wanted.tensors()[0], atol=1e-8, rtol=1e-6)
    assert torch.equal(found.roots, dictionary.roots)


@pytest.mark.parametrize("rule", [Online(), Hebbian(), Gradient()])
def test_the_joint_energy_falls(rule: Any) -> None:
    mixing = torch.randn(8, 12, generator=torch.Generator().manual_seed(5), **REAL)
    sparse = torch.randn(320, 12, generator=torch.Generator().manual_seed(6), **REAL) ** 3
    learner = Learner(start(), LAM, rule, atoms=Atoms(patience=None))
    objectives = [learner.step(sparse[k % 8 :: 8] @ mixing.mT).objective for k in range(24)]
    assert sum(objectives[-8:]) < 0.97 * sum(objectives[:8])


def test_dead_atoms_of_an_upper_layer_are_revived() -> None:
    dictionary = start()
    rows = dictionary.layers[1].tensors()[0].clone()
    rows[:, 3] = F.normalize(-torch.ones(12, **REAL), dim=0)  # what no code can use, since codes are not negative
    frozen = vd.HierarchyDictionary(dictionary.layers[0], vd.DenseDictionary(rows), coupling=COUPLING)
    learner = Learner(frozen, LAM, Hebbian(), Solve(nonnegative=True), Atoms(patience=60))
    steps = [learner.step(signals(30, k)) for k in range(3)]
    assert steps[0].dead == 0
    assert steps[1].revived >= 1
    assert isinstance(learner.dictionary, vd.HierarchyDictionary)
    assert not torch.allclose(learner.dictionary.layers[1].tensors()[0][:, 3], rows[:, 3])


@pytest.mark.parametrize("rule", [Online(), Gradient()])
def test_a_resumed_run_has_the_same_bits_and_is_read_again(rule: Any, tmp_path: Path) -> None:
    def run(steps: int, store: Path | None, *, resume: bool = False) -> vd.Learned:
        return vd.learn(start(), signals(200), LAM, method=rule, steps=steps, batch_size=16, atoms=Atoms(patience=50),
                        store=store, resume=resume)  # fmt: skip

    whole = run(6, None)
    run(3, tmp_path / "run")
    again = run(6, tmp_path / "run", resume=True)
    xr.testing.assert_equal(whole.history, again.history)
    assert again.history["atoms_2"].dims == ("atom_2", "neuron_2")
    loaded = load_dictionary(tmp_path / "run" / "dictionary.safetensors")
    assert isinstance(loaded, vd.HierarchyDictionary)
    for one, other in zip(loaded.tensors(), whole.dictionary.tensors(), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=1e-15)


@pytest.mark.parametrize(
    ("lam", "rule", "words"),
    [
        (0.1, Online(), "a number for each of the hierarchy's 2 layers"),
        ((0.1, 0.2, 0.3), Online(), "a number for each of the hierarchy's 2 layers"),
        ((0.1, -0.2), Online(), r"lam\[1\] is -0.2"),
        (LAM, Gradient(share=0.5), "those of a hierarchy carry no gradient"),
    ],
)
def test_bad_input_gets_one_sentence(lam: Any, rule: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Learner(start(), lam, rule)
