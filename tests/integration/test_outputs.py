"""States at output times between steps are as accurate as those at the ends of steps."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vars_dyn as vd
from tests.integration.methods import ADAPTIVE_METHODS, STABILISED_METHODS
from tests.references import Array
from tests.strategies import normal, seeds, signals_for

END = 4.0


def exact(field: vd.SparseRecurrent, times: Array) -> Array:
    """SciPy's states of all signals at `times`, with an error of about 1e-12."""
    W, theta = field.dictionary.weight.numpy(), (field.lam / 2).numpy()
    d, n = W.shape
    x = field.x.numpy()

    def f(t: float, y: Array) -> Array:
        parts = y.reshape(len(x), d + n)
        z, u = parts[:, :d], parts[:, d:]
        a = np.sign(u) * np.maximum(np.abs(u) - theta[:, None], 0)
        du = -2 * u - 2 * ((a @ W.T) @ W - a) + z @ W
        return np.concatenate([-z + a @ W.T + x, du], 1).ravel()

    start = np.concatenate([x, np.zeros((len(x), n))], 1).ravel()
    found = scipy.integrate.solve_ivp(f, (0, END), start, "DOP853", times, rtol=1e-12, atol=1e-12, max_step=0.04)
    return found.y.T.reshape(len(times), len(x), d + n)


@pytest.mark.parametrize("method", [*ADAPTIVE_METHODS, *STABILISED_METHODS])
@settings(max_examples=4)
@given(seed=seeds, share=st.sampled_from([0.02, 0.2]), count=st.integers(1, 20))
def test_outputs_between_steps_are_as_accurate_as_steps(method: str, seed: int, share: float, count: int) -> None:
    P = vd.DenseDictionary(normal(seed, 5, 7) / 2)
    x = signals_for(P, seed + 1, (2,))
    field = vd.SparseRecurrent(P, x, share * P.encode(x).abs().amax(-1))
    inside = (END * torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).clamp(1e-3)
    times = torch.cat([torch.tensor([0.0, END], dtype=torch.float64), inside]).unique()
    rtol = 1e-4 if method in ("fehlberg2", "adaptive_heun", "rkc") else 1e-6

    def run(at: torch.Tensor) -> Array:
        found = vd.integrate(field, field.initial_state(), at, method=method, rtol=rtol, atol=rtol)
        return torch.cat(found.states, -1).numpy()

    wanted = exact(field, times.numpy())
    errors = np.abs(run(times) - wanted).max((1, 2))
    # A run to one time ends a step there. These are the errors of such runs to the worst time and to the last one.
    ends = [np.abs(run(times[[0, i]])[-1] - wanted[i]).max() for i in (int(errors.argmax()), -1) if i]
    assert errors.max() <= 10 * (max(ends) + rtol)
