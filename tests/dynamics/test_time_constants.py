"""Time constants of single units: they change the way, and neither the problem, nor V, nor where the way ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor

import vars_dyn as vd
from tests.strategies import normal, seeds, states_for
from vars_dyn.interventions import Intervention

D, ATOMS, SIGNALS = 5, 8, 3


def taus(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape).exp()


def at(*times: float) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)


def tau_of(field: vd.Field, name: str, units: int) -> np.ndarray:
    """One time constant per signal and unit."""
    return np.broadcast_to(getattr(field, name).numpy(), (SIGNALS, units))


def field_of(seed: int, spread: str = "unit", kind: type[vd.Field] = vd.SparseRecurrent, **more: Any) -> vd.Field:
    lead = {"unit": (), "signal": (SIGNALS,), "both": (SIGNALS,)}[spread]
    sides = {"z": 1 if spread == "signal" else D, "u": 1 if spread == "signal" else ATOMS}
    P = vd.DenseDictionary(torch.nn.functional.normalize(normal(seed, D, ATOMS), dim=0))
    own = {f"tau_{name}": taus(seed + k, *lead, side) for k, (name, side) in enumerate(sides.items())}
    if kind is vd.Reduced:
        del own["tau_z"]
    return kind(P, normal(seed + 9, SIGNALS, D), **({"lam": 0.3} | own | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [vd.SparseRecurrent, vd.Reduced])
@settings(max_examples=10)
@given(seed=seeds, spread=st.sampled_from(["unit", "signal", "both"]))
def test_v_falls_by_the_sum_over_units(kind: type[vd.Field], seed: int, spread: str) -> None:
    """dV/dt = -sum_j tau_j z_j'^2 - sum_i tau_i g'(u_i) u_i'^2, against a difference quotient of V."""
    field = field_of(seed, spread, kind, alpha=1.2, beta=2.5)
    state = states_for(field, seed)
    slope, h = field.derivative(0.0, state), 1e-6
    ahead, behind = (tuple(y + s * h * f for y, f in zip(state, slope, strict=True)) for s in (1, -1))
    # Where a unit crosses its threshold on the way, the quotient is of two pieces.
    active = [field.code(s) != 0 for s in (ahead, behind)]
    whole = (active[0] == active[1]).all(-1)
    found = (field.lyapunov(ahead) - field.lyapunov(behind)) / (2 * h)
    wanted = -(field.tau_u * active[0] * slope[-1].square()).sum(-1)
    if kind is vd.SparseRecurrent:
        wanted = wanted - (field.tau_z * slope[0].square()).sum(-1)
    torch.testing.assert_close(found[whole], wanted[whole], rtol=1e-5, atol=1e-6)


@settings(max_examples=20)
@given(seed=seeds, spread=st.sampled_from(["unit", "both"]), data=st.data())
def test_no_rate_exceeds_the_stiffness(seed: int, spread: str, data: st.DataObject) -> None:
    """The eigenvalues of the Jacobian on a random active set, written out in NumPy, are real and within the bound."""
    field = field_of(seed, spread, gamma=data.draw(st.floats(0.0, 3.0)), beta=data.draw(st.floats(0.5, 3.0)))
    P, active = field.dictionary.matrix().numpy(), np.random.default_rng(seed).random(ATOMS) < 0.6
    beta, gamma = float(field.beta), float(field.gamma)
    for row in range(SIGNALS):
        rates = tau_of(field, "tau_z", D)[row], tau_of(field, "tau_u", ATOMS)[row]
        inner = -beta * np.eye(ATOMS) - gamma * (P.T @ P - np.eye(ATOMS)) * active
        jacobian = np.block([[-np.eye(D), P * active], [P.T, inner]]) / np.concatenate(rates)[:, None]
        values = np.linalg.eigvals(jacobian)
        assert np.abs(values.imag).max() < 1e-6 * np.abs(values).max()
        assert np.abs(values).max() <= float(field.stiffness()) * (1 + 1e-9)


@pytest.mark.parametrize("spread", ["signal", "both"])
def test_the_trajectory_is_scipys_and_ends_where_it_would_without(spread: str) -> None:
    field = field_of(3, spread)
    times = at(0.0, 0.5, 4.0)
    acts: list[Intervention] = [vd.Inject(0.4, neurons=[2], start=0.5), vd.Silence(neurons=[1], start=0.5)]
    found = vd.integrate(field, field.initial_state(), times, rtol=1e-8, atol=1e-10, interventions=acts).states
    P, x = field.dictionary.matrix().numpy(), field.x.numpy()
    tau_z, tau_u = tau_of(field, "tau_z", D), tau_of(field, "tau_u", ATOMS)

    def slope(t: float, y: np.ndarray, acting: bool) -> np.ndarray:
        z, u = y[: SIGNALS * D].reshape(SIGNALS, D), y[SIGNALS * D :].reshape(SIGNALS, ATOMS)
        a = np.sign(u) * np.maximum(np.abs(u) - 0.15, 0)
        seen = z * (np.arange(D) != 1) if acting else z
        du = -2 * u - 2 * (a @ P.T @ P - a) + seen @ P
        dz = a @ P.T + x - z
        dz[:, 2] += 0.4 * acting
        return np.concatenate([(dz / tau_z).ravel(), (du / tau_u).ravel()])

    y = np.concatenate([x.ravel(), np.zeros(SIGNALS * ATOMS)])
    for k, (low, high) in enumerate(((0.0, 0.5), (0.5, 4.0))):
        y = solve_ivp(slope, (low, high), y, "LSODA", args=(k == 1,), rtol=1e-9, atol=1e-11).y[:, -1]
        np.testing.assert_allclose(torch.cat([part[k + 1].flatten() for part in found]), y, rtol=0, atol=1e-6)
    run = vd.integrate(field, field.initial_state(), at(0.0, 1e3), gap=1e-4, rtol=1e-4, method="auto")
    assert float(run.relative_gap.max()) <= 1e-4
    plain = vd.SparseRecurrent(field.dictionary, field.x, lam=0.3)
    code = vd.equilibrium(plain).code
    torch.testing.assert_close(field.code(tuple(p[-1] for p in run.states)), code, rtol=0, atol=2e-2)


def test_equal_time_constants_are_a_number() -> None:
    number = field_of(1, tau_z=0.7, tau_u=1.3)
    each = field_of(
        1, tau_z=torch.full((D,), 0.7, dtype=torch.float64), tau_u=torch.full((SIGNALS, 1), 1.3, dtype=torch.float64)
    )
    state = states_for(number, 4)
    for a, b in zip(number.derivative(0.0, state), each.derivative(0.0, state), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)
    assert torch.equal(number.stiffness(), each.stiffness())
    times = at(0.0, 2.0, 5.0)
    one, two = (vd.integrate(f, f.initial_state(), times, gap=1e-3, rtol=1e-4) for f in (number, each))
    for a, b in zip(one.states, two.states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_gradients_flow_to_them() -> None:
    times, at_end = at(0.0, 0.5), normal(5, SIGNALS, ATOMS)

    def loss(tau: Tensor, gradient: str = "backprop") -> Tensor:
        field = field_of(2, tau_u=tau)
        run = vd.integrate(field, field.initial_state(), times, rtol=1e-7, atol=1e-9, gradient=gradient)
        return (run.states[1][-1] * at_end).sum()

    tau, step = taus(6, ATOMS), torch.zeros(ATOMS).double()
    step[3] = 1e-2
    wanted = (loss(tau + step) - loss(tau - step)) / 2e-2
    for gradient in ("backprop", "checkpoint", "adjoint"):
        given_to = tau.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(given_to, gradient), given_to)
        torch.testing.assert_close(slope[3], wanted, rtol=5e-3, atol=1e-5)


def test_a_record_keeps_them(tmp_path: Path) -> None:
    field, times = field_of(1, "both", tau_z=0.5), torch.arange(0.0, 3.0, 0.5).double()
    run = vd.record(field, tmp_path / "a.zarr", times, rtol=1e-3)
    np.testing.assert_array_equal(run["tau_u"].to_numpy(), field.tau_u.numpy())
    assert (run["tau_u"].dims, float(run["tau_z"])) == (("signal", "atom"), 0.5)
    vd.record(field, tmp_path / "a.zarr", times, rtol=1e-3, resume=True)
    other = field_of(1, "both", tau_z=0.5, tau_u=2 * field.tau_u)
    with pytest.raises(ValueError, match="cannot be resumed with another tau_u_sha256"):
        vd.record(other, tmp_path / "a.zarr", times, rtol=1e-3, resume=True)


@pytest.mark.parametrize(
    ("constants", "sentence"),
    [
        ({"gamma": torch.ones(ATOMS).double()}, "gamma_i G_ij is then not gamma_j G_ji"),
        ({"tau_u": torch.ones(D).double()}, r"one number per atom, \(8,\)"),
        ({"tau_z": torch.ones(ATOMS).double()}, r"one number per neuron, \(5,\)"),
        (
            {"tau_z": at(1.0, 0, 1, 1, 1)},
            "the smallest tau_z is 0.0; a number above zero",
        ),
        ({"tau_u": torch.ones(ATOMS)}, "tau_u is torch.float32 but x is torch.float64"),
    ],
)
def test_what_is_refused(constants: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        field_of(0, **constants)
