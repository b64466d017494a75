"""A trajectory under a stimulus is that of an independent integrator, and a still stimulus gives the still run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal

S = vd.stimuli
END = 3.5
SCREEN = S.Screen(3, 4, pixels_per_degree=4.0)
TIMES = torch.tensor([0.0, 0.4, 1.0, math.sqrt(2), 2.0, 2.9, END], dtype=torch.float64)
KNOTS = [0.3, 1.0, math.sqrt(2), 2.7, 3.1, 7.0]


def drifting(temporal_frequency: float = 8.0) -> vd.stimuli.Grating:
    return S.Grating(SCREEN, orientation=60.0, spatial_frequency=1.2, temporal_frequency=temporal_frequency)


def jumping(t: float, phase: Tensor) -> Tensor:
    base = torch.sin(phase + t)
    return base if t < KNOTS[2] else 2 - base


#: Every kind of motion: smooth, held, joined by lines, with jumps, composed in time and in space.
STIMULI: dict[str, Callable[[], vd.stimuli.Stimulus]] = {
    "drifting": drifting,
    "hold": lambda: S.Sampled(normal(0, 6, 2, 12), KNOTS),
    "linear": lambda: S.Sampled(normal(1, 6, 2, 12), KNOTS, "linear"),
    "callable": lambda: S.Function(lambda t: torch.cos(normal(2, 2, 12) + 0.7 * t), like=torch.ones(2, 12).double()),
    "callable with a jump": lambda: S.Function(
        jumping, like=torch.full((2, 12), 3.0).double(), tensors=[normal(3, 2, 12)], jumps=[KNOTS[2]]
    ),
    "flash in a ring": lambda: S.CentreSurround(
        SCREEN, S.Flash(drifting(), onset_ms=7.0, duration_ms=15.0), drifting(-3.0), radius=0.3
    ),
    "one after another": lambda: S.Sequence(
        (drifting(), S.Bars(SCREEN, speed=20.0), S.Constant(torch.ones(3, 4, dtype=torch.float64))), (0.0, 1.3, 2.3)
    ),
    "sweep of contrast": lambda: S.ContrastSweep(drifting(), (0.0, 1.0, 0.2), (5.0, 15.0, 30.0), between="linear"),
}


def field_of(x: Tensor | vd.stimuli.Stimulus) -> vd.SparseRecurrent:
    weight = torch.nn.functional.normalize(normal(7, 12, 20), dim=0)
    return vd.SparseRecurrent(vd.DenseDictionary(weight), x, lam=0.3)


def by_scipy(field: vd.SparseRecurrent, stimulus: vd.stimuli.Stimulus) -> np.ndarray:
    """(z, u) at TIMES by LSODA, started anew at every jump; the field is written out here."""
    weight = field.dictionary.matrix().numpy()
    batch, d, theta = field.signal_batch, 12, 0.15

    def f(t: float, y: np.ndarray, low: float, high: float) -> np.ndarray:
        # At the end of a stretch LSODA may ask for the time of the jump itself, where x has its next value.
        inside = min(max(t, low), np.nextafter(high, -np.inf))
        x = stimulus(inside).numpy().reshape(-1, d)
        z, u = y[: x.size].reshape(-1, d), y[x.size :].reshape(-1, 20)
        a = np.sign(u) * np.maximum(np.abs(u) - theta, 0)
        dz = -z + a @ weight.T + x
        du = -2 * u - 2 * (a @ weight.T @ weight - a) + z @ weight
        return np.concatenate([dz.ravel(), du.ravel()])

    state = np.concatenate([part.numpy().ravel() for part in field.initial_state()])
    cuts = sorted({0.0, END, *(t for t in stimulus.jumps if 0 < t < END)})
    rows = {0.0: state}
    for low, high in itertools.pairwise(cuts):
        inside = [t for t in TIMES.tolist() if low < t < high]
        run = solve_ivp(
            f, (low, high), state, "LSODA", [*inside, high], args=(low, high), rtol=1e-9, atol=1e-11, max_step=0.2
        )
        rows |= dict(zip([*inside, high], run.y.T, strict=True))
        state = run.y[:, -1]
    assert math.prod(batch) * 32 == state.size
    return np.stack([rows[t] for t in TIMES.tolist()])


@pytest.mark.parametrize("name", STIMULI)
def test_the_trajectory_is_that_of_lsoda(name: str) -> None:
    stimulus = STIMULI[name]()
    field = field_of(stimulus)
    found = vd.integrate(field, field.initial_state(), TIMES, rtol=1e-8, atol=1e-10).states
    flat = torch.cat([part.flatten(1) for part in found], 1).numpy()
    wanted = by_scipy(field, stimulus)
    assert np.abs(flat - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("method", ["rkc", "auto", "dopri8", "rk4", "implicit_adams"])
def test_every_kind_of_method_hands_its_stages_their_own_times(method: str) -> None:
    # z' = -z + cos t has the solution (cos t + sin t)/2 from z = 1/2. With a wrong time at any stage the error is of
    # the first order, far above these bounds.
    like = torch.ones(1, 1, dtype=torch.float64)
    field = vd.FeedForward(S.Function(lambda t: torch.full((1, 1), math.cos(t)).double(), like=like))
    step = {"rk4": 0.05, "implicit_adams": 0.02}.get(method)
    found = vd.integrate(field, (0.5 * like,), TIMES, method=method, rtol=1e-7, atol=1e-9, step=step).states[0]
    wanted = (TIMES.cos() + TIMES.sin()) / 2
    torch.testing.assert_close(found[:, 0, 0], wanted, rtol=0, atol=2e-5 if method == "rkc" else 1e-6)


@pytest.mark.parametrize("method", ["dopri5", "rkc", "auto", "rk4"])
def test_a_grating_that_does_not_drift_gives_the_still_run_bit_for_bit(method: str) -> None:
    still = drifting(0.0)
    moving, plain = field_of(still), field_of(still(0.0).reshape(12))
    assert not moving.moves
    options = {"method": method, "rtol": 1e-5, "gap": 1e-3}
    runs = [vd.integrate(field, field.initial_state(), TIMES, **options) for field in (moving, plain)]
    for a, b in zip(runs[0].states, runs[1].states, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(runs[0].relative_gap, runs[1].relative_gap)
    assert runs[0].statistics == runs[1].statistics


def test_signals_settle_only_after_the_last_movement() -> None:
    values = normal(4, 2, 2, 12)
    values[0, 1] = values[1, 1]  # the second signal never moves, but is in the same batch
    field = field_of(S.Sampled(values, [0.0, 8.0]))
    run = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 400.0]).double(), gap=1e-3, rtol=1e-4)
    assert bool((run.settled_at >= 8.0).all())
    assert bool((run.relative_gap <= 1e-3).all())
    resting = field.at_rest().problem()
    assert bool((resting.relative_gap(field.code(tuple(p[-1] for p in run.states))) <= 1e-3).all())


def test_with_a_drift_that_never_ends_the_gap_is_that_of_the_moment_and_none_settles() -> None:
    field = field_of(drifting())
    run = vd.integrate(field, field.initial_state(), TIMES, gap=0.9)
    assert bool(run.settled_at.isnan().all())
    now = field.at(END).problem().relative_gap(field.code(tuple(p[-1] for p in run.states)))
    torch.testing.assert_close(run.relative_gap, now)


@pytest.mark.parametrize("name", ["drifting", "linear", "flash in a ring"])
def test_powers_of_two_change_no_digit(name: str) -> None:
    stimulus = STIMULI[name]()
    small = vd.SparseRecurrent(field_of(stimulus).dictionary, S.Scaled(stimulus, 2.0**-40), lam=0.3 * 2.0**-40)
    field = field_of(stimulus)
    one, other = (vd.integrate(f, f.initial_state(), TIMES, rtol=1e-4) for f in (field, small))
    assert one.statistics == other.statistics
    for a, b in zip(one.states, other.states, strict=True):
        assert torch.equal(a, b * 2.0**40)


def test_a_moving_field_refuses_what_needs_a_still_signal() -> None:
    field = field_of(drifting())
    state = field.initial_state()
    for refused in (lambda: field.x, field.problem, lambda: field.lyapunov(state), lambda: vd.equilibrium(field)):
        with pytest.raises(ValueError, match=r"x (moves|never)"):
            refused()
    assert torch.equal(field.at(1.0).x, drifting()(1.0).reshape(12))


@pytest.mark.parametrize("kind", [vd.Reduced, vd.EncoderDecoder, vd.Recurrent, vd.FeedForward])
def test_every_field_takes_a_stimulus(kind: type[vd.Field]) -> None:
    P = vd.DenseDictionary(0.2 * torch.nn.functional.normalize(normal(7, 12, 20), dim=0))
    stimulus = S.Sampled(normal(1, 3, 2, 12), [0.0, 1.0, 2.0], "linear")
    given = (stimulus,) if kind is vd.FeedForward else (P, stimulus)
    field = kind(*given)
    state = tuple(normal(5 + k, *part.shape) for k, part in enumerate(field.initial_state()))
    held = kind(*given[:-1], stimulus(1.25))
    for a, b in zip(field(1.25, state), held(0.0, state), strict=True):
        assert torch.equal(a, b)
