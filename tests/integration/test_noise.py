"""Noise on the neurons: its paths, its schemes' order, and the stationary variance that theory gives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_continuous_lyapunov
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal
from vars_dyn.integration import start_of, stream
from vars_dyn.integration.steppers.brownian import Brownian


def at(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


def sparse(signals: int = 3) -> vd.SparseRecurrent:
    weight = torch.nn.functional.normalize(normal(0, 5, 7), dim=0)
    return vd.SparseRecurrent(vd.DenseDictionary(weight), normal(1, signals, 5), lam=0.3)


def test_increments_add_up_wherever_the_way_is_cut_and_in_any_order() -> None:
    path, again = Brownian(3, 0, range(4), 5), Brownian(3, 0, range(4), 5)
    whole = path.increment(-0.3, 2.7)
    cuts = [-0.3, -0.25, 0.0, 0.1, 0.5, 0.500001, 1.0, 1.9, 2.7]
    pieces = [again.increment(a, b) for a, b in reversed(list(itertools.pairwise(cuts)))]
    torch.testing.assert_close(torch.stack(pieces).sum(0), whole, rtol=0, atol=1e-12)


def test_increments_are_normal_independent_and_of_the_right_variance() -> None:
    path, n = Brownian(5, 1, range(400), 25), 10_000
    cuts = [0.0, 0.125, 0.2, 0.9, 1.0, 3.25]
    rows = [path.increment(a, b).flatten() / math.sqrt(b - a) for a, b in itertools.pairwise(cuts)]
    found = torch.cov(torch.stack(rows))
    np.testing.assert_allclose(found, np.eye(len(rows)), rtol=0, atol=5 * math.sqrt(2 / n))
    for row in rows:
        assert abs(float(row.mean())) < 5 / math.sqrt(n)
        assert abs(float((row**4).mean()) - 3) < 5 * math.sqrt(96 / n)


def test_a_signal_has_its_path_in_every_batch_and_another_seed_has_other_paths() -> None:
    whole = Brownian(3, 0, range(6), 5).increment(0.2, 0.3)
    assert torch.equal(Brownian(3, 0, (4, 1, 2), 5).increment(0.2, 0.3), whole[[4, 1, 2]])
    assert not bool((Brownian(4, 0, range(6), 5).increment(0.2, 0.3) == whole).any())
    assert not bool((Brownian(3, 1, range(6), 5).increment(0.2, 0.3) == whole).any())
    assert len(whole.unique()) == whole.numel()


def test_a_run_of_one_signal_is_its_row_of_the_batch() -> None:
    field, noise = sparse(), vd.Noise(z=0.2, u=0.1, seed=2)
    whole = vd.integrate(field, field.initial_state(), at(0, 0.5, 1.0), noise=noise, step=0.0625)
    one = vd.SparseRecurrent(field.dictionary, field.x[1:2], lam=0.3)
    alone = vd.integrate(
        one, one.initial_state(), at(0, 0.5, 1.0), step=0.0625, noise=vd.Noise(z=0.2, u=0.1, seed=2, paths=(1,))
    )
    torch.testing.assert_close(alone.states[1][:, 0], whole.states[1][:, 1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", ["dopri5", "rkc"])
def test_noise_of_strength_zero_is_the_ode_bit_for_bit(method: str) -> None:
    field, times = sparse(), at(0, 0.7, 2.0)
    one = vd.integrate(field, field.initial_state(), times, method=method)
    two = vd.integrate(field, field.initial_state(), times, method=method, noise=vd.Noise(seed=9))
    assert all(torch.equal(a, b) for a, b in zip(one.states, two.states, strict=True))
    assert one.statistics == two.statistics


def test_recorded_times_on_the_grid_change_nothing_and_others_little() -> None:
    field, noise = sparse(), vd.Noise(z=0.2, u=0.3, seed=1)
    few = vd.integrate(field, field.initial_state(), at(0, 2.0), noise=noise, step=2.0**-5)
    many = vd.integrate(field, field.initial_state(), torch.linspace(0, 2, 17).double(), noise=noise, step=2.0**-5)
    assert torch.equal(few.states[0][-1], many.states[0][-1])
    odd = vd.integrate(field, field.initial_state(), at(0, 0.3, 1.234, 2.0), noise=noise, step=2.0**-5)
    torch.testing.assert_close(odd.states[0][-1], few.states[0][-1], rtol=0, atol=2e-3)


@pytest.mark.parametrize("scheme", ["stochastic_heun", "euler_maruyama"])
def test_the_stationary_covariance_is_that_of_the_lyapunov_equation(scheme: str) -> None:
    """J S + S J^T + Q = 0, for noise on z and u at once, within five standard errors and the scheme's own bias."""
    n, step = 4000, 2.0**-4
    weight = 0.5 * torch.nn.functional.normalize(normal(2, 2, 3), dim=0)
    field = vd.EncoderDecoder(vd.DenseDictionary(weight), torch.zeros(n, 2, dtype=torch.float64), tau_u=1.5)
    noise = vd.Noise(z=0.7, u=0.3, seed=3, scheme=scheme)
    run = vd.integrate(field, field.initial_state(), at(0, 12.0), noise=noise, step=step)
    state = torch.cat([part[-1] for part in run.states], -1).numpy()
    p = weight.numpy()
    jacobian = np.block([[-np.eye(2), p], [p.T / 1.5, -np.eye(3) / 1.5]])
    diffusion = np.diag([0.49] * 2 + [0.09] * 3)
    exact = solve_continuous_lyapunov(jacobian, -diffusion)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    bias = 0.05 if scheme == "euler_maruyama" else 0.004
    np.testing.assert_allclose(state.T @ state / n / scale, exact / scale, rtol=0, atol=5 * math.sqrt(2 / n) + bias)


@pytest.mark.parametrize(
    ("scheme", "kind", "order"),
    [
        ("euler_maruyama", "additive", 1.0),
        ("stochastic_heun", "additive", 1.0),
        ("euler_maruyama", "multiplicative", 0.5),
        ("stochastic_heun", "multiplicative", 1.0),
    ],
)
def test_schemes_have_their_strong_order(scheme: str, kind: str, order: float) -> None:
    """Against a run with a step 32 times finer on the same path; for dz = (1 - z) dt + s z dW and + s dW."""
    field = vd.FeedForward(torch.ones(2000, 1, dtype=torch.float64))
    noise = vd.Noise(z=0.8, seed=4, kind=kind, scheme=scheme)
    ends = [
        vd.integrate(field, field.initial_state(), at(0, 1.0), noise=noise, step=2.0**-k).states[0][-1]
        for k in (3, 5, 10)
    ]
    coarse, fine = (float((end - ends[-1]).square().mean().sqrt()) for end in ends[:2])
    assert math.log(coarse / fine) / math.log(4) > order - 0.15


def test_multiplicative_noise_is_itos() -> None:
    """dz = -z dt + s z dW has z = z0 exp(-(1 + s^2/2) t + s W(t))."""
    field = vd.FeedForward(torch.zeros(50, 1, dtype=torch.float64))
    start = torch.ones(50, 1, dtype=torch.float64)
    noise = vd.Noise(z=0.5, seed=6, kind="multiplicative")
    run = vd.integrate(field, (start,), at(0, 1.0), noise=noise, step=2.0**-9)
    exact = torch.exp(-1.125 + 0.5 * Brownian(6, 0, range(50), 1).increment(0.0, 1.0))
    torch.testing.assert_close(run.states[0][-1], exact, rtol=5e-3, atol=0)


def test_a_stream_resumes_noise_bit_for_bit() -> None:
    field, times = sparse(), torch.linspace(0, 2.1, 10, dtype=torch.float64)
    acts, noise = [vd.Lesion(atoms=[1], start=0.35, stop=1.0)], vd.Noise(u=0.2, seed=1)
    start = start_of(field, field.initial_state())
    whole = list(stream(field, start, times, chunk=3, noise=noise, interventions=acts))
    again = list(stream(field, whole[0][2], times[3:], chunk=3, noise=noise, interventions=acts))
    for (_, states, _), (_, twin, _) in zip(whole[1:], again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(states, twin, strict=True))
    u = torch.cat([part[1][1] for part in whole])[:, :, 1]
    inside = (times >= 0.35) & (times <= 1.0)
    assert len(u[inside, 0].unique()) == 1  # neither f nor noise reaches a lesioned unit


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_gradients_through_noise(gradient: str) -> None:
    field, noise = sparse(1), vd.Noise(u=0.2, z=0.1, seed=1)

    def end(x: Tensor) -> Tensor:
        own = vd.SparseRecurrent(field.dictionary, x, lam=0.3)
        run = vd.integrate(own, field.initial_state(), at(0, 1.0), noise=noise, step=0.0625, gradient=gradient)
        return run.states[0][-1].square().sum()

    x, direction = field.x.clone().requires_grad_(), normal(3, 1, 5)
    (found,) = torch.autograd.grad(end(x), x)
    with torch.no_grad():
        difference = (end(x + 1e-5 * direction) - end(x - 1e-5 * direction)) / 2e-5
    # With a gradient the way is restarted sixteen times, as it is not without one; the steps are the same here.
    assert float((found * direction).sum()) == pytest.approx(float(difference), rel=1e-5)


def test_what_noise_has_not_is_refused() -> None:
    field, noise = sparse(), vd.Noise(z=0.1)
    state, times = field.initial_state(), at(0, 1.0)
    with pytest.raises(ValueError, match="under noise no signal settles"):
        vd.integrate(field, state, times, gap=1e-6, noise=noise)
    twin = vd.SparseRecurrent(field.dictionary, field.x.clone().requires_grad_(), lam=0.3)
    with pytest.raises(ValueError, match='gradient is "adjoint", which noise has not'):
        vd.integrate(twin, state, times, gradient="adjoint", noise=noise)
    with pytest.raises(ValueError, match="which stochastic_heun is not stable at"):
        vd.integrate(field, state, times, noise=noise, step=2.0)
    reduced = vd.Reduced(field.dictionary, field.x)
    with pytest.raises(ValueError, match="has no potential z"):
        vd.integrate(reduced, reduced.initial_state(), times, noise=noise)
    with pytest.raises(ValueError, match="2 paths for 3 signals"):
        vd.integrate(field, state, times, noise=vd.Noise(z=0.1, paths=(1, 2)))
    for wrong in ({"z": -1.0}, {"seed": -1}, {"kind": "pink"}, {"scheme": "euler"}, {"paths": (-1,)}):
        with pytest.raises(ValueError, match="wanted"):
            vd.Noise(**wrong)


def test_a_monitor_sees_every_time_and_may_stop_the_run() -> None:
    field, times, seen = sparse(), at(0, 0.5, 1.0, 1.5, 2.0), []

    def monitor(snapshot: object) -> str | None:
        seen.append(snapshot.time)  # type: ignore[attr-defined]
        return "far enough" if snapshot.time >= 1.0 else None  # type: ignore[attr-defined]

    run = vd.integrate(field, field.initial_state(), times, monitor=monitor)
    assert (run.stopped, run.times.tolist(), len(run.states[0]), seen) == ("far enough", [0, 0.5, 1.0], 3, [0.5, 1.0])
    plain = vd.integrate(field, field.initial_state(), times)
    torch.testing.assert_close(run.states[0], plain.states[0][:3], rtol=0, atol=1e-5)
    assert plain.stopped is None
    with pytest.raises(ValueError, match="the monitor returned 3"):
        vd.integrate(field, field.initial_state(), times, monitor=lambda _: 3)
