"""Gradients through trajectories and equilibria: modes against each other, finite differences and the exact flow."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jaxtyping
import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torchdiffeq
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import vars_dyn as vd
from experiments.benchmark.exact import exact_flow
from tests.integration.methods import FIXED_METHODS
from tests.strategies import normal
from vars_dyn.integration import METHODS, gradients
from vars_dyn.integration.gradients import replay

Leaves = dict[str, Tensor]
TIMES = torch.tensor([0.0, 0.7, 3.0], dtype=torch.float64)

#: For each kind a function that draws a dictionary's tensors from a seed, and one that makes the dictionary of them.
dictionaries: dict[str, tuple[Callable[[int], Leaves], Callable[[Leaves], vd.Dictionary]]] = {
    "dense": (lambda s: {"weight": normal(s + 1, 6, 8) / 6**0.5}, lambda p: vd.DenseDictionary(p["weight"])),
    "batched": (lambda s: {"weight": normal(s + 2, 2, 6, 7) / 6**0.5}, lambda p: vd.DenseDictionary(p["weight"])),
    "twice batched": (
        lambda s: {"weight": normal(s + 3, 2, 2, 5, 6) / 5**0.5},
        lambda p: vd.DenseDictionary(p["weight"]),
    ),
    "conv": (
        lambda s: {"weight": normal(s + 4, 3, 1, 3, 3) / 3},
        lambda p: vd.ConvDictionary(p["weight"], (1, 5, 4), stride=2, padding=1),
    ),
    "fourier": (lambda s: {"weight": normal(s + 5, 2, 1, 3, 4) / 12**0.5}, lambda p: vd.FourierDictionary(p["weight"])),
    "features": (
        lambda s: {"tokens": normal(s + 6, 2, 9, 4), "projection": normal(s + 7, 5, 4)},
        lambda p: vd.RandomFeatureDictionary(p["tokens"], p["projection"]),
    ),
    "union": (
        lambda s: {"templates": normal(s + 8, 2, 1, 2, 2) / 2, "weight": normal(s + 9, 9, 4) / 3},
        lambda p: vd.UnionDictionary(vd.ConvDictionary(p["templates"], (1, 3, 3)), vd.DenseDictionary(p["weight"])),
    ),
}


@dataclass(frozen=True)
class Case:
    """A field as a function of its leaves. All leaves require gradients.

    Of a few seeds that were tried, these are the ones at which the field settles soonest and no unit is near its
    threshold. `settled` is 18 time constants of the slowest mode.
    """

    kind: Callable[..., vd.Field]
    dictionary: str
    lead: tuple[int, ...]
    seed: int
    settled: float
    lam: float | None = None
    scale: float = 1.0
    constants: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def leaves(self) -> Leaves:
        make, build = dictionaries[self.dictionary]
        leaves = {name: self.scale * value for name, value in make(self.seed).items()}
        dictionary = build(leaves)
        leaves["x"] = normal(self.seed + 20, *dictionary.batch_shape, *self.lead, *dictionary.signal_shape)
        if self.lam is not None:
            problem = vd.SparseProblem(dictionary, leaves["x"], 1.0, nonnegative="threshold" in self.options)
            leaves["lam"] = self.lam * problem.critical_lam()
        leaves |= {name: torch.tensor(value, dtype=torch.float64) for name, value in self.constants.items()}
        return {name: value.clone().requires_grad_() for name, value in leaves.items()}

    def field(self, leaves: Leaves) -> vd.Field:
        rest = {name: value for name, value in leaves.items() if name in ("lam", *self.constants)}
        return self.kind(dictionaries[self.dictionary][1](leaves), leaves["x"], **rest, **self.options)


def recurrent_from_root(dictionary: vd.Dictionary, x: Tensor, **rest: Any) -> vd.Field:
    """The recurrent field of a matrix. The leaf is the matrix's root, so that every perturbation keeps it symmetric."""
    root = dictionary.matrix()
    return vd.Recurrent(root @ root.mT, x, **rest)


def feed_forward(dictionary: vd.Dictionary, x: Tensor, **rest: Any) -> vd.Field:
    return vd.FeedForward(dictionary.encode(x), **rest)


general = {"alpha": 1.3, "beta": 2.6, "gamma": 2.1, "tau_z": 0.7, "tau_u": 1.4}
reduced = {"alpha": 0.8, "beta": 2.4, "gamma": 2.2, "tau_u": 0.6}
slow = {"alpha": 1.2, "tau_z": 0.8}
nonnegative = {"threshold": "nonnegative"}

CASES = {
    "vars, dense": Case(vd.SparseRecurrent, "dense", (), 18_000, 49.0, 0.5),
    "vars with constants, dense": Case(vd.SparseRecurrent, "dense", (2, 2), 19_000, 27.0, 0.5, constants=general),
    "non-negative vars, dense": Case(vd.SparseRecurrent, "dense", (3,), 20_000, 50.0, 0.5, options=nonnegative),
    "reduced, batched": Case(vd.Reduced, "batched", (3,), 13_000, 21.0, 0.5),
    "vars, conv": Case(vd.SparseRecurrent, "conv", (3,), 5_000, 54.0, 0.5),
    "reduced, fourier": Case(vd.Reduced, "fourier", (), 18_000, 10.0, 0.5),
    "vars, features": Case(vd.SparseRecurrent, "features", (2,), 0, 54.0, 0.5),
    "vars with constants, union": Case(vd.SparseRecurrent, "union", (2, 2), 23_000, 26.0, 0.4, constants=general),
    "non-negative reduced, twice batched": Case(
        vd.Reduced, "twice batched", (2,), 16_000, 22.0, 0.4, constants=reduced, options=nonnegative
    ),
    "recurrent, dense": Case(vd.Recurrent, "dense", (3,), 18_000, 15.0, scale=0.3, constants=slow),
    "recurrent, matrix": Case(recurrent_from_root, "dense", (), 18_000, 23.0, scale=0.3),
    "encoder-decoder, conv": Case(vd.EncoderDecoder, "conv", (2,), 5_000, 34.0, scale=0.4, constants={"alpha": 1.1}),
    "feed-forward": Case(feed_forward, "dense", (2, 3), 0, 15.0, constants={"alpha": 1.2}),
}


def loss_of(parts: tuple[Tensor, ...]) -> Tensor:
    """A fixed linear function of every entry."""
    return torch.stack([(part * normal(40 + i, *part.shape)).sum() for i, part in enumerate(parts)]).sum()


def at_rest(field: vd.Field) -> Tensor:
    solution = vd.equilibrium(field)
    return loss_of((solution.code, *solution.state))


def at_time(field: vd.Field, time: float, gradient: str | gradients.Mode) -> Tensor:
    times = torch.tensor([0.0, time], dtype=torch.float64)
    trajectory = vd.integrate(field, field.initial_state(), times, gradient=gradient)
    state = tuple(part[-1] for part in trajectory.states)
    return loss_of((field.code(state), *state))


def gradient_of(loss: Tensor, leaves: Leaves) -> Leaves:
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: g for name, g in zip(leaves, found, strict=True) if g is not None}


def check_agreement(found: Leaves, wanted: Leaves, tolerance: float) -> None:
    """Check the error of each tensor, relative to its norm."""
    assert set(wanted) <= set(found)
    for name, value in wanted.items():
        error = float((found[name] - value).norm() / value.norm())
        assert error <= tolerance, f"{name}: {error:.3g}"


def differences(loss: Callable[[Leaves], Tensor], leaves: Leaves, name: str, step: float) -> tuple[Tensor, float]:
    """A direction for one leaf, with the central difference of the loss along it."""
    direction = normal(60, *leaves[name].shape)
    with torch.no_grad():
        up, down = (loss({**leaves, name: leaves[name] + sign * step * direction}) for sign in (1, -1))
    return direction, float(up - down) / (2 * step)


@functools.cache
def implicit(name: str) -> tuple[Leaves, Leaves]:
    leaves = CASES[name].leaves()
    return leaves, gradient_of(at_rest(CASES[name].field(leaves)), leaves)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", gradients.MODES)
def test_modes_agree_with_each_other_and_with_finite_differences(name: str, mode: str) -> None:
    case = CASES[name]
    leaves, exact = implicit(name)
    made = case.field(leaves)
    if mode == "implicit":
        problem = made.detach().problem()
        near = vd.differentiability(problem, vd.solve(problem).code)
        assert min(float(near.smallest_active.min()), float(near.smallest_slack.min())) > 1e-3
        # The time constants do not move the equilibrium.
        assert set(exact) == {n for n in leaves if not n.startswith("tau")}
        for leaf, value in exact.items():
            direction, change = differences(lambda p: at_rest(case.field(p)), leaves, leaf, 1e-5)
            size = float(value.norm() * direction.norm())
            assert float((value * direction).sum()) == pytest.approx(change, abs=1e-7 * size), leaf
    else:
        found = gradient_of(at_time(made, case.settled, mode), leaves)
        check_agreement(found, exact, 1e-3 if mode == "adjoint" else 1e-5)
        assert set(found) == set(leaves)
        for leaf in set(found) - set(exact):
            assert float(found[leaf].norm()) <= 1e-4, leaf


def small(seed: int = 0, **constants: Any) -> tuple[Leaves, vd.SparseRecurrent]:
    """A field of six signals that have not settled yet. Everything in it is learnable."""
    values = {"alpha": 1.1, "beta": 2.2, "gamma": 2.1, "tau_z": 0.9, "tau_u": 1.2}
    leaves = {"weight": normal(seed, 5, 8) / 2.2, "x": normal(seed + 1, 2, 3, 5), "lam": torch.full((2, 3), 0.2)}
    leaves |= {name: torch.tensor(value) for name, value in values.items()}
    leaves = {name: value.to(torch.float64).requires_grad_() for name, value in leaves.items()}
    return leaves, small_field(leaves)


def small_field(leaves: Leaves) -> vd.SparseRecurrent:
    rest = {name: value for name, value in leaves.items() if name not in ("weight", "x")}
    return vd.SparseRecurrent(vd.DenseDictionary(leaves["weight"]), leaves["x"], **rest)


def path_loss(field: vd.Field, share: float = 1.0, **options: Any) -> Tensor:
    """A function of the states at the times `share` * TIMES, of which the first is the start."""
    return loss_of(vd.integrate(field, field.initial_state(), share * TIMES, **options).states)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_before_rest_the_gradient_is_that_of_the_program(method: str, mode: str) -> None:
    options = {"method": method, "step": 0.1, "gradient": mode}
    leaves, field = small()
    found = gradient_of(path_loss(field, **options), leaves)
    for name, value in found.items():
        direction, change = differences(lambda p: path_loss(small_field(p), **options), leaves, name, 1e-6)
        size = float(value.norm() * direction.norm())
        assert float((value * direction).sum()) == pytest.approx(change, abs=1e-7 * size), name


STEPS = {"explicit_adams": 4e-4, "implicit_adams": 0.008} | dict.fromkeys(
    ("euler", "midpoint", "heun2", "heun3", "rk4"), 0.05
)


@pytest.mark.parametrize("gap", [None, 1e-2])
@pytest.mark.parametrize("method", METHODS)
def test_checkpointing_is_backpropagation(method: str, gap: float | None) -> None:
    if gap and method.endswith("adams"):
        pytest.skip("an Adams method cannot be stepped stably at a default gap's step")
    options = {"method": method, "gap": gap, "step": STEPS.get(method), "rtol": 1e-4, "atol": 1e-6}
    options["share"] = 0.05 if method == "explicit_adams" else 1.0  # its stable steps are short, so the run is too
    leaves, field = small()
    wanted = gradient_of(path_loss(field, gradient="backprop", **options), leaves)
    found = gradient_of(path_loss(field, gradient="checkpoint", **options), leaves)
    assert set(found) == set(leaves)
    check_agreement(found, wanted, 1e-10)


@given(count=st.integers(1, 20_000))
def test_marks_are_evenly_spaced_and_as_many_as_the_root_of_the_steps(count: int) -> None:
    marks = replay._Marks()
    for i in range(count):
        marks(torch.tensor(float(i)), (), torch.tensor(1.0))
        if i % 3 == 0:  # this step is rejected, and the next begins at the same time
            marks(torch.tensor(float(i)), (), torch.tensor(0.5))
    times = [mark.time for mark in marks.kept]
    assert times == [float(t) for t in range(0, count, marks.stride)]
    assert len(times) <= 4 * marks.stride <= 32 + 4 * math.sqrt(count)
    assert all(mark.step == 1.0 for mark in marks.kept)


class Held:
    """Count the bytes that autograd's graph holds, and their maximum."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> Any:
        class Box:
            pass

        box, size = Box(), tensor.numel() * tensor.element_size()
        box.tensor = tensor  # type: ignore[attr-defined]
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(box, self.release, size)
        return box

    def release(self, size: int) -> None:
        self.now -= size


def held(mode: str, time: float) -> int:
    found = Held()
    P = vd.DenseDictionary((normal(0, 16, 32) / 4).requires_grad_())
    with torch.autograd.graph.saved_tensors_hooks(found.pack, lambda box: box.tensor):
        at_time(vd.SparseRecurrent(P, normal(1, 8, 16), lam=0.5), time, mode).backward()
    return found.peak


def test_checkpointing_holds_far_less_and_hardly_more_for_a_longer_way() -> None:
    short, long = ((held("backprop", t), held("checkpoint", t)) for t in (10.0, 100.0))
    assert long[1] < long[0] / 8
    assert long[0] > 2.8 * short[0]
    assert long[1] < 2.2 * short[1]  # the number of steps between two marks has doubled once


def coherent(lam: float = 0.3) -> tuple[Leaves, vd.SparseRecurrent]:
    weight = normal(3, 12, 24)
    leaves = {"weight": weight / weight.norm(dim=0), "x": normal(4, 5, 12)}
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    return leaves, vd.SparseRecurrent(vd.DenseDictionary(leaves["weight"]), leaves["x"], lam=lam)


@functools.cache
def flow_gradient(time: float) -> Leaves:
    leaves, field = coherent()
    z, u, crossings = exact_flow(field, time)
    assert crossings > 30
    return gradient_of(loss_of((field.code((z, u)), z, u)), leaves)


def error_of(time: float, gradient: str | gradients.Mode, rtol: float) -> float:
    """The larger of the errors of the gradients in P and in x, relative to the exact flow's gradients."""
    leaves, field = coherent()
    times = torch.tensor([0.0, time], dtype=torch.float64)
    path = vd.integrate(field, field.initial_state(), times, rtol=rtol, atol=rtol / 100, gradient=gradient)
    state = tuple(part[-1] for part in path.states)
    found, exact = gradient_of(loss_of((field.code(state), *state)), leaves), flow_gradient(time)
    return max(float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact)


@pytest.mark.parametrize(
    ("mode", "method"),
    [(mode, method) for mode in ("backprop", "checkpoint") for method in ("dopri5", "rkc", "rk4")]
    + [("adjoint", "dopri5"), ("adjoint", "rk4")],
)
def test_second_derivatives_are_right_or_refused(mode: str, method: str) -> None:
    weight, x = (normal(1, 4, 5) / 2).requires_grad_(), normal(2, 3, 4)
    times = torch.linspace(0, 2, 41 if method == "rk4" else 2, dtype=torch.float64)

    def first(weight: Tensor, create_graph: bool = False) -> Tensor:
        field = vd.SparseRecurrent(vd.DenseDictionary(weight), x, lam=0.3)
        path = vd.integrate(field, field.initial_state(), times, method, rtol=1e-6, gradient=mode)
        # The first term is linear in the states, so the gradient that reaches them is constant. The second is not.
        loss = path.states[0][-1].sum() + weight.pow(3).sum()
        (found,) = torch.autograd.grad(loss, weight, create_graph=create_graph)
        return found

    along = normal(3, 4, 5)
    found = (first(weight, create_graph=True) * along).sum()
    if mode == "adjoint" or (mode == "checkpoint" and method != "rkc"):
        with pytest.raises(RuntimeError, match=rf'"{mode}"\) cannot be differentiated a second time'):
            torch.autograd.grad(found, weight, retain_graph=True)
        with pytest.raises(RuntimeError, match="cannot be differentiated a second time"):
            found.backward()
        return
    (second,) = torch.autograd.grad(found, weight)
    if method == "rk4":  # steps of the other methods depend on the weights, so differences would not agree
        step = 1e-5
        ways = [first((weight + size * along).detach().requires_grad_()) for size in (step, -step)]
        torch.testing.assert_close(second, (ways[0] - ways[1]) / (2 * step), rtol=1e-6, atol=1e-6)
    assert float((second - 6 * weight.detach() * along).norm()) > 0.1


@pytest.mark.parametrize("mode", ["checkpoint", "adjoint"])
def test_modes_without_rules_for_torch_func_say_so(mode: str) -> None:
    def total(x: Tensor) -> Tensor:
        field = vd.Reduced(vd.DenseDictionary(normal(1, 4, 5)), x, lam=0.3)
        return vd.integrate(field, field.initial_state(), TIMES, gradient=mode).states[0].sum()

    with pytest.raises(RuntimeError, match=r"has no rules for torch\.func's transforms"):
        torch.func.grad(total)(normal(2, 3, 4))


def test_the_exact_flow_is_one() -> None:
    """Its states agree with a tight integration, and its gradient with finite differences across kinks."""
    leaves, field = coherent()
    flow, times = exact_flow(field, 3.0), torch.tensor([0.0, 3.0], dtype=torch.float64)
    with torch.no_grad():
        path = vd.integrate(field, field.initial_state(), times, rtol=1e-10, atol=1e-12)
    for found, wanted in zip((flow.z, flow.u), path.states, strict=True):
        torch.testing.assert_close(found, wanted[-1], rtol=0, atol=1e-7)

    def loss(p: Leaves) -> Tensor:
        made = vd.SparseRecurrent(vd.DenseDictionary(p["weight"]), p["x"], lam=0.3)
        return loss_of(exact_flow(made, 3.0)[:2])

    exact = gradient_of(loss(leaves), leaves)
    for name in leaves:
        direction, change = differences(loss, leaves, name, 1e-6)
        assert float((exact[name] * direction).sum()) == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_before_rest_kinks_leave_an_error_of_the_root_of_the_tolerance(rtol: float) -> None:
    for time in (3.0, 12.0):
        backprop = error_of(time, "backprop", rtol)
        assert backprop <= 10 * math.sqrt(rtol)
        assert error_of(time, "adjoint", rtol) <= 10 * backprop


def test_the_plain_adjoint_explodes_where_this_one_does_not() -> None:
    leaves, field = coherent()

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.x = (nn.Parameter(leaves[name].detach()) for name in ("weight", "x"))

        def forward(self, t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            derivative: tuple[Tensor, ...] = field.with_tensors((self.weight, self.x, field.lam))(t, state)
            return derivative

    func, times = Plain(), torch.tensor([0.0, 3.0], dtype=torch.float64)
    path = torchdiffeq.odeint_adjoint(func, field.initial_state(), times, rtol=1e-5, atol=1e-7, method="dopri5")
    state = tuple(part[-1] for part in path)
    found = torch.autograd.grad(loss_of((field.code(state), *state)), func.weight)[0]
    exact = flow_gradient(3.0)["weight"]
    assert float((found - exact).norm() / exact.norm()) > 1e3
    assert error_of(3.0, "adjoint", 1e-5) < 0.05


def test_the_adjoint_reaches_every_tensor_at_every_time() -> None:
    leaves, field = small()
    wanted = gradient_of(path_loss(field, rtol=1e-8, atol=1e-10), leaves)
    trajectory = vd.integrate(field, field.initial_state(), TIMES, gradient="adjoint")
    assert trajectory.times.tolist() == TIMES.tolist()
    assert all(len(part) == len(TIMES) for part in trajectory.states)
    found = gradient_of(path_loss(field, gradient=gradients.Adjoint(rtol=1e-5)), leaves)
    assert set(found) == set(leaves)
    check_agreement(found, wanted, 2e-2)
    check_agreement({"weight": found["weight"]}, {"weight": wanted["weight"]}, 1e-3)


def test_tensors_made_from_one_another_each_get_their_own_gradient() -> None:
    """The signals are made from the dictionary. The gradient of one must not be counted in the other as well."""
    root = (normal(0, 5, 7) / 3).requires_grad_()

    def loss(mode: str) -> Tensor:
        x = (root[:, :4].mT * 2).tanh()
        return at_time(vd.SparseRecurrent(vd.DenseDictionary(root), x, lam=0.2), 3.0, mode)

    backprop, *others = (torch.autograd.grad(loss(mode), root)[0] for mode in ("backprop", "checkpoint", "adjoint"))
    torch.testing.assert_close(others[0], backprop, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(others[1], backprop, rtol=0.02, atol=0.02 * float(backprop.abs().max()))


@pytest.mark.parametrize("method", ["dopri5", "euler"])
def test_the_adjoints_accuracy_does_not_depend_on_the_losss_scale(method: str) -> None:
    leaves, field = small()
    options = {"gradient": "adjoint", "method": method, "step": STEPS.get(method)}
    wanted = gradient_of(path_loss(field, **options), leaves)
    found = gradient_of(1e-12 * path_loss(field, **options), leaves)
    check_agreement({name: 1e12 * value for name, value in found.items()}, wanted, 1e-6)
    nothing = gradient_of(0.0 * path_loss(field, **options), leaves)
    assert all((value == 0).all() for value in nothing.values())


def test_a_gradient_that_is_not_finite_stays_so_and_a_backward_way_that_fails_says_so() -> None:
    leaves, field = small()
    found = gradient_of(path_loss(field, gradient="adjoint") * math.inf, leaves)
    assert all(value.isnan().all() for value in found.values())
    forward = vd.integrate(field, field.initial_state(), TIMES, gradient="adjoint").statistics
    limit = forward.accepted + forward.rejected + 1
    loss = path_loss(field, gradient=gradients.Adjoint(rtol=1e-9), max_steps=limit)
    with pytest.raises(vd.IntegrationError, match=f"the gradient: the step limit is reached \\({limit} steps\\)") as e:
        loss.backward()
    assert 0 <= e.value.time <= 3


def test_a_step_limit_stops_the_forward_way_of_every_mode() -> None:
    _, field = small()
    for mode in ("backprop", "checkpoint", "adjoint"):
        with pytest.raises(vd.IntegrationError, match="the step limit is reached") as caught:
            path_loss(field, gradient=mode, max_steps=12)
        assert caught.value.trajectory is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: path_loss(f, gradient="implicit"), 'gradient is "implicit", which differentiates the equilibrium'),
        (lambda f: path_loss(f, gradient=gradients.Implicit()), "call vars_dyn.equilibrium"),
        (lambda f: path_loss(f, gradient="unrolled"), "gradient is 'unrolled'; one of backprop, checkpoint, adjoint"),
        (lambda f: path_loss(f, gradient="adjoint", method="rkc"), "which has no adjoint"),
        (lambda f: vd.equilibrium(f, "none"), "gradient is 'none'; one of"),
        (lambda f: gradients.Adjoint(rtol=0.0), "rtol is 0.0; a number above zero"),
        (lambda f: gradients.Adjoint(atol=math.nan), "atol is nan; a finite number"),
        (lambda f: gradients.Adjoint(growth=1), "growth is 1; a number above one"),
    ],
)
def test_what_cannot_be_done_is_refused(call: Callable[[vd.Field], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(small()[1])


def test_no_gradient_is_kept_where_none_is_wanted() -> None:
    _, field = small()
    with torch.no_grad():
        assert not path_loss(field).requires_grad
    assert not path_loss(field.detach()).requires_grad
    # Here only the initial state requires a gradient.
    state = tuple(part.detach().requires_grad_() for part in field.initial_state())
    for mode in ("backprop", "checkpoint", "adjoint"):
        path = vd.integrate(field.detach(), state, TIMES, gradient=mode)
        found = torch.cat([part.flatten() for part in torch.autograd.grad(loss_of(path.states), state)])
        if mode == "backprop":
            wanted = found
        assert float((found - wanted).norm() / wanted.norm()) < 0.02


MODES = list(gradients.MODES)


def output(leaves: Leaves, mode: str) -> Tensor:
    """A loss that uses each mode as users do, in the dtype of the leaves."""
    x, lam = leaves["x"], leaves["lam"].exp()
    made = vd.SparseRecurrent(vd.DenseDictionary(leaves["weight"]), x, lam=lam, alpha=leaves["alpha"].exp())
    if mode == "implicit":
        return vd.equilibrium(made).code.square().sum()
    path = vd.integrate(made, made.initial_state(), TIMES, rtol=1e-4, atol=1e-5, gradient=mode)
    return made.code(tuple(part[-1] for part in path.states)).square().sum()


def layer_leaves(dtype: torch.dtype = torch.float32) -> Leaves:
    weight = normal(0, 6, 9)
    values = {"weight": weight / weight.norm(dim=0), "x": normal(1, 4, 6)}
    values |= {"lam": torch.tensor(-1.5), "alpha": torch.tensor(0.1)}
    return {name: value.to(dtype).requires_grad_() for name, value in values.items()}


@pytest.mark.parametrize("mode", MODES)
def test_autocast_does_not_reach_the_solve(mode: str) -> None:
    leaves = layer_leaves()
    plain = output(leaves, mode)
    with torch.autocast("cpu", torch.bfloat16):
        loss = output(leaves, mode)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain, rtol=0, atol=0)
    check_agreement(gradient_of(loss, leaves), gradient_of(plain, leaves), 1e-6)


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Turn off the checks of shapes, because torch 2.11 cannot trace them. Users run without them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.filterwarnings("ignore:Dynamo", "ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("mode", MODES)
def test_compiling_does_not_change_the_result(mode: str) -> None:
    leaves = layer_leaves(torch.float64)

    def function(*tensors: Tensor) -> Tensor:
        return 2 * output(dict(zip(leaves, (1.5 * t for t in tensors), strict=True)), mode)

    compiled = torch.compile(function, backend="aot_eager")
    plain, loss = function(*leaves.values()), compiled(*leaves.values())
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=1e-12)
    check_agreement(gradient_of(loss, leaves), gradient_of(plain, leaves), 1e-10)


class Layer(nn.Module):
    """The gradients of all parameters of a VARS layer that one of the modes solves."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        leaves = layer_leaves(torch.float64)
        self.mode, self.names = mode, [name for name in leaves if name != "x"]
        self.values = nn.ParameterList(nn.Parameter(leaves[name].detach()) for name in self.names)

    def forward(self, x: Tensor) -> Tensor:
        return output({"x": x, **dict(zip(self.names, self.values, strict=True))}, self.mode)


def in_parallel(rank: int, store: str, queue: Any) -> None:
    """Run one of two processes: write each mode's gradients of a replicated layer that sees half of the signals."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {}
    for mode in MODES:
        layer = nn.parallel.DistributedDataParallel(Layer(mode))
        layer(normal(1, 4, 6)[rank::2]).backward()
        found[mode] = [p.grad.tolist() if p.grad is not None else None for p in layer.parameters()]
    queue.put((rank, found))
    torch.distributed.destroy_process_group()


def test_distributed_replicas_receive_every_gradient(tmp_path: Any) -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [context.Process(target=in_parallel, args=(i, str(tmp_path / "store"), queue)) for i in range(2)]
    for process in processes:
        process.start()
    found = dict(queue.get() for _ in processes)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    for mode in MODES:
        layer = Layer(mode)
        (0.5 * sum(layer(normal(1, 4, 6)[rank::2]) for rank in range(2))).backward()
        wanted = [p.grad.tolist() for p in layer.parameters()]
        assert found[0][mode] == found[1][mode]
        for a, b in zip(found[0][mode], wanted, strict=True):
            torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-6, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_the_gpu_gives_the_same_gradients(mode: str) -> None:
    leaves = layer_leaves(torch.float64)
    there = {name: value.detach().cuda().requires_grad_() for name, value in leaves.items()}
    found = gradient_of(output(there, mode), there)
    check_agreement(
        {name: value.cpu() for name, value in found.items()}, gradient_of(output(leaves, mode), leaves), 1e-4
    )


def test_every_fixed_method_has_a_step_here() -> None:
    assert set(FIXED_METHODS) <= set(STEPS)
