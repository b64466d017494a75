"""Compare what fields say of their stability with long runs of SciPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import vars_dyn as vd
from tests import strategies
from tests.references import Array
from tests.strategies import normal, seeds, signals_for

#: How long SciPy's runs are, in time constants, and the size beyond which a trajectory counts as growing.
LONG, FAR = 300.0, 1e6


def end_of(field: vd.SparseRecurrent | vd.Reduced, row: int, start: Array) -> tuple[Array, float]:
    """The state and the largest speed at the end of SciPy's run from `start`. It stops early if it grows to FAR."""
    W = field.dictionary.weight.numpy()
    alpha, beta, gamma = field.alpha, field.beta, field.gamma
    x, theta, d = field.x[row].numpy(), float(field.lam[row]) / beta, len(W)
    reduced = isinstance(field, vd.Reduced)

    def f(t: float, y: Array) -> Array:
        u = y if reduced else y[d:]
        a = np.maximum(u - theta, 0) if field.nonnegative else np.sign(u) * np.maximum(np.abs(u) - theta, 0)
        z = (W @ a + x) / alpha if reduced else y[:d]
        du = (-beta * u - gamma * (W.T @ (W @ a) - a) + W.T @ z) / field.tau_u
        return du if reduced else np.concatenate([(-alpha * z + W @ a + x) / field.tau_z, du])

    def far(t: float, y: Array) -> float:
        return FAR - float(np.abs(y).max())

    far.terminal = True  # type: ignore[attr-defined]
    found = scipy.integrate.solve_ivp(f, (0, LONG), start, "LSODA", events=far, rtol=1e-8, atol=1e-10)
    return found.y[:, -1], float(np.abs(f(0, found.y[:, -1])).max())


@settings(max_examples=40)
@given(data=st.data(), seed=seeds)
def test_what_comes_to_rest_is_not_said_to_have_no_equilibrium(data: st.DataObject, seed: int) -> None:
    drawn = data.draw(strategies.sparse_fields(strategies.dense(max_d=4, max_atoms=5)))
    share = data.draw(st.sampled_from([0.0, 0.2, 0.9, 1.3]))
    x = signals_for(drawn.dictionary, seed, (2,))
    lam = share * drawn.dictionary.encode(x).abs().amax(-1)
    kind, threshold = type(drawn), "nonnegative" if drawn.nonnegative else "soft"
    field = kind(drawn.dictionary, x, lam, threshold=threshold, **drawn.constants)
    reason = field.instability()
    size = sum(int(np.prod(event)) for event in field.event_shapes)
    ends = [end_of(field, row, 0.1 * normal(seed + row, size).numpy()) for row in range(2)]
    grew = [float(np.abs(end).max()) > 0.9 * FAR for end, _ in ends]
    if reason is None:
        assert not any(grew)
    elif "has no stable equilibrium" in reason:
        # Runs grow slowly if the smallest eigenvalue is nearly zero, but not all may come to rest.
        assert not all(speed < 1e-7 for _, speed in ends)
    else:
        assert "no stable equilibrium is proved" in reason
        # The field does not claim that it diverges, so a run to a time warns, and gives finite states.
        with pytest.warns(UserWarning, match="no stable equilibrium is proved"):
            run = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 1.0]))
        assert all(bool(part.isfinite().all()) for part in run.states)


@given(data=st.data(), seed=seeds)
def test_a_signal_rests_without_a_code_where_it_is_said_to(data: st.DataObject, seed: int) -> None:
    field = data.draw(strategies.sparse_fields(strategies.dense(max_d=4, max_atoms=5)))
    resting = field.rests_without_code()
    assert resting.shape == field.signal_batch
    code = torch.zeros(*field.signal_batch, *field.dictionary.code_shape, dtype=torch.float64)
    state = field.state_at(code)
    still = torch.stack([slope.abs().flatten(len(field.signal_batch)).amax(-1) for slope in field(0.0, state)]).amax(0)
    drive = field.dictionary.encode(field.x)
    drive = drive.amax(-1) if field.nonnegative else drive.abs().amax(-1)
    assume(bool(((drive - field.alpha * field.lam).abs() > 1e-9).all()))
    assert torch.equal(resting, still <= 1e-12 * (1 + float(field.x.abs().max())) * float(field.stiffness().max()))


def test_signals_that_rest_beside_ones_that_grow() -> None:
    # Atoms that point away from each other: codes of one sign cannot grow together.
    P = vd.DenseDictionary(torch.tensor([[1.5, 0.0], [0.0, 1.5]]).double())
    x = torch.tensor([[-1.0, -2.0], [0.1, 0.0], [2.0, 1.0]]).double()
    field = vd.SparseRecurrent(P, x, 0.3, gamma=0.0, beta=1.0, threshold="nonnegative")
    assert field.rests_without_code().tolist() == [True, True, False]
    reason = field.instability()
    assert reason is not None
    assert "no stable equilibrium is proved" in reason
    assert "without a code 2 of 3 signals rest" in reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = vd.integrate(field, field.initial_state(), torch.tensor([0.0, 20.0]))
    wanted = field.state_at(torch.zeros(3, 2).double())
    for part, rest in zip(run.states, wanted, strict=True):
        torch.testing.assert_close(part[-1, :2], rest[:2], rtol=0, atol=1e-6)
        assert float(part[-1, 2].abs().max()) > 100


def test_a_bound_alone_proves_no_divergence() -> None:
    class Loose(vd.DenseDictionary):
        def _lipschitz(self) -> torch.Tensor:
            return 4 * super()._lipschitz()

    weight, x = normal(0, 6, 4), normal(1, 3, 6)
    weight = 0.8 * weight / torch.linalg.matrix_norm(weight, 2)
    assert vd.Recurrent(vd.DenseDictionary(weight), x).instability() is None
    loose = vd.Recurrent(Loose(weight), x).instability()
    assert loose is not None
    assert "no stable equilibrium is proved" in loose
    assert "has no stable equilibrium" in (vd.Recurrent(Loose(1.3 * weight), x).instability() or "")


def test_a_form_that_is_too_large_to_be_written_out_is_integrated_to_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vars_dyn.dynamics.gated._MATRIX_LIMIT", 3)
    field = vd.SparseRecurrent(vd.DenseDictionary(normal(0, 3, 4)), normal(1, 2, 3), 0.3, gamma=0.5, beta=0.6)
    with pytest.warns(UserWarning, match="no stable equilibrium is proved.*too large to be written out, for 4 atoms"):
        vd.integrate(field, field.initial_state(), torch.tensor([0.0, 1.0]))
