"""Integration: every method against SciPy, errors per signal, stopping at the gap, failures, exact resumption."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests import strategies
from tests.integration.methods import ADAPTIVE_METHODS, FIXED_METHODS, STABILISED_METHODS
from tests.references import Array
from tests.strategies import normal, seeds, signals_for, states_for
from vars_dyn.integration import (
    METHODS,
    Snapshot,
    Statistics,
    start_of,
)
from vars_dyn.integration.integrate import stream
from vars_dyn.integration.steppers import REGISTRY


def grid(end: float, count: int) -> Tensor:
    return torch.linspace(0, end, count, dtype=torch.float64)


def small_field() -> vd.SparseRecurrent:
    P = vd.DenseDictionary(normal(0, 5, 7) / 2)
    return vd.SparseRecurrent(P, signals_for(P, 1, (3,)), 0.3)


def scipys(field: vd.SparseRecurrent, times: Tensor) -> list[Array]:
    """SciPy's z and u of every signal at `times`, at a tight tolerance."""
    W, theta = field.dictionary.matrix().numpy(), (field.lam / field.beta).numpy()
    d = len(W)

    def f(t: float, y: Array, x: Array, theta: float) -> Array:
        z, u = y[:d], y[d:]
        a = np.sign(u) * np.maximum(np.abs(u) - theta, 0)
        dz = -field.alpha * z + W @ a + x
        du = -field.beta * u - field.gamma * (W.T @ (W @ a) - a) + W.T @ z
        return np.concatenate([dz / field.tau_z, du / field.tau_u])

    paths = []
    for x, threshold in zip(field.x.numpy(), theta, strict=True):
        start = np.concatenate([x, np.zeros(W.shape[1])])
        span = (float(times[0]), float(times[-1]))
        found = scipy.integrate.solve_ivp(
            f, span, start, "DOP853", times.numpy(), args=(x, threshold), rtol=1e-11, atol=1e-12, max_step=0.05
        )
        paths.append(found.y.T)
    whole = np.stack(paths, 1)
    return [whole[..., :d], whole[..., d:]]


#: For each method its settings, the end of the run, and the largest error that is allowed.
ACCURACY = {
    "dopri5": ({"rtol": 1e-8, "atol": 1e-10}, 1.5, 1e-6),
    "dopri8": ({"rtol": 1e-8, "atol": 1e-10}, 1.5, 1e-6),
    "bosh3": ({"rtol": 1e-7, "atol": 1e-9}, 1.5, 1e-5),
    "fehlberg2": ({"rtol": 1e-5, "atol": 1e-7}, 1.5, 1e-3),
    "adaptive_heun": ({"rtol": 1e-5, "atol": 1e-7}, 1.5, 1e-3),
    "rkc": ({"rtol": 1e-5, "atol": 1e-7}, 1.5, 1e-3),
    "auto": ({"rtol": 1e-7, "atol": 1e-9}, 1.5, 1e-5),
    "euler": ({"step": 2e-3}, 1.5, 2e-2),
    "midpoint": ({"step": 1e-2}, 1.5, 1e-3),
    "heun2": ({"step": 1e-2}, 1.5, 1e-3),
    "heun3": ({"step": 2e-2}, 1.5, 2e-4),
    "rk4": ({"step": 2e-2}, 1.5, 1e-4),
    "explicit_adams": ({"step": 2e-4}, 0.3, 1e-6),
    "implicit_adams": ({"step": 4e-3}, 1.5, 1e-4),
}


@pytest.mark.parametrize("method", ["dopri5", "rkc", "auto", "rk4"])
def test_a_field_that_is_hopelessly_stiff_is_refused_before_the_first_step(method: str) -> None:
    weight = torch.nn.functional.normalize(normal(0, 6, 9), dim=0)
    field = vd.SparseRecurrent(vd.DenseDictionary(1e60 * weight), normal(1, 3, 6), lam=0.3e60)
    message = rf"^the field is so stiff, with rates up to 6.66e\+120, that {method} needs at least .*e\+1"
    with pytest.raises(ValueError, match=message):
        vd.integrate(field, field.initial_state(), grid(50, 2), method, gap=1e-6)
    with pytest.raises(ValueError, match=message):
        stream(field, start_of(field, field.initial_state()), grid(50, 2), method=method, gap=1e-6)
    # Steps that nothing caps may be long, and a limit that is missed by less leaves the trajectory up to it.
    mild = vd.SparseRecurrent(vd.DenseDictionary(10 * weight), normal(1, 3, 6), lam=3.0)
    with pytest.raises(vd.IntegrationError, match="the step limit is reached"):
        vd.integrate(mild, mild.initial_state(), grid(50, 2), method, gap=1e-6, max_steps=8)


@settings(max_examples=4)
@given(seed=seeds, power=st.integers(-2, 2))
def test_a_dictionary_in_other_units_comes_to_rest_at_the_same_code_in_other_units(seed: int, power: int) -> None:
    """(s P, s lam) has 1/s times the code; the gap of every state says the same of the rescaled code, to the bit."""
    s = 2.0**power
    weight, x = torch.nn.functional.normalize(normal(seed, 8, 6), dim=0), normal(seed + 1, 2, 8)
    field, other = (vd.SparseRecurrent(vd.DenseDictionary(c * weight), x, lam=0.3 * c) for c in (1.0, s))
    run = vd.integrate(other, other.initial_state(), grid(20000, 2), "rkc", rtol=1e-3, gap=1e-8)
    assert (run.relative_gap <= 1e-8).all()
    code = other.code(tuple(part[-1] for part in run.states))
    assert torch.equal(other.problem().relative_gap(code), field.problem().relative_gap(code * s))
    torch.testing.assert_close(code * s, vd.equilibrium(field).code, rtol=0, atol=1e-3)


def test_all_methods_are_tested() -> None:
    unlike = sorted(set(METHODS) ^ set(ACCURACY))
    assert not unlike, f"ACCURACY in this file wants an entry for every registered method and no other; see {unlike}"
    assert set(METHODS) == {*ADAPTIVE_METHODS, *FIXED_METHODS, *STABILISED_METHODS}


@pytest.mark.parametrize("method", ACCURACY)
def test_every_method_follows_scipys_path(method: str) -> None:
    field, (arguments, end, error) = small_field(), ACCURACY[method]
    # Some times lie between the steps of a fixed-step method.
    times = end * torch.tensor([0.0, 0.2, 0.518, 1.0], dtype=torch.float64)
    trajectory = vd.integrate(field, field.initial_state(), times, method=method, **arguments)
    for part, wanted in zip(trajectory.states, scipys(field, times), strict=True):
        assert part.shape == wanted.shape
        np.testing.assert_allclose(part, wanted, atol=error)
    if method not in FIXED_METHODS:
        # A looser tolerance must save evaluations.
        loose = vd.integrate(field, field.initial_state(), times, method=method, rtol=1e-2, atol=1e-4)
        assert loose.statistics.evaluations < trajectory.statistics.evaluations / 2


@pytest.mark.parametrize(
    ("method", "growth"),
    [
        ("euler", lambda h: 1 - h),
        ("midpoint", lambda h: 1 - h + h**2 / 2),
        ("heun2", lambda h: 1 - h + h**2 / 2),
        ("heun3", lambda h: 1 - h + h**2 / 2 - h**3 / 6),
        ("rk4", lambda h: 1 - h + h**2 / 2 - h**3 / 6 + h**4 / 24),
    ],
)
def test_fixed_steps_are_those_asked_for(method: str, growth: Callable[[float], float]) -> None:
    # On z' = -z every step multiplies z by the method's polynomial.
    field = vd.FeedForward(torch.zeros(2, 1, dtype=torch.float64))
    state = (torch.tensor([[1.0], [-3.0]], dtype=torch.float64),)
    times = torch.tensor([0.0, 0.5, 2.0, 2.1], dtype=torch.float64)
    for step, pieces in [(None, (1, 1, 1)), (0.25, (2, 6, 1)), (0.3, (2, 5, 1))]:
        found = vd.integrate(field, state, times, method=method, step=step)
        wanted = state[0]
        for i, n in enumerate(pieces):
            wanted = wanted * growth(float(times[i + 1] - times[i]) / n) ** n
            torch.testing.assert_close(found.states[0][i + 1], wanted, rtol=1e-12, atol=0)
        assert found.statistics.accepted == sum(pieces)
        assert found.statistics.rejected == 0


def move_limit(monkeypatch: pytest.MonkeyPatch, method: str, limit: float) -> None:
    """Make the method believe that its stability limit is `limit`."""
    monkeypatch.setitem(REGISTRY, method, dataclasses.replace(REGISTRY[method], limit=limit))


def path_of(field: vd.Field, start: tuple[Tensor, ...], times: Tensor, method: str, step: float) -> vd.Trajectory:
    """The path, also if it grows so far that integration fails."""
    try:
        return vd.integrate(field, start, times, method=method, step=step)
    except vd.IntegrationError as error:
        return error.trajectory


@pytest.mark.parametrize("method", [*ADAPTIVE_METHODS, *FIXED_METHODS])
def test_stability_limits_are_where_they_are_said_to_be(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = {**ADAPTIVE_METHODS, **FIXED_METHODS}[method]
    field = vd.FeedForward(torch.zeros(1, 1, dtype=torch.float64))
    steps = 3000 if "adams" in method else 400

    def end(share: float) -> float:
        h = share * limit
        times = torch.tensor([0.0, steps * h], dtype=torch.float64)
        start = (torch.ones(1, 1, dtype=torch.float64),)
        if method in FIXED_METHODS:
            # `integrate` refuses steps past the limit, so the test moves the limit.
            move_limit(monkeypatch, method, h)
            found = path_of(field, start, times, method, h)
        else:
            # These tolerances accept any error, so only the cap limits the step.
            move_limit(monkeypatch, method, h)
            found = vd.integrate(field, start, times, method=method, rtol=1e30, atol=1e30, step=h, cap_steps=True)
            assert steps <= found.statistics.accepted <= steps + 1
        return abs(float(found.states[0][-1]))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Functional iteration did not converge")
        assert end(0.97) < 0.1
        assert end(1.06) > 1


def test_the_cap_is_the_stability_limit_over_the_stiffness() -> None:
    field = small_field()
    for method, limit in ADAPTIVE_METHODS.items():
        capped = vd.integrate(
            field, field.initial_state(), torch.tensor([0.0, 30.0]), method=method, rtol=0.1, atol=0.1, cap_steps=True
        )
        least = 30 * float(field.stiffness()) / limit
        assert least - 1 <= capped.statistics.accepted + capped.statistics.rejected <= 2 * least + 20


def test_idle_signals_do_not_dilute_a_live_ones_error() -> None:
    P = vd.DenseDictionary(normal(0, 8, 12) / 3)
    x = torch.zeros(200, 8, dtype=torch.float64)
    x[17] = 3 * normal(1, 8)
    times = grid(10, 21)
    crowd, alone = vd.SparseRecurrent(P, x, 0.1), vd.SparseRecurrent(P, x[17:18], 0.1)
    many = vd.integrate(crowd, crowd.initial_state(), times, rtol=1e-5)
    one = vd.integrate(alone, alone.initial_state(), times, rtol=1e-5)
    assert many.statistics == one.statistics
    for part, own in zip(many.states, one.states, strict=True):
        torch.testing.assert_close(part[:, 17:18], own, rtol=0, atol=1e-10)
        assert not bool(part[:, :17].any())
    # Idle units of the state do not dilute the error either, however many there are.
    wide = vd.SparseRecurrent(
        vd.DenseDictionary(torch.cat([P.weight, torch.zeros(8, 500).double()], -1)), x[17:18], 0.1
    )
    padded = vd.integrate(wide, wide.initial_state(), times, rtol=1e-5)
    assert padded.statistics.accepted >= 0.5 * one.statistics.accepted


def test_statistics_count_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    derivative = vd.SparseRecurrent._derivative

    def counted(self: vd.SparseRecurrent, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        return derivative(self, state)

    monkeypatch.setattr(vd.SparseRecurrent, "_derivative", counted)
    field = small_field()
    for arguments in ({}, {"gap": 1e-6}, {"method": "rk4", "step": 0.1}, {"method": "bosh3", "rtol": 1e-3}):
        calls = 0
        statistics = vd.integrate(field, field.initial_state(), grid(5, 4), **arguments).statistics
        assert statistics.evaluations == calls
        assert statistics.accepted > 10
        assert (statistics.rejected > 0) == (arguments.get("method") != "rk4")


@pytest.mark.parametrize(
    ("method", "rtol"),
    [(method, rtol) for method in ("dopri5", "dopri8", "bosh3", "rkc", "fehlberg2") for rtol in (1e-3, 1e-5)]
    + [("adaptive_heun", 1e-3)],
)
def test_v_does_not_rise_along_trajectories(method: str, rtol: float) -> None:
    P = vd.DenseDictionary(normal(0, 8, 12) / 2)
    x = signals_for(P, 1, (6,))
    lam = P.encode(x).abs().amax(-1) * torch.tensor([1e-3, 0.05, 0.2, 0.5, 0.9, 1.1]).double()
    for field, end in (
        (vd.SparseRecurrent(P, x, lam), 6.0),
        (vd.Reduced(P, x, lam, 0.7, 3.0, 2.5, threshold="nonnegative"), 12.0),
    ):
        start = states_for(field, 3) if method in ("dopri5", "bosh3") else field.initial_state()
        check_v(field, vd.integrate(field, start, grid(end, 97), method=method, rtol=rtol, atol=1e-2 * rtol), rtol)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "rkc", "adaptive_heun"])
def test_v_does_not_rise_where_it_is_curved(method: str) -> None:
    # With an error norm that ignores the curvature, dopri5 lets V rise by 5400 rtol^2 V(0) at seed 10.
    for seed in (3, 10):
        weight = normal(seed, 2, 6)
        P = vd.DenseDictionary(weight * math.sqrt(300) / torch.linalg.matrix_norm(weight, 2))
        x = signals_for(P, seed, (3,))
        lam = P.encode(x).abs().amax(-1) * torch.tensor([1e-3, 0.1, 0.5]).double()
        field = vd.SparseRecurrent(P, x, lam)
        start = states_for(field, seed) if seed % 2 else field.initial_state()
        check_v(field, vd.integrate(field, start, grid(0.5, 101), method=method, rtol=1e-2, atol=1e-4), 1e-2)


def check_v(field: vd.Field, trajectory: vd.Trajectory, rtol: float) -> None:
    V = torch.stack(
        [field.lyapunov(tuple(part[i] for part in trajectory.states)) for i in range(len(trajectory.times))]
    )
    rise = (V - V.cummin(0).values).amax(0)
    assert (rise <= 100 * rtol**2 * V[0] + 1e-12 * V[0].abs() + 1e-13).all(), float((rise / V[0]).max()) / rtol**2


@settings(max_examples=12)
@given(data=st.data())
def test_v_does_not_rise_along_random_trajectories(data: st.DataObject) -> None:
    # F is convex for these alpha, beta and gamma. So V is bounded below, and positive up to its constant.
    parameters = data.draw(
        st.fixed_dictionaries(
            {
                "alpha": st.sampled_from([0.8, 1.0, 2.0]),
                "beta": st.sampled_from([2.0, 3.0]),
                "gamma": st.sampled_from([1.3, 2.0]),
                "tau_z": st.sampled_from([0.5, 1.0]),
                "tau_u": st.sampled_from([1.0, 2.0]),
            }
        )
    )
    kinds = st.one_of(strategies.dense(), strategies.conv(max_side=4), strategies.fourier())
    field = data.draw(strategies.sparse_fields(kinds, st.just(parameters)))
    rtol = data.draw(st.sampled_from([1e-3, 1e-5]))
    start = states_for(field, data.draw(seeds))
    trajectory = vd.integrate(field, start, grid(4, 33), rtol=rtol, atol=1e-2 * rtol)
    check_v(field, trajectory, rtol)


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_time_constants_scale_time(scale: float) -> None:
    field = small_field()
    scaled = vd.SparseRecurrent(field.dictionary, field.x, field.lam, tau_z=scale, tau_u=scale)
    times = grid(4, 9)
    path = vd.integrate(field, field.initial_state(), times, rtol=1e-8, atol=1e-10)
    other = vd.integrate(scaled, scaled.initial_state(), scale * times, rtol=1e-8, atol=1e-10)
    for a, b in zip(path.states, other.states, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_time_has_no_origin() -> None:
    field, times = small_field(), grid(4, 9)
    path = vd.integrate(field, field.initial_state(), times, rtol=1e-8, atol=1e-10)
    for origin in (-7.3, 40.0):
        moved = vd.integrate(field, field.initial_state(), times + origin, rtol=1e-8, atol=1e-10, gap=1e-15)
        for a, b in zip(path.states, moved.states, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def mixed_field() -> vd.SparseRecurrent:
    """A field whose signals settle at very different times: at once, soon, and late."""
    left, right = torch.linalg.qr(normal(0, 8, 6))[0], torch.linalg.qr(normal(1, 6, 6))[0]
    P = vd.DenseDictionary(left @ torch.diag(torch.linspace(0.7, 1.3, 6).double()) @ right)
    x = signals_for(P, 2, (2, 2))
    x[1, 0] = 0
    lam = P.encode(x).abs().amax(-1) * torch.tensor([[0.02, 1.2], [1.0, 0.6]]).double()
    return vd.SparseRecurrent(P, x, lam + 1e-6)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4"])
def test_a_settled_signal_leaves_with_its_state(method: str) -> None:
    field, goal = mixed_field(), 1e-5
    # `integrate` checks the gap at multiples of 0.5, and all of them are output times.
    times = grid(60, 121)
    found = vd.integrate(field, field.initial_state(), times, method=method, gap=goal, check_every=0.5, step=0.1)
    assert len(found.times) == len(found.states[0]) == len(found.states[1]) == 121
    assert (found.relative_gap <= goal).all()
    assert found.settled_at.shape == found.relative_gap.shape == field.signal_batch
    assert len(found.settled_at.unique()) >= 3
    problem = field.problem()
    gaps = torch.stack([problem.relative_gap(field.code(tuple(part[i] for part in found.states))) for i in range(121)])
    for i, j in np.ndindex(2, 2):
        at = int((times == found.settled_at[i, j]).nonzero())
        # The signal leaves at the first check that finds its gap reached, and keeps its state from then on.
        assert gaps[at, i, j] <= goal
        assert (gaps[1:at, i, j] > goal).all()
        assert found.relative_gap[i, j] == pytest.approx(float(gaps[at, i, j]), abs=1e-15)
        for part in found.states:
            assert torch.equal(part[at:, i, j], part[at, i, j].expand_as(part[at:, i, j]))
            assert not torch.equal(part[at, i, j], part[at - 1, i, j]) or at == 1
    alone = vd.integrate(field, field.initial_state(), times, rtol=1e-9, atol=1e-11)
    for part, other in zip(found.states, alone.states, strict=True):
        torch.testing.assert_close(part[:, 0, 0], other[:, 0, 0], rtol=0, atol=1e-2)


def test_stopping_saves_the_work() -> None:
    field = mixed_field()
    times = torch.tensor([0.0, 5000.0])
    found = vd.integrate(field, field.initial_state(), times, gap=1e-6)
    assert float(found.settled_at.max()) < 60
    assert found.statistics.accepted < 300
    assert found.times.tolist() == [0.0, 5000.0]


def test_a_signal_that_does_not_settle_in_time_says_so() -> None:
    field = mixed_field()
    found = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 3.0]), gap=1e-6)
    assert found.settled_at.isnan().tolist() == [[True, False], [False, True]]
    assert (found.relative_gap > 1e-6).tolist() == [[True, False], [False, True]]
    end = field.problem().relative_gap(field.code(tuple(part[-1] for part in found.states)))
    torch.testing.assert_close(found.relative_gap, end, rtol=1e-9, atol=1e-15)


def test_without_a_goal_the_gap_at_the_end_is_told() -> None:
    field = small_field()
    found = vd.integrate(field, field.initial_state(), grid(5, 3))
    end = field.problem().relative_gap(field.code(tuple(part[-1] for part in found.states)))
    torch.testing.assert_close(found.relative_gap, end, rtol=0, atol=0)
    assert found.settled_at.isnan().all()


def test_a_batch_with_its_own_dictionaries_settles_signal_by_signal() -> None:
    P = vd.DenseDictionary(normal(0, 3, 6, 4) / 2)
    x = normal(1, 3, 2, 6)
    x[0] = 0
    lam = P.encode(x).abs().amax(-1) * torch.tensor([[1.0, 1.0], [0.05, 0.9], [0.5, 1.5]]).double()
    field = vd.SparseRecurrent(P, x, lam + 1e-6)
    times = grid(100, 101)
    found = vd.integrate(field, field.initial_state(), times, gap=1e-9, check_every=1.0)
    assert (found.relative_gap <= 1e-9).all()
    assert len(found.settled_at.unique()) >= 3
    for i, j in np.ndindex(3, 2):
        at = int((times == found.settled_at[i, j]).nonzero())
        for part in found.states:
            assert torch.equal(part[at:, i, j], part[at, i, j].expand_as(part[at:, i, j]))
        alone = vd.SparseProblem(vd.DenseDictionary(P.weight[i]), x[i, j], field.lam[i, j])
        code = field.code(tuple(part[-1] for part in found.states))[i, j]
        torch.testing.assert_close(code, vd.solve(alone).code, rtol=0, atol=1e-5)


@pytest.mark.parametrize("gap", [None, 1e-6])
def test_a_single_time_gives_the_start(gap: float | None) -> None:
    field = small_field()
    state = states_for(field, 3)
    found = vd.integrate(field, state, torch.tensor([2.0]), gap=gap)
    assert found.times.tolist() == [2.0]
    for part, start in zip(found.states, state, strict=True):
        assert torch.equal(part, start[None])
    assert found.statistics == Statistics(0, 0, 0)
    torch.testing.assert_close(found.relative_gap, field.problem().relative_gap(field.code(state)))


@pytest.mark.parametrize("gap", [None, 1e-6])
def test_no_signals_are_integrated_at_once(gap: float | None) -> None:
    field = vd.SparseRecurrent(vd.DenseDictionary(normal(0, 5, 4)), normal(1, 0, 5))
    found = vd.integrate(field, field.initial_state(), grid(3, 4), gap=gap)
    assert [tuple(part.shape) for part in found.states] == [(4, 0, 5), (4, 0, 4)]
    assert found.relative_gap.shape == (0,)


def test_trajectories_keep_the_signals_shape_and_dtype() -> None:
    P = vd.ConvDictionary(normal(0, 2, 1, 2, 2) / 2, (1, 3, 3))
    union = vd.UnionDictionary(P, vd.DenseDictionary(normal(1, 9, 4) / 3))
    for dictionary in (P, union):
        for dtype in (torch.float32, torch.float64):
            for lead in ((), (2, 3)):
                field = vd.SparseRecurrent(dictionary, signals_for(dictionary, 2, lead), 0.2).to(dtype=dtype)
                found = vd.integrate(field, field.initial_state(), grid(3, 4), gap=1e-2)
                shapes = [(4, *lead, *dictionary.signal_shape), (4, *lead, *dictionary.code_shape)]
                assert [tuple(part.shape) for part in found.states] == shapes
                assert {part.dtype for part in found.states} == {dtype}
                assert found.times.dtype == torch.float64
                assert found.relative_gap.shape == lead


def test_the_given_state_is_left_alone() -> None:
    field = small_field()
    state = states_for(field, 3)
    kept = [part.clone() for part in state]
    vd.integrate(field, state, grid(3, 4), gap=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))


def test_autocast_outside_does_not_reach_the_solve() -> None:
    field = small_field()
    plain = vd.integrate(field, field.initial_state(), grid(3, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = vd.integrate(field, field.initial_state(), grid(3, 4))
    assert all(torch.equal(a, b) for a, b in zip(plain.states, inside.states, strict=True))


# Runs that cannot go on


def check_kept(error: vd.IntegrationError, whole: vd.Trajectory, at_least: int) -> None:
    """Check that the error carries the trajectory up to the failure, equal to that of an undisturbed run."""
    kept = error.trajectory
    assert kept is not None
    count = len(kept.times)
    assert at_least <= count < len(whole.times)
    assert torch.equal(kept.times, whole.times[:count])
    assert float(kept.times[-1]) <= error.time
    for part, wanted in zip(kept.states, whole.states, strict=True):
        assert torch.equal(part, wanted[:count])


@pytest.mark.parametrize("gap", [None, 1e-9])
@pytest.mark.parametrize(("method", "limit"), [("dopri5", 33), ("bosh3", 150), ("rkc", 150)])
def test_a_step_limit_names_the_signal_and_keeps_the_path(method: str, limit: int, gap: float | None) -> None:
    P = vd.DenseDictionary(normal(0, 8, 6) / 3)
    x = torch.zeros(4, 8, dtype=torch.float64)
    x[2] = 2 * normal(1, 8)
    field = vd.SparseRecurrent(P, x, 0.1)
    times = grid(6, 121)
    arguments = {"method": method, "gap": gap, "check_every": 1.0 if gap else None}
    whole = vd.integrate(field, field.initial_state(), times, **arguments)
    message = rf"^signal 2: the step limit is reached \({limit} steps\) at t = .* with {method}; try a larger max_steps"
    with pytest.raises(vd.IntegrationError, match=message) as caught:
        vd.integrate(field, field.initial_state(), times, max_steps=limit, **arguments)
    assert caught.value.signals == [2]
    assert 0 < caught.value.time < 6
    check_kept(caught.value, whole, at_least=5)
    assert float(caught.value.trajectory.times[-1]) > caught.value.time - 0.5
    # `max_steps` equal to the number of steps needed is enough.
    taken = whole.statistics.accepted + whole.statistics.rejected
    vd.integrate(field, field.initial_state(), times, max_steps=taken, **arguments)


def runaway(monkeypatch: pytest.MonkeyPatch) -> tuple[vd.SparseRecurrent, Tensor]:
    """A field whose signal 3 runs away with steps from one of the times to the next. The limit allows such steps."""
    move_limit(monkeypatch, "rk4", 1e9)
    x = torch.zeros(5, 3, dtype=torch.float64)
    x[3] = 1.0
    return vd.SparseRecurrent(vd.DenseDictionary(torch.eye(3, dtype=torch.float64)), x, 0.1), grid(3000, 301)


def test_a_state_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    field, times = runaway(monkeypatch)
    with pytest.raises(
        vd.IntegrationError, match=r"^signal 3: the state is not finite at t = .* with rk4; .*smaller steps"
    ) as caught:
        vd.integrate(field, field.initial_state(), times, method="rk4")
    assert caught.value.signals == [3]
    kept = caught.value.trajectory
    assert kept is not None
    assert 2 < len(kept.times) < 301
    assert all(bool(part.isfinite().all()) for part in kept.states)


def test_a_runaway_that_is_still_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    field, times = runaway(monkeypatch)
    for scale in (1e-30, 1.0, 1e30):
        scaled = vd.SparseRecurrent(field.dictionary, scale * field.x, scale * field.lam)
        with pytest.raises(vd.IntegrationError, match=r"^signal 3: the state runs away .* with rk4; V rises") as caught:
            vd.integrate(scaled, scaled.initial_state(), times[:4], method="rk4")
        assert caught.value.signals == [3]
        assert caught.value.trajectory is not None
        assert len(caught.value.trajectory.times) == 4
        with pytest.raises(vd.IntegrationError, match="the state runs away"):
            list(stream(scaled, start_of(scaled, scaled.initial_state()), times[:4], method="rk4"))


@settings(max_examples=10)
@given(field=strategies.sparse_fields(strategies.dense()), method=st.sampled_from(list(FIXED_METHODS)))
def test_fixed_steps_stay_within_the_stability_limit(field: vd.Field, method: str) -> None:
    limit = FIXED_METHODS[method] / float(field.stiffness().max())
    end = 80 * limit if "adams" in method else 20 + 3 * limit
    times = torch.tensor([0.0, end], dtype=torch.float64)
    message = rf"^step is .*, which {method} is not stable at: .* is {re.escape(f'{limit:.6g}')};"
    with warnings.catch_warnings(action="ignore"), pytest.raises(ValueError, match=message):
        vd.integrate(field, field.initial_state(), times, method=method, step=1.01 * limit)
    if field.instability():
        return
    # Without `step` the method takes stable steps between the output times, and V falls. One step would let it rise.
    found = vd.integrate(field, field.initial_state(), times, method=method)
    assert found.statistics.accepted >= end / limit
    first, last = (field.lyapunov(tuple(part[i] for part in found.states)) for i in (0, -1))
    assert (last <= first + 1e-2 * (first.abs() + 1)).all()


def test_growth_out_of_range_is_an_error() -> None:
    P = vd.DenseDictionary(4 * torch.eye(3, dtype=torch.float64))
    x = torch.zeros(2, 3, dtype=torch.float64)
    x[1] = 1.0
    field = vd.Recurrent(P, x)
    times = grid(60, 241)
    with (
        pytest.warns(UserWarning, match="no stable equilibrium"),
        pytest.raises(
            vd.IntegrationError, match=r"^signal 1: the state grows out of range at t = .*is the equilibrium stable"
        ) as caught,
    ):
        vd.integrate(field, field.initial_state(), times, rtol=1e-3)
    kept = caught.value.trajectory
    assert kept is not None
    assert len(kept.times) > 50
    # The solution is z = x (16 e^{15t} - 1) / 15.
    exact = (16 * torch.exp(15 * kept.times[:20]) - 1) / 15
    torch.testing.assert_close(kept.states[0][:20, 1, 0], exact, rtol=0.2, atol=0)
    assert kept.relative_gap.isnan().all()


def test_a_derivative_that_overflows_is_an_error() -> None:
    P = vd.DenseDictionary(torch.full((2, 2), 1e200, dtype=torch.float64))
    field = vd.SparseRecurrent(P, torch.tensor([[0.0, 0.0], [1e140, 1.0]], dtype=torch.float64), 0.1)
    with pytest.raises(vd.IntegrationError, match=r"^signal 1: the derivative is not finite at t = 0 ") as caught:
        vd.integrate(field, field.initial_state(), grid(1, 3))
    assert caught.value.trajectory is not None
    assert caught.value.trajectory.times.tolist() == [0.0]


@pytest.mark.parametrize("method", ["dopri5", "rkc", "bosh3"])
def test_steps_below_the_rounding_of_time_are_an_error(method: str) -> None:
    field = small_field().to(dtype=torch.float32)
    message = rf"^signal \d: the step size underflows at t = .* with {method}; try float64"
    with pytest.raises(vd.IntegrationError, match=message) as caught:
        vd.integrate(field, field.initial_state(), 1e11 + grid(5, 6), method, rtol=1e-14, atol=1e-14, max_steps=1000)
    assert caught.value.trajectory is not None
    assert caught.value.trajectory.times.tolist() == [1e11]


def test_errors_name_signals_by_their_place_in_the_whole_batch() -> None:
    field = mixed_field()
    # Signals 1 and 2 have settled and left by then. The slow one has number 0 among the rest, and among all.
    with pytest.raises(vd.IntegrationError) as caught:
        vd.integrate(field, field.initial_state(), torch.tensor([0.0, 500.0]), gap=1e-13, max_steps=150)
    swapped = vd.SparseRecurrent(field.dictionary, field.x.flip(0, 1), field.lam.flip(0, 1))
    with pytest.raises(vd.IntegrationError) as other:
        vd.integrate(swapped, swapped.initial_state(), torch.tensor([0.0, 500.0]), gap=1e-13, max_steps=150)
    assert caught.value.signals[0] == 0
    assert other.value.signals[0] == 3
    assert str(other.value).startswith("signal 3: the step limit")


field = small_field()
start = field.initial_state()
t = grid(1, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vd.integrate(field, start, t.flip(0)), r"^times are not finite and strictly increasing"),
        (lambda: vd.integrate(field, start, torch.tensor([0.0, 1.0, 1.0])), r"^times are not finite and strictly"),
        (lambda: vd.integrate(field, start, torch.tensor([0.0, math.nan])), r"^times are not finite"),
        (lambda: vd.integrate(field, start, torch.tensor([math.nan])), r"^times are not finite"),
        (lambda: vd.integrate(field, start, torch.tensor([0.0, math.inf])), r"^times are not finite"),
        (lambda: vd.integrate(field, start, t[:0]), r"^times are a float64 tensor of shape \(0,\)"),
        (lambda: vd.integrate(field, start, t[None]), r"^times are a float64 tensor of shape \(1, 3\)"),
        (lambda: vd.integrate(field, start, t, method="rk45"), r"^method is 'rk45'; one of dopri5, "),
        (lambda: vd.integrate(field, start, t, rtol=0.0), r"^rtol is 0.0"),
        (lambda: vd.integrate(field, start, t, atol=-1.0), r"^atol is -1.0"),
        (lambda: vd.integrate(field, start, t, rtol=math.nan), r"^rtol is nan"),
        (lambda: vd.integrate(field, start, t, gap=0.0), r"^gap is 0.0"),
        (lambda: vd.integrate(field, start, t, gap=math.nan), r"^gap is nan"),
        (lambda: vd.integrate(field, start, t, step=-0.1), r"^step is -0.1"),
        (lambda: vd.integrate(field, start, t, gap=1e-3, check_every=0.0), r"^check_every is 0.0"),
        (lambda: vd.integrate(field, start, t, max_steps=0), r"^max_steps is 0"),
        (lambda: vd.integrate(field, start, t, gradient="finite"), r"^gradient is 'finite'; one of backprop, "),
        (
            lambda: vd.integrate(field, start, t, gradient="implicit"),
            r"^gradient is \"implicit\", which differentiates",
        ),
        (lambda: vd.integrate(field, start[:1], t), r"^the state is a tuple of 1; a tuple \(z, u\) is wanted"),
        (
            lambda: next(stream(field, start_of(field, start, 2.0), t)),
            r"^times begin at 0.0, before the snapshot's time 2",
        ),
        (lambda: next(stream(field, start_of(field, start), t, chunk=0)), r"^chunk is 0"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_half_precision_is_refused() -> None:
    half = field.to(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"^x is torch.bfloat16; torch.float32 or torch.float64 is wanted"):
        vd.integrate(half, half.initial_state(), t)


# The stream

FIELDS: dict[str, Callable[[], vd.Field]] = {
    "dense": mixed_field,
    "reduced": lambda: vd.Reduced(mixed_field().dictionary, mixed_field().x, mixed_field().lam),
    "batched": lambda: vd.SparseRecurrent(vd.DenseDictionary(normal(0, 2, 5, 4) / 2), normal(1, 2, 3, 5), 0.4),
    "conv": lambda: vd.SparseRecurrent(
        vd.ConvDictionary(normal(0, 2, 1, 2, 2) / 2, (1, 4, 4), stride=2), normal(1, 2, 1, 4, 4), 0.3
    ),
    "union": lambda: vd.SparseRecurrent(
        vd.UnionDictionary(
            vd.ConvDictionary(normal(0, 2, 1, 2, 2) / 2, (1, 3, 3)), vd.DenseDictionary(normal(2, 2, 9, 3) / 3)
        ),
        normal(1, 2, 2, 1, 3, 3),
        0.3,
    ),
}
Chunk = tuple[Tensor, tuple[Tensor, ...], Snapshot]


def same(one: Snapshot, other: Snapshot) -> bool:
    """Whether two tensors have the same bits, NaN included."""
    pairs = zip((*one.state, *one[3:6]), (*other.state, *other[3:6]), strict=True)
    equal = all(torch.equal(torch.nan_to_num(a, nan=-7.0), torch.nan_to_num(b, nan=-7.0)) for a, b in pairs)
    return equal and (one.time, one.step, one.statistics) == (other.time, other.step, other.statistics)


#: These methods take many small steps, so a test of resuming takes seconds with them.
SLOW = ("explicit_adams", "implicit_adams")


@pytest.mark.parametrize("gap", [None, 1e-5])
@pytest.mark.parametrize(
    ("name", "method"),
    [(name, "dopri5") for name in FIELDS]
    + [("dense", method) for method in METHODS if method not in ("dopri5", *SLOW)]
    + [("batched", method) for method in ("dopri8", "bosh3")],
)
def test_a_run_resumed_from_any_snapshot_is_the_same_bit_for_bit(name: str, method: str, gap: float | None) -> None:
    field = FIELDS[name]()
    # Neither the ends of chunks nor the output times coincide with the checks of the gap.
    times = grid(5.3, 24)
    arguments = {"method": method, "gap": gap, "chunk": 5, "rtol": 1e-4, "check_every": 0.6 if gap else None}
    first = start_of(field, field.initial_state())
    whole: list[Chunk] = list(stream(field, first, times, **arguments))
    assert gap or sum(len(chunk[0]) for chunk in whole) == 24
    assert len(whole) >= 3
    for number, (_, _, snapshot) in enumerate(whole[:-1]):
        resumed = list(stream(field, snapshot, times[times > snapshot.time], **arguments))
        assert len(resumed) == len(whole) - number - 1
        for (at, states, after), (wanted_at, wanted, wanted_after) in zip(resumed, whole[number + 1 :], strict=True):
            assert torch.equal(at, wanted_at)
            assert all(torch.equal(a, b) for a, b in zip(states, wanted, strict=True))
            assert same(after, wanted_after)


@pytest.mark.parametrize("gap", [None, 1e-6])
def test_a_stream_is_the_trajectory_in_pieces(gap: float | None) -> None:
    field = mixed_field()
    times = grid(12, 25)
    arguments = {"rtol": 1e-8, "atol": 1e-10, "gap": gap}
    whole = vd.integrate(field, field.initial_state(), times, **arguments)
    chunks = list(stream(field, start_of(field, field.initial_state()), times, chunk=7, **arguments))
    assert torch.equal(torch.cat([chunk[0] for chunk in chunks]), times)
    assert [len(chunk[0]) for chunk in chunks] == [7, 7, 7, 4]
    for at, state, wanted in zip(
        ("z", "u"), zip(*(chunk[1] for chunk in chunks), strict=True), whole.states, strict=True
    ):
        # The end of a chunk checks the gap too, so signals may settle there. They agree to within their gap.
        torch.testing.assert_close(torch.cat(state), wanted, rtol=0, atol=1e-6 if gap is None else 2e-2, msg=at)
    last = chunks[-1][2]
    assert last.time == 12
    assert last.live.shape == last.settled_at.shape == field.signal_batch
    if gap:
        assert (last.relative_gap <= gap).eq(~last.live).all()
        assert not bool(last.live[1, 0])
        assert bool(last.live[0, 0])
    else:
        assert last.live.all()


def test_a_stream_ends_once_all_have_settled_and_says_in_which_state() -> None:
    field = mixed_field()
    times = torch.tensor([0.0, 1.0, 400.0, 800.0])
    chunks = list(stream(field, start_of(field, field.initial_state()), times, gap=1e-6, chunk=2))
    assert [len(chunk[0]) for chunk in chunks] in ([2, 0], [2, 1])
    last = chunks[-1][2]
    assert not bool(last.live.any())
    assert (last.relative_gap <= 1e-6).all()
    assert last.time < 400
    assert (field.problem().relative_gap(field.code(last.state)) <= 1e-6).all()
    assert list(stream(field, last, times[2:], gap=1e-6)) != []


def test_a_stream_that_fails_keeps_its_chunk() -> None:
    field = small_field()
    times = grid(10, 51)
    whole = vd.integrate(field, field.initial_state(), times[:5])
    got: list[Chunk] = []
    with pytest.raises(vd.IntegrationError, match="step limit") as caught:
        got.extend(stream(field, start_of(field, field.initial_state()), times, chunk=100, max_steps=60))
    assert got == []
    kept = caught.value.trajectory
    assert kept is not None
    assert len(kept.times) > 5
    for part, wanted in zip(kept.states, whole.states, strict=True):
        torch.testing.assert_close(part[:5], wanted, rtol=0, atol=1e-5)


def test_a_stream_carries_no_graph() -> None:
    P = vd.DenseDictionary(normal(0, 4, 3).requires_grad_())
    field = vd.SparseRecurrent(P, normal(1, 2, 4), 0.3)
    for _, states, snapshot in stream(field, start_of(field, field.initial_state()), t, chunk=2):
        assert not any(part.requires_grad for part in (*states, *snapshot.state))


@pytest.mark.gpu
@pytest.mark.parametrize("name", FIELDS)
def test_on_a_gpu_simulation_certificate_and_solve_agree_with_the_cpu(name: str) -> None:
    field = FIELDS[name]()
    there = field.to("cuda")
    times = grid(40, 9)
    here = vd.integrate(field, field.initial_state(), times, rtol=1e-8, atol=1e-10, gap=1e-8)
    far = vd.integrate(there, there.initial_state(), times, rtol=1e-8, atol=1e-10, gap=1e-8)
    for part, other in zip(here.states, far.states, strict=True):
        assert other.device.type == "cuda"
        torch.testing.assert_close(other.cpu(), part, rtol=0, atol=1e-6)
    torch.testing.assert_close(far.relative_gap.cpu() <= 1e-8, here.relative_gap <= 1e-8)
    code = field.code(tuple(part[3] for part in here.states))
    problem, remote = field.problem(), there.problem()
    for value in ("objective", "gap", "kkt_residual"):
        torch.testing.assert_close(
            getattr(remote, value)(code.cuda()).cpu(), getattr(problem, value)(code), rtol=1e-9, atol=1e-12
        )
    solution, other = vd.solve(problem), vd.solve(remote)
    assert other.code.device.type == "cuda"
    assert other.converged.all()
    torch.testing.assert_close(
        problem.objective(other.code.cpu()), problem.objective(solution.code), rtol=1e-10, atol=0
    )
    assert (other.kkt_residual.cpu() <= 1e-8).all()
