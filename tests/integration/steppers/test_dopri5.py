"""The package's own Dormand-Prince pair: its order, dense output, step control, and replay, and torchdiffeq's pair."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torchdiffeq
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal
from vars_dyn.dynamics.base import State
from vars_dyn.integration.steppers.base import Taken, landing, march
from vars_dyn.integration.steppers.dopri5 import Dopri5, retake_dopri5

ZERO = torch.tensor(0.0, dtype=torch.float64)


class Oscillator:
    """x' = v, v' = -x - damping v, with the callbacks for steps.

    `taken` has the (time, step) of every trial, and `refused` has the times of rejected ones.
    """

    def __init__(self, damping: float = 0.1) -> None:
        self.damping, self.evaluations = damping, 0
        self.taken: list[tuple[float, float]] = []
        self.refused: list[float] = []

    def __call__(self, t: Tensor, state: State) -> State:
        self.evaluations += 1
        x, v = state
        return v, -x - self.damping * v

    def callback_step(self, t0: float | Tensor, state: State, dt: float | Tensor) -> None:
        self.taken.append((float(t0), float(dt)))

    def callback_reject_step(self, t0: float | Tensor, state: State, dt: float | Tensor) -> None:
        self.refused.append(float(t0))

    def exact(self, t: float) -> Tensor:
        matrix = torch.tensor([[0.0, 1.0], [-1.0, -self.damping]], dtype=torch.float64)
        return torch.linalg.matrix_exp(t * matrix) @ torch.tensor([1.0, 0.5], dtype=torch.float64)


def start() -> State:
    return torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)


def norm(error: State) -> Tensor:
    return torch.stack([part.square().mean() for part in error]).max().sqrt()


def joined(state: State) -> Tensor:
    return torch.cat([part.flatten() for part in state])


def step(func: Oscillator, state: State, h: float) -> Taken:
    """One step of length h, with tolerances at which the error's norm is the plain norm."""
    return Dopri5(0.0, 1.0, norm).take(func, state, func(ZERO, state), ZERO, h)


def observed_order(error: Callable[[float], float]) -> float:
    return math.log2(error(0.2) / error(0.1))


def test_steps_are_of_order_five_and_their_estimate_and_dense_output_of_order_four() -> None:
    func = Oscillator()

    def after(h: float) -> float:
        """The error at time 2 after steps of length h."""
        state = start()
        for _ in range(round(2 / h)):
            state = step(func, state, h).following
        return float((joined(state) - func.exact(2.0)).abs().max())

    assert observed_order(after) == pytest.approx(5, abs=0.2)

    def within(h: float) -> float:
        """The largest error of dense output inside one step of length h."""
        taken = step(func, start(), h)
        return max(float((joined(taken.between(q)) - func.exact(q * h)).abs().max()) for q in (0.2, 0.4, 0.7))

    assert observed_order(within) == pytest.approx(5, abs=0.3)  # one step's error has one order more

    def estimated(h: float) -> float:
        return float(norm(step(func, start(), h).error))

    assert observed_order(estimated) == pytest.approx(5, abs=0.3)


def test_a_step_is_torchdiffeqs_and_so_is_the_state_inside_it() -> None:
    func, h = Oscillator(), 0.3
    times = torch.tensor([0.0, 0.1, 0.21, h], dtype=torch.float64)
    options = {"first_step": h, "step_t": times[-1:]}
    theirs = torchdiffeq.odeint(func, start(), times, rtol=1e3, atol=1e3, method="dopri5", options=options)
    ours = march(func, start(), times, Dopri5(1e3, 1e3, norm), end=h, first_step=h)
    for part, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("rtol", [1e-4, 1e-7, 1e-10])
def test_errors_follow_the_tolerance_at_every_time(rtol: float) -> None:
    func, times = Oscillator(), torch.linspace(0, 20, 53, dtype=torch.float64)
    ours = march(func, start(), times, Dopri5(rtol, rtol, norm), end=20.0)
    exact = torch.stack([func.exact(float(t)) for t in times])
    error = float((torch.cat([part.flatten(1) for part in ours], 1) - exact).abs().max())
    assert 1e-3 * rtol < error < 20 * rtol
    count = func.evaluations
    func.evaluations = 0
    torchdiffeq.odeint(func, start(), times, rtol=rtol, atol=rtol, method="dopri5", options={"norm": norm})
    assert count < 1.5 * func.evaluations


def test_a_step_that_is_too_long_is_shortened_and_one_that_is_short_grows() -> None:
    for first in (15.0, 1e-9):
        func, times = Oscillator(), torch.tensor([0.0, 20.0], dtype=torch.float64)
        found = march(func, start(), times, Dopri5(1e-6, 1e-6, norm), end=20.0, first_step=first)
        assert float((joined(tuple(part[-1] for part in found)) - func.exact(20.0)).abs().max()) < 1e-5
        assert len(func.taken) < 110
        assert (first > 1) == (0.0 in func.refused)
        # A step right after a rejection is never longer.
        for (t, h), (later, longer) in zip(func.taken, func.taken[1:], strict=False):
            assert later > t or longer < h


def test_landing_is_on_the_end_or_short_of_it() -> None:
    assert landing(0.0, 0.3, 1.0) == 0.3
    assert landing(0.9, 0.3, 1.0) == 1.0
    assert landing(0.7, 0.3 * (1 - 1e-16), 1.0) == 1.0
    assert landing(0.7, 0.3 - 2e-15, 1.0) == 1.0
    assert landing(-2.0, 3.0, -1.0) == -1.0
    for time, h in ((1e11, 1e-6), (0.5, math.nan), (0.5, 0.0)):
        with pytest.raises(AssertionError, match="underflow in dt"):
            landing(time, h, 2e11)


def test_steps_taken_again_give_the_same_bits() -> None:
    func, times = Oscillator(), torch.linspace(0, 20, 31, dtype=torch.float64)
    whole = march(func, start(), times, Dopri5(1e-6, 1e-6, norm), end=20.0, first_step=6.0)
    assert func.refused
    starts = sorted({t for t, _ in func.taken})
    again = retake_dopri5(func, start(), times, [*starts[1:], 20.0])
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_the_steps_do_not_depend_on_what_rounding_does_in_a_larger_batch() -> None:
    P = vd.DenseDictionary(normal(0, 16, 24) / 4)
    x = normal(1, 64, 16)
    x[1:] *= 1e-3  # these begin at rest and stay below the threshold, so the first error is the largest
    times = torch.tensor([0.0, 12.0], dtype=torch.float64)
    several, one = (vd.SparseRecurrent(P, part, 0.1) for part in (x, x[:1]))
    z, u = several.initial_state()
    u[1:] = P.encode(z[1:]) / 2
    many = vd.integrate(several, (z, u), times, rtol=1e-6)
    alone = vd.integrate(one, (z[:1], u[:1]), times, rtol=1e-6)
    assert many.statistics == alone.statistics
    torch.testing.assert_close(many.states[0][-1, 0], alone.states[0][-1, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("lam", [0.3, None])
@pytest.mark.parametrize("threshold", ["soft", "nonnegative"])
def test_a_prepared_field_is_the_field_to_the_bit(threshold: str, lam: float | None) -> None:
    P = vd.DenseDictionary(normal(0, 2, 5, 7))
    x, u = normal(1, 2, 3, 5), normal(2, 2, 3, 7)
    given = torch.linspace(0.1, 0.6, 6).double().reshape(2, 3) if lam is None else lam
    for field, state in (
        (vd.SparseRecurrent(P, x, given, threshold=threshold), (x, u)),
        (vd.Reduced(P, x, given, threshold=threshold), (u,)),
    ):
        prepared = field.prepared()
        with torch.no_grad():
            for part, other in zip(prepared._derivative(state), field._derivative(state), strict=True):
                assert torch.equal(part, other)
        assert float(prepared._derivative(state)[-1].abs().max()) > 0.1
