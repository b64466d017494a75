"""Interventions and noise on a field whose x moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal
from vars_dyn.interventions import Course, Intervention, with_interventions

S = vd.stimuli
D, ATOMS, END = 6, 9, 3.0
TIMES = torch.tensor([0.0, 0.6, 1.5, 2.4, END], dtype=torch.float64)
C = {"alpha": 1.3, "beta": 3.0, "gamma": 2.0, "tau_z": 0.5, "tau_u": 1.5}
COURSE = Course([0.5, 1.0, 2.0], [0.0, 1.0, -0.5], between="linear")


def at(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


def grating(hertz: float) -> vd.stimuli.Grating:
    return S.Grating(S.Screen(2, 3, pixels_per_degree=2.0), orientation=60.0, temporal_frequency=hertz)


def bent(t: float) -> Tensor:
    x = torch.sin(normal(2, 2, D) + t)
    return x if t < 0.9 else 1 - x


#: Motion that is smooth, held, joined by lines, with a jump, and composed.
STIMULI: dict[str, Callable[[], vd.stimuli.Stimulus]] = {
    "drifting": lambda: grating(9.0),
    "hold": lambda: S.Sampled(normal(0, 4, 2, D), [0.0, 0.4, 0.7, 2.2]),
    "linear": lambda: S.Sampled(normal(1, 4, 2, D), [0.0, 0.4, 1.9, 2.2], "linear"),
    "callable": lambda: S.Function(bent, like=torch.full((2, D), 2.0).double(), jumps=[0.9]),
    "flash": lambda: S.Flash(grating(7.0), onset_ms=6.0, duration_ms=10.0),
}


def field_of(x: Tensor | vd.stimuli.Stimulus, **constants: float) -> vd.SparseRecurrent:
    weight = torch.nn.functional.normalize(normal(4, D, ATOMS), dim=0)
    return vd.SparseRecurrent(vd.DenseDictionary(weight), x, lam=0.3, **(constants or C))


def acts() -> list[Intervention]:
    """Every kind, with starts and stops that are, and are not, jumps of x."""
    return [
        vd.Silence(atoms=[3], start=0.4, stop=1.7),
        vd.Clamp(COURSE, neurons=[1], start=0.5, stop=2.2),
        vd.Clamp(COURSE, atoms=[6], of="output", start=0.7, stop=2.5),
        vd.Inject(COURSE, atoms=[2], start=0.2),
        vd.Scale(0.6, atoms=[4], start=1.2),
        vd.Lesion(neurons=[5], start=1.9),
    ]


def by_scipy(field: vd.SparseRecurrent, stimulus: vd.stimuli.Stimulus) -> np.ndarray:
    """(z, u) at TIMES: the formulas written out in NumPy, by LSODA from knot to knot."""
    weight = field.dictionary.matrix().numpy()
    count = field.signal_batch[0] if field.signal_batch else 1

    def value(t: float) -> float:
        return float(np.interp(t, [0.5, 1.0, 2.0], [0.0, 1.0, -0.5]))

    def slope(t: float, y: np.ndarray, low: float, high: float) -> np.ndarray:
        x = stimulus(min(max(t, low), np.nextafter(high, -np.inf))).numpy().reshape(count, D)
        z, u = y[: x.size].reshape(count, D), y[x.size :].reshape(count, ATOMS)
        own = weight * np.where(np.arange(ATOMS) == 4, 0.6 if low >= 1.2 else 1.0, 1.0)
        a = np.sign(u) * np.maximum(np.abs(u) - 0.3 / C["beta"], 0)
        a[:, 3] *= not 0.4 <= low < 1.7
        if 0.7 <= low < 2.5:
            a[:, 6] = value(t)
        dz = (a @ own.T + x - C["alpha"] * z) / C["tau_z"]
        if 0.5 <= low < 2.2:
            dz[:, 1] = 2.0 if low < 1.0 else -1.5 if low < 2.0 else 0.0
        if low >= 1.9:
            dz[:, 5] = 0.0
        seen = z * ((np.arange(D) != 5) | (low < 1.9))
        du = (seen @ own - C["gamma"] * (a @ own.T @ own - a) - C["beta"] * u) / C["tau_u"]
        du[:, 2] += value(t) / C["tau_u"] if low >= 0.2 else 0.0
        return np.concatenate([dz.ravel(), du.ravel()])

    y = np.concatenate([part.numpy().ravel() for part in field.initial_state()])
    knots = {0.2, 0.4, 0.5, 0.7, 1.0, 1.2, 1.7, 1.9, 2.0, 2.2, 2.5, *TIMES.tolist()}
    rows = {0.0: y}
    for low, high in itertools.pairwise(sorted(knots | {t for t in stimulus.jumps if 0 < t < END})):
        if low == 0.5:
            y[: count * D].reshape(count, D)[:, 1] = 0.0
        run = solve_ivp(slope, (low, high), y, "LSODA", args=(low, high), rtol=1e-8, atol=1e-10)
        rows[high] = y = run.y[:, -1].copy()
    return np.stack([rows[t] for t in TIMES.tolist()])


@pytest.mark.parametrize("name", STIMULI)
def test_the_trajectory_is_that_of_lsoda(name: str) -> None:
    stimulus = STIMULI[name]()
    field = field_of(stimulus)
    run = vd.integrate(field, field.initial_state(), TIMES, rtol=1e-7, atol=1e-9, interventions=acts())
    found = torch.cat([part.flatten(1) for part in run.states], 1).numpy()
    wanted = by_scipy(field, stimulus)
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.filterwarnings("ignore:.*no stable equilibrium is proved")
@pytest.mark.parametrize("kind", [vd.Reduced, vd.Recurrent, vd.FeedForward])
def test_every_field_is_acted_on_while_x_moves(kind: type[vd.Field]) -> None:
    """A small step of an independent Euler scheme over the field held at each time has the same end, to its order."""
    P = vd.DenseDictionary(0.4 * torch.nn.functional.normalize(normal(4, D, ATOMS), dim=0))
    x = S.Sampled(normal(1, 3, 2, D), [0.0, 0.3, 0.5], "linear")
    field = kind(x) if kind is vd.FeedForward else kind(P, x)
    units = {"atoms": [2]} if kind is vd.Reduced else {"neurons": [2]}
    own: list[Intervention] = [vd.Silence(**units, start=0.1, stop=0.4), vd.Inject(0.7, **units, start=0.2)]
    ends = []
    for steps in (64, 128):
        state, h = field.initial_state(), 0.6 / steps
        for k in range(steps):
            t = k * h
            still = kind(x(t)) if kind is vd.FeedForward else kind(P, x(t))
            now = [replace(each, start=None, stop=None) for each in own if each.acts_at(t)]
            rate = with_interventions(still, now).derivative(0.0, state)
            state = tuple(y + h * f for y, f in zip(state, rate, strict=True))
        ends.append(state[0])
    run = vd.integrate(
        field,
        field.initial_state(),
        at(0.0, 0.6),
        rtol=1e-8,
        atol=1e-10,
        interventions=own,
    )
    torch.testing.assert_close(run.states[0][-1], 2 * ends[1] - ends[0], rtol=0, atol=5e-3)
    assert float((run.states[0][-1] - ends[0]).abs().max()) < 8e-2


@pytest.mark.parametrize("method", ["dopri5", "rkc", "rk4"])
def test_at_zero_speed_the_run_is_that_of_the_still_signal_bit_for_bit(method: str) -> None:
    still = grating(0.0)
    moving, plain = field_of(still), field_of(still(0.0).reshape(D))
    assert not moving.moves
    how = {"method": method, "rtol": 1e-4, "gap": 1e-3, "interventions": [vd.Silence(atoms=[3], start=0.4, stop=1.7)]}
    one, two = (vd.integrate(f, f.initial_state(), TIMES, **how) for f in (moving, plain))
    for a, b in zip((*one.states, one.relative_gap), (*two.states, two.relative_gap), strict=True):
        assert torch.equal(a, b)
    assert one.statistics == two.statistics


def test_v_falls_while_x_is_held_and_is_that_of_the_moment() -> None:
    """Between the jumps of x and of what acts, V falls; its value is that of the still field at the time."""
    field = field_of(STIMULI["hold"]())
    own = [vd.Silence(atoms=[3], start=0.3, stop=1.7), vd.Clamp(0.4, neurons=[1], start=0.9)]
    acting = with_interventions(field, own)
    times = torch.linspace(0, END, 61, dtype=torch.float64)
    states = vd.integrate(acting, acting.initial_state(), times, rtol=1e-6).states
    v = torch.stack([acting.at(t).lyapunov(tuple(p[k] for p in states)) for k, t in enumerate(times.tolist())])
    jumps = torch.tensor(acting.boundaries)
    rises = [
        float((v[k + 1] - v[k]).max())
        for k in range(60)
        if not bool(((jumps > times[k]) & (jumps <= times[k + 1] + 1e-9)).any())
    ]
    assert len(rises) > 40
    assert max(rises) <= 1e-8
    here = with_interventions(field_of(field.stimulus(1.2)), acting.interventions).at(1.2)  # type: ignore[misc]
    state = tuple(p[24] for p in states)
    torch.testing.assert_close(v[24], here.lyapunov(state))


@pytest.mark.parametrize("name", ["drifting", "hold", "linear"])
@pytest.mark.parametrize("gap", [None, 0.5])
def test_the_tracking_gap_is_that_to_the_free_units_problem_of_the_moment(name: str, gap: float | None) -> None:
    field = field_of(STIMULI[name]())
    own: list[Intervention] = [
        vd.Silence(atoms=[3], start=0.4),
        vd.Clamp(COURSE, atoms=[6], of="output", start=0.7),
        vd.Clamp(COURSE, neurons=[1], start=0.5),
    ]
    for end in (0.55, 0.7, 1.3):
        run = vd.integrate(
            field,
            field.initial_state(),
            at(0.0, end),
            gap=gap,
            rtol=1e-5,
            interventions=own,
        )
        state = tuple(p[-1] for p in run.states)
        still = field_of(field.stimulus(end).reshape(*field.signal_batch, D))  # type: ignore[misc]
        now = with_interventions(still, own).at(end)
        torch.testing.assert_close(run.relative_gap, now.problem().relative_gap(now.unknowns(state)))
        assert bool(run.settled_at.isnan().all())


def test_signals_settle_after_the_last_movement_and_the_last_intervention() -> None:
    for x, when, last in ((STIMULI["hold"](), 1.0, 2.2), (STIMULI["hold"](), 5.0, 5.0), (late(), 1.0, 4.0)):
        field = field_of(x)
        own = [vd.Silence(atoms=[3], start=when)]
        run = vd.integrate(
            field,
            field.initial_state(),
            at(0.0, 400.0),
            gap=1e-2,
            rtol=1e-4,
            interventions=own,
        )
        assert bool((run.settled_at >= last).all())
        rest = with_interventions(field_of(field.stimulus(400.0)), own).at(400.0)  # type: ignore[misc]
        gap = rest.problem().relative_gap(rest.unknowns(tuple(p[-1] for p in run.states)))
        assert float(gap.max()) <= 1e-2
        code = vd.equilibrium(with_interventions(field, own)).code
        torch.testing.assert_close(rest.problem().relative_gap(code), torch.zeros(2).double(), rtol=0, atol=1e-9)


def late() -> vd.stimuli.Stimulus:
    """A motion that ends at 4 without a jump."""
    still = torch.full((2, D), 0.5, dtype=torch.float64)
    return S.Function(lambda t: normal(3, 2, D) + still * max(4.0 - t, 0.0) ** 3, like=4 * still, rests_from=4.0)


def test_an_x_that_never_rests_has_no_equilibrium_whatever_is_done() -> None:
    acting = with_interventions(field_of(grating(3.0)), [vd.Silence(atoms=[3])])
    for refused in (acting.problem, lambda: acting.lyapunov(acting.initial_state()), lambda: vd.equilibrium(acting)):
        with pytest.raises(ValueError, match=r"x (moves|never)"):
            refused()


@pytest.mark.parametrize("name", ["drifting", "hold"])
def test_noise_of_strength_zero_is_the_ode_bit_for_bit(name: str) -> None:
    field = field_of(STIMULI[name]())
    one, two = (
        vd.integrate(field, field.initial_state(), TIMES, rtol=1e-3, interventions=acts(), noise=noise)
        for noise in (None, vd.Noise(seed=3))
    )
    assert all(torch.equal(a, b) for a, b in zip(one.states, two.states, strict=True))


@pytest.mark.parametrize(("scheme", "order"), [("stochastic_heun", 2), ("euler_maruyama", 1)])
@pytest.mark.parametrize("name", ["drifting", "hold", "linear"])
def test_a_linear_field_under_noise_answers_a_moving_x_as_without_noise(name: str, scheme: str, order: int) -> None:
    """z' = -z + x + dW is linear: on one path, its answers to x and to zero differ by the solution of the ODE.

    So a stage at a wrong time, or a step across a jump, is an error that does not fall with the order of the scheme.
    """
    stimulus = STIMULI[name]()
    x = S.Sum(stimulus, S.Constant(torch.zeros(2, D, dtype=torch.float64))) if name != "drifting" else stimulus
    shape = (2, D) if name != "drifting" else (2, 3)
    moving = vd.FeedForward(x, signal_shape=shape[1:] if name != "drifting" else shape)
    # Zero in place of x and of the current, with the same jumps, where steps end.
    still = vd.FeedForward(S.Scaled(x, 0.0), signal_shape=moving.event_shapes[0])
    nothing: list[Intervention] = [vd.Inject(Course(COURSE.times, [0.0] * 3, "linear"), neurons=[1], start=0.2)]
    noise = vd.Noise(z=0.4, seed=1, scheme=scheme)
    current: list[Intervention] = [vd.Inject(COURSE, neurons=[1], start=0.2)]
    start = tuple(torch.zeros_like(part) for part in moving.initial_state())
    exact = vd.integrate(moving, start, TIMES, rtol=1e-9, atol=1e-11, interventions=current).states[0]
    errors = []
    for step in (2.0**-4, 2.0**-5):
        answer, without = (
            vd.integrate(f, start, TIMES, noise=noise, step=step, interventions=i).states[0]
            for f, i in ((moving, current), (still, nothing))
        )
        errors.append(float((answer - without - exact).abs().max()))
        assert float(without.abs().max()) > 0.1
    assert errors[1] < 0.03
    assert math.log2(errors[0] / errors[1]) > order - 0.5
