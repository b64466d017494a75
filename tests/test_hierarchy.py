"""Hierarchies: the joint problem is its energy, solved within its gap, and its limits are what the mathematics says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vars_dyn as vd
from tests.campaigns.weights import Layers
from tests.strategies import normal, seeds
from vars_dyn import _checks
from vars_dyn.recording import to_dataset


def layers(seed: int, *sizes: int) -> list[vd.DenseDictionary]:
    pairs = pairwise(sizes)
    return [vd.DenseDictionary(normal(seed + k, d, m) / d**0.5) for k, (d, m) in enumerate(pairs)]


@settings(max_examples=6)
@given(seed=seeds, top=st.integers(1, 5), levels=st.integers(2, 3), nonnegative=st.booleans())
def test_the_joint_problem_is_the_energy_and_is_solved_within_its_gap(
    seed: int, top: int, levels: int, nonnegative: bool
) -> None:
    stack = layers(seed, 5, 7, *(6,) * (levels - 2), top)
    x = normal(seed + 9, 2, 5)
    lam, coupling = [0.2, 0.1, 0.05][:levels], [0.7, 2.0][: levels - 1]
    problem = vd.hierarchy_problem(x, stack, lam, coupling, nonnegative)
    hierarchy = vd.Hierarchy(stack, lam, coupling, nonnegative)
    code = normal(seed + 10, 2, problem.dictionary.code_size).abs()
    written = Layers([P.weight.numpy() for P in stack], lam, coupling, nonnegative)
    for i in range(2):
        parts = [part[i].numpy() for part in hierarchy.split(code)]
        np.testing.assert_allclose(problem.objective(code)[i], written.energy(x[i].numpy(), parts), rtol=1e-12)
    solution = vd.solve(problem)
    assert solution.converged.all()
    for i in range(2):
        best = written.energy(x[i].numpy(), written.solved(x[i].numpy()) or [])
        excess = float(problem.objective(solution.code)[i]) - best
        assert -1e-7 <= excess <= float(problem.gap(solution.code)[i]) + 1e-12


def test_a_weak_coupling_gives_the_stack_of_feedforward_solves() -> None:
    stack, x = layers(0, 6, 8, 5), normal(9, 3, 6)
    for mu, near in ((1e-2, 0.2), (1e-3, 2e-2)):
        hierarchy = vd.Hierarchy(stack, [0.2, 0.1 * mu], [mu])
        joint, stacked = hierarchy.solve(x), hierarchy.solve(x, feedback=False)
        assert stacked.converged.all()
        for a, b in zip(joint.codes, stacked.codes, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=near)
    # Each layer of the stack solves its own problem.
    below = vd.solve(vd.SparseProblem(stack[0], x, 0.2)).code
    torch.testing.assert_close(stacked.codes[0], below, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        stacked.codes[1], vd.solve(vd.SparseProblem(stack[1], below, 0.1)).code, rtol=0, atol=1e-8
    )


def test_the_stack_of_eq_1_to_3_hands_settled_neurons_upwards() -> None:
    """Each layer's neurons, integrated to rest, are what the next layer's map sees."""
    stack, x = layers(0, 6, 8, 5), normal(9, 3, 6)
    weight = normal(20, 8, 6) / 6**0.5
    found = vd.Hierarchy(stack, [0.2, 0.3], [2.0]).solve(x, feedback=False, forward=[lambda z: z @ weight.mT])
    assert found.converged.all()
    seen = x
    for level, (P, lam) in enumerate(zip(stack, (0.2, 0.15), strict=True)):
        field = vd.SparseRecurrent(P, seen, lam)
        times = torch.tensor([0.0, 3000.0], dtype=torch.float64)
        run = vd.integrate(field, field.initial_state(), times, "rkc", rtol=1e-4, gap=1e-9)
        z = run.states[0][-1]
        torch.testing.assert_close(found.neurons[level], z, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.codes[level], field.code((z, run.states[1][-1])), rtol=0, atol=1e-3)
        seen = z @ weight.mT if level == 0 else z
    # The stack that hands codes is another one, and so is that of the encoders, which fits any hierarchy.
    others = [
        vd.Hierarchy(stack, [0.2, 0.3], [2.0]).solve(x, feedback=False, forward=maps)
        for maps in (None, [P.encode for P in stack[:-1]])
    ]
    assert all(bool((other.codes[1] - found.codes[1]).abs().max() > 0.01) for other in others)
    torch.testing.assert_close(others[1].neurons[0], others[0].neurons[0], rtol=0, atol=0)
    for arguments, message in (
        ({"forward": [torch.tanh]}, "forward is given with feedback"),
        ({"feedback": False, "forward": []}, "forward has 0 maps; one for each layer above"),
        ({"feedback": False, "forward": [torch.tanh]}, r"x has shape \(3, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            vd.Hierarchy(stack, [0.2, 0.3], [2.0]).solve(x, **arguments)


def test_records_label_the_layers_of_atoms_and_neurons(tmp_path: Path) -> None:
    stack, x = layers(0, 4, 5, 3), normal(9, 2, 4)
    hierarchy = vd.Hierarchy(stack, [0.2, 0.1], [1.0])
    field, times = hierarchy.field(x), torch.linspace(0, 1, 3, dtype=torch.float64)
    run = vd.record(field, tmp_path / "run.zarr", times)
    assert (run.layer.dims, run.layer.values.tolist()) == (("atom",), [1] * 5 + [2] * 3)
    assert (run.neuron_layer.dims, run.neuron_layer.values.tolist()) == (("neuron",), [1] * 4 + [2] * 5)
    upper = run.code.isel(time=-1).groupby("layer")[2]
    wanted = hierarchy.split(torch.from_numpy(run.code.values[-1]))[1]
    assert (upper.values == wanted.numpy()).all()
    some = vd.record(field, tmp_path / "some.zarr", times, atoms=[6, 1])
    assert some.layer.values.tolist() == [2, 1]
    memory = to_dataset(field, vd.integrate(field, field.initial_state(), times))
    assert set(memory.coords) >= {"layer", "neuron_layer"}


def test_a_strong_coupling_makes_a_layer_what_the_one_above_predicts() -> None:
    stack, x = layers(0, 6, 8, 5), normal(9, 3, 6)
    off = []
    for mu in (1e2, 1e3):
        found = vd.Hierarchy(stack, [0.0, 0.2], [mu]).solve(x, tol=1e-6)
        off.append(float((found.codes[0] - stack[1].decode(found.codes[1])).abs().max()))
    assert off[0] < 0.02
    assert off[1] == pytest.approx(off[0] / 10, rel=0.1)


@pytest.mark.parametrize("lam", [[0.2, 0.1], [0.0, 0.2]])
def test_a_large_coupling_is_solved_to_rounding_in_few_steps(lam: list[float]) -> None:
    stack, x = layers(0, 16, 24, 12), normal(9, 2, 16)
    problem = vd.hierarchy_problem(x, stack, lam, [1e6])
    solution = vd.solve(problem)
    assert (solution.kkt_residual <= 2.1 * problem.rounding(solution.code)).all()
    assert (solution.iterations <= 5000).all()
    written = Layers([P.weight.numpy() for P in stack], lam, [1e6], False)
    for i in range(2):
        best = written.energy(x[i].numpy(), written.solved(x[i].numpy()) or [])
        assert float(problem.objective(solution.code)[i]) <= best + 1e-6


def test_the_field_comes_to_rest_at_the_joint_code_and_its_energy_falls() -> None:
    stack, x = layers(0, 4, 5, 3), normal(9, 2, 4)
    hierarchy = vd.Hierarchy(stack, [0.2, 0.1], [1.0], bias=[None, torch.full((3,), 0.05).double()])
    field = hierarchy.field(x)
    times = torch.linspace(0, 150, 31, dtype=torch.float64)
    trajectory = vd.integrate(field, field.initial_state(), times)
    energy = torch.stack([field.lyapunov(tuple(p[k] for p in trajectory.states)) for k in range(31)])
    assert (energy.diff(dim=0) <= 1e-7).all()
    code = field.code(tuple(part[-1] for part in trajectory.states))
    torch.testing.assert_close(code, vd.solve(hierarchy.problem(x)).code, rtol=0, atol=1e-4)


def test_convolutions_chain_and_gradients_reach_every_layer() -> None:
    first = vd.ConvDictionary(normal(0, 2, 1, 3, 3).requires_grad_(), (1, 5, 5), padding=1)
    second = vd.DenseDictionary(normal(1, 50, 4).div(7).requires_grad_())
    mu = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x = normal(2, 2, 1, 5, 5)
    found = vd.Hierarchy([first, second], [0.3, 0.1], [mu]).solve(x)
    assert [tuple(code.shape) for code in found.codes] == [(2, 2, 5, 5), (2, 4)]
    slopes = torch.autograd.grad(
        found.codes[0].square().sum() + found.codes[1].square().sum(), [*first.tensors(), second.weight, mu]
    )
    assert all(float(s.abs().max()) > 0 for s in slopes)

    def value(at: float) -> float:
        codes = vd.Hierarchy([first.detach(), second.detach()], [0.3, 0.1], [at]).solve(x, tol=1e-11).codes
        return float(codes[0].square().sum() + codes[1].square().sum())

    assert float(slopes[-1]) == pytest.approx((value(0.5 + 1e-5) - value(0.5 - 1e-5)) / 2e-5, rel=1e-4)


def test_a_cue_raises_what_it_predicts() -> None:
    """Two templates of disjoint atoms: a cue for one raises its atoms and leaves those of the other."""
    eye = torch.eye(4, dtype=torch.float64)
    stack = [vd.DenseDictionary(eye), vd.DenseDictionary(torch.stack([eye[0] + eye[1], eye[2] + eye[3]], 1) / 2**0.5)]
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    cue = torch.tensor([0.08, 0.0], dtype=torch.float64)
    plain, cued = (vd.Hierarchy(stack, [0.1, 0.1], [1.0], bias=[None, q]).solve(x).codes[0][0] for q in (None, cue))
    assert (cued[:2] > plain[:2] + 0.01).all()
    torch.testing.assert_close(cued[2:], plain[2:], rtol=0, atol=1e-8)


def test_layers_that_do_not_fit_are_refused() -> None:
    one, two = layers(0, 4, 5, 3)
    for make, message in (
        (lambda: vd.HierarchyDictionary(two, one, coupling=[1.0]), "layer 2 has signals of 4 entries"),
        (lambda: vd.HierarchyDictionary(one, two), "coupling has 0 numbers"),
        (lambda: vd.HierarchyDictionary(one, two, coupling=[0.0]), r"coupling\[0\] is 0"),
        (lambda: vd.HierarchyDictionary(), "a hierarchy of no dictionaries"),
        (lambda: vd.HierarchyDictionary(vd.DenseDictionary(normal(0, 2, 4, 5))), "layer 1 has batch shape"),
        (lambda: vd.Hierarchy([one, two], [0.1], [1.0]), "lam has 1 entries"),
        # Called directly, since the tests' own checks of types refuse a number for a sequence before.
        (lambda: _checks.sequence("lam", 0.1, "layer"), "lam is 0.1; a sequence with one for each layer is wanted"),
        (lambda: vd.Hierarchy([one, two], [0.1, 0.1], [1.0], bias=[None]), "bias has 1 entries"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
