"""The stabilised method: its order, its stability interval, its dense output, and its use by `integrate`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import vars_dyn as vd
from vars_dyn.dynamics.base import State
from vars_dyn.integration import start_of
from vars_dyn.integration.integrate import stream
from vars_dyn.integration.steppers.base import march
from vars_dyn.integration.steppers.rkc import MAX_STAGES, Rkc, _step, stability_interval, stages_for


class Linear:
    """y' = -rate y + sin t as an autonomous field, with the callbacks of a solver."""

    def __init__(self, rate: Tensor) -> None:
        self.rate, self.evaluations, self.steps = rate, 0, 0

    def __call__(self, t: Tensor, state: State) -> State:
        self.evaluations += 1
        y, phase = state
        return (-self.rate * y + phase.sin()[..., None], torch.ones_like(phase))

    def callback_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        self.steps += 1

    def callback_reject_step(self, t0: Tensor, state: State, dt: Tensor) -> None:
        pass

    def exact(self, y0: Tensor, t: float) -> Tensor:
        k = self.rate
        forced = (k * math.sin(t) - math.cos(t)) / (k**2 + 1)
        return forced + (y0 + 1 / (k**2 + 1)) * torch.exp(-k * t)


def start(count: int = 3) -> State:
    return torch.ones(1, count, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("stages", [2, 3, 7, 40])
def test_the_method_is_of_second_order(stages: int) -> None:
    func = Linear(torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64))
    errors = []
    for steps in (20, 40):
        state = start()
        for _ in range(steps):
            state = _step(func, state, func(torch.tensor(0.0), state), torch.tensor(0.0), 2.0 / steps, stages)
        errors.append(float((state[0] - func.exact(start()[0], 2.0)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("stages", [2, 3, 5, 20, MAX_STAGES])
def test_the_stability_interval_is_what_it_says(stages: int) -> None:
    """|R(-z)| is at most 1 up to the interval's end, and above 1 just beyond it."""
    end = stability_interval(stages)
    assert 0.6 * (stages**2 - 1) < end < 0.7 * stages**2 + 1

    def damped(z: Tensor) -> Tensor:
        func = Linear(z)
        state = (torch.ones(1, len(z), dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
        slope = (-z * state[0], torch.zeros_like(state[1]))
        func.__class__ = type("Decay", (Linear,), {"__call__": lambda self, t, s: (-self.rate * s[0], 0 * s[1])})
        return _step(func, state, slope, torch.tensor(0.0), 1.0, stages)[0].abs()[0]

    assert bool((damped(torch.linspace(0, end, 2001, dtype=torch.float64)) <= 1 + 1e-9).all())
    if stages % 2 == 0:  # a polynomial of odd degree passes through -1, and that a little later
        assert float(damped(torch.tensor([1.02 * end], dtype=torch.float64))) > 1


def test_stages_are_the_fewest_that_are_stable() -> None:
    for h_rho in (0.1, 1.9, 2.1, 10.0, 137.0, 5000.0):
        s = stages_for(h_rho)
        assert stability_interval(s) >= h_rho
        assert s == 2 or stability_interval(s - 1) < h_rho


def test_between_steps_the_error_stays_of_the_tolerance_s_size() -> None:
    func = Linear(torch.tensor([0.5, 20.0, 400.0], dtype=torch.float64))
    times = torch.linspace(0, 5, 101, dtype=torch.float64)

    def norm(error: State) -> Tensor:
        return torch.stack([part.square().mean() for part in error]).max().sqrt()

    for rtol, bound in ((1e-4, 2e-3), (1e-6, 5e-5)):
        states = march(func, start(), times, Rkc(rtol, rtol, norm, rho=400.0), end=5.0)
        exact = torch.stack([func.exact(start()[0], float(t)) for t in times])
        assert float((states[0] - exact).abs().max()) < bound


@pytest.fixture
def field() -> vd.SparseRecurrent:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    return vd.SparseRecurrent(vd.DenseDictionary(weight / weight.norm(dim=0)), x, 0.2)


def test_it_takes_fewer_evaluations_on_a_long_way_and_arrives_at_the_same_place(field: vd.SparseRecurrent) -> None:
    times = torch.tensor([0.0, 300.0])
    by = {m: vd.integrate(field, field.initial_state(), times, method=m, rtol=1e-4) for m in ("dopri5", "rkc")}
    for part, other in zip(by["rkc"].states, by["dopri5"].states, strict=True):
        assert torch.allclose(part[-1], other[-1], atol=5e-3)
    assert torch.allclose(by["rkc"].relative_gap, by["dopri5"].relative_gap, atol=1e-4)
    assert by["rkc"].statistics.evaluations < by["dopri5"].statistics.evaluations / 2


@pytest.mark.parametrize("stages", [2, 3, 4, 9])
def test_in_place_a_step_is_the_same_to_the_bit(field: vd.SparseRecurrent, stages: int) -> None:
    y = tuple(part + 0.3 for part in field.initial_state())
    kept = tuple(part.clone() for part in y)
    f, t = field._derivative(y), torch.tensor(0.0)

    class Plain(Linear):
        def __call__(self, t: Tensor, state: State) -> State:
            return field._derivative(state)

    function = Plain(torch.ones(1))
    plain = _step(function, y, f, t, 0.1, stages)
    with torch.no_grad():
        in_place = _step(function, y, f, t, 0.1, stages)
    for a, b, c, d in zip(plain, in_place, y, kept, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(c, d)


def test_it_settles_on_the_certificate(field: vd.SparseRecurrent) -> None:
    trajectory = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 1e5]), method="rkc", rtol=1e-4, gap=1e-6)
    assert bool((trajectory.relative_gap <= 1e-6).all())
    assert bool(trajectory.settled_at.isfinite().all())


@pytest.mark.parametrize("gap", [None, 1e-6])
def test_a_stream_taken_up_again_gives_the_same_bits(field: vd.SparseRecurrent, gap: float | None) -> None:
    times = torch.linspace(0, 60, 25, dtype=torch.float64)
    begin = start_of(field, field.initial_state())
    whole = list(stream(field, begin, times, method="rkc", gap=gap, chunk=4))
    again = list(stream(field, whole[2][2], times[12:], method="rkc", gap=gap, chunk=4))
    for (_, states, _), (_, others, _) in zip(whole[3:], again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(states, others, strict=True))


def test_gradients_through_its_steps(field: vd.SparseRecurrent) -> None:
    """Backpropagation and checkpointing agree, and agree with finite differences along a line."""
    x, times = field.x, torch.tensor([0.0, 1.0])
    along = torch.ones_like(x)

    def loss(x: Tensor, gradient: str = "backprop") -> Tensor:
        moved = field.with_tensors((*field.dictionary.tensors(), x, field.lam))
        trajectory = vd.integrate(moved, field.initial_state(), times, method="rkc", rtol=1e-8, gradient=gradient)
        return trajectory.states[0][-1].square().sum()

    found = []
    for mode in ("backprop", "checkpoint"):
        leaf = x.clone().requires_grad_()
        found.append(float((torch.autograd.grad(loss(leaf, mode), leaf)[0] * along).sum()))
    # The two runs take different steps, which changes the loss by about 1e-7. So the points must lie far apart.
    difference = float(loss(x + 1e-3 * along) - loss(x - 1e-3 * along)) / 2e-3
    assert found[0] == pytest.approx(found[1], rel=1e-10)
    assert found[0] == pytest.approx(difference, rel=1e-4)


def test_it_has_no_adjoint(field: vd.SparseRecurrent) -> None:
    field.x.requires_grad_()
    with pytest.raises(ValueError, match="has no adjoint"):
        vd.integrate(field, field.initial_state(), torch.tensor([0.0, 1.0]), method="rkc", gradient="adjoint")
