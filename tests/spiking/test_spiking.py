"""The averaged spikes come within the proved bound of the certified code, for problems of every kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

import vars_dyn as vd
from tests import strategies
from vars_dyn.spiking import by_unit, filtered, neurons
from vars_dyn.spiking.events import advance, initial_state

UNBATCHED = st.one_of(strategies.dense(), strategies.conv(max_side=5), strategies.fourier())
SHARES = st.sampled_from([0.05, 0.3, 0.8, 1.2])


def case(seed: int = 0, d: int = 8, atoms: int = 12, signals: int = 5) -> tuple[vd.DenseDictionary, torch.Tensor]:
    weight = torch.nn.functional.normalize(strategies.normal(seed, d, atoms), dim=0)
    return vd.DenseDictionary(weight), strategies.normal(seed + 1, signals, d)


@settings(max_examples=25, deadline=None)
@given(
    UNBATCHED,
    strategies.seeds,
    st.sampled_from([0.05, 0.3, 0.8, 1.2]),
    st.booleans(),
    st.sampled_from([0.4, 7.0, 60.0]),
)
def test_the_objective_and_the_dual_are_within_their_bounds(
    dictionary: vd.Dictionary, seed: int, share: float, nonnegative: bool, time: float
) -> None:
    x = strategies.signals_for(dictionary, seed, (3,))
    critical = vd.SparseProblem(dictionary, x, 1.0, nonnegative=nonnegative).critical_lam()
    lam = share * critical.clamp(min=1e-3)
    fast = vd.SpikingLCA(dictionary, x, lam, nonnegative=nonnegative)
    state, _ = advance(fast, initial_state(fast), time)
    code = fast.code(time, state.counts)
    problem = fast.problem
    best = vd.solve(problem, tol=1e-12)
    least = problem.objective(best.code) - problem.gap(best.code)
    size = 0.5 * problem.sum_signal(x.square())
    assert bool((problem.objective(code) - least <= fast.bound(time, code) + 1e-8 * size).all())
    # max_i (P^T r)_i <= lam + theta / T, and |P (a - a*)|^2 <= 2 c / T with the c of the true code.
    pull = dictionary.encode(problem.residual(code)).reshape(3, -1)
    pull = pull if nonnegative else torch.cat([pull, -pull], -1)
    theta = torch.where(fast.threshold.isfinite(), fast.threshold, 0.0)
    assert bool((pull <= lam[:, None] + theta / time + 1e-9 * (1 + pull.abs())).all())
    apart = problem.sum_signal(dictionary.decode(code - best.code).square())
    parts = best.code.reshape(3, -1)
    parts = parts if nonnegative else torch.cat([parts, -parts], -1)
    cost = (theta * parts.clamp(min=0)).sum(-1)
    assert bool((apart <= 2 * cost / time + 1e-6 * size).all())


@settings(max_examples=20, deadline=None)
@given(strategies.seeds, st.booleans(), st.floats(0.3, 30.0))
def test_the_potential_is_the_negative_gradient_of_the_averaged_code(seed: int, nonnegative: bool, time: float) -> None:
    dictionary, x = case(seed)
    cells = vd.SpikingLCA(dictionary, x, 0.3, nonnegative=nonnegative)
    state, _ = advance(cells, initial_state(cells), time)
    pull = dictionary.encode(cells.problem.residual(cells.code(time, state.counts)))
    gradient = (pull if nonnegative else torch.cat([pull, -pull], -1)) - 0.3
    torch.testing.assert_close(state.potential / time, gradient, rtol=0, atol=1e-10)
    assert bool((state.potential <= cells.threshold * (1 + 1e-9)).all())


def one_by_one(weight: np.ndarray, x: np.ndarray, lam: float, leak: float, end: float, quantum: float) -> list[tuple]:
    """The spikes of one signal with on and off units, by the definition and in plain loops."""
    both = np.concatenate([weight, -weight], 1)
    gram = both.T @ both
    theta = quantum * np.diag(gram)
    drive = both.T @ x - lam + leak * theta
    v, now, found = np.zeros(len(drive)), 0.0, []
    while True:
        waits = []
        for i in range(len(v)):
            if v[i] >= theta[i]:
                waits.append(0.0)
            elif leak == 0:
                waits.append((theta[i] - v[i]) / drive[i] if drive[i] > 0 else math.inf)
            else:
                level = drive[i] / leak
                waits.append(math.log((level - v[i]) / (level - theta[i])) / leak if level > theta[i] else math.inf)
        i = int(np.argmin(waits))
        if now + waits[i] > end:
            return found
        now += waits[i]
        v = v + drive * waits[i] if leak == 0 else drive / leak + (v - drive / leak) * math.exp(-leak * waits[i])
        v = v - quantum * gram[i]
        found.append((now, i % weight.shape[1], 1 if i < weight.shape[1] else -1))


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_the_spikes_are_those_of_the_definition(leak: float) -> None:
    dictionary, x = case(3)
    run = vd.spike(vd.SpikingLCA(dictionary, x, 0.4, leak=leak), 20.0, every=5.0)
    for k in range(len(x)):
        own = run.spike_signal.values == k
        expected = one_by_one(dictionary.weight.numpy(), x[k].numpy(), 0.4, leak, 20.0, float(run.quantum[k]))
        assert own.sum() == len(expected) > 10
        np.testing.assert_allclose(run.spike_time.values[own], [s[0] for s in expected], rtol=1e-9)
        np.testing.assert_array_equal(run.spike_atom.values[own], [s[1] for s in expected])
        np.testing.assert_array_equal(run.spike_sign.values[own], [s[2] for s in expected])


def test_one_unit_fires_at_the_times_known_in_closed_form() -> None:
    one = vd.DenseDictionary(torch.tensor([[2.0]], dtype=torch.float64))
    x = torch.tensor([[1.5]], dtype=torch.float64)
    run = vd.spike(vd.SpikingLCA(one, x, 1.0, quantum=0.25, nonnegative=True), 5.0, every=5.0)
    np.testing.assert_allclose(run.spike_time, 0.25 * 4 / 2 * np.arange(1, 11))  # theta = q |P|^2, drive = 3 - 1
    leaky = vd.spike(vd.SpikingLCA(one, x, 1.0, quantum=0.25, nonnegative=True, leak=0.8), 5.0, every=5.0)
    level = (2.0 + 0.8 * 1.0) / 0.8
    apart = math.log(level / (level - 1.0)) / 0.8
    np.testing.assert_allclose(leaky.spike_time, apart * np.arange(1, 1 + int(5.0 / apart)))


def test_the_code_is_that_of_scikit_learn_and_the_error_falls_as_one_over_the_time() -> None:
    dictionary, x = case(7, d=10, atoms=16, signals=8)
    run = vd.spike(vd.SpikingLCA(dictionary, x, 0.3), 800.0, every=50.0)
    weight = dictionary.weight.numpy()
    peer = Lasso(alpha=0.3 / len(weight), fit_intercept=False, tol=1e-12, max_iter=100_000)
    codes = np.stack([peer.fit(weight, signal).coef_ for signal in x.numpy()])
    error = np.abs(run.code.values - codes).max(-1)
    assert error[-1].max() < 0.04
    best = np.array(
        [0.5 * np.sum((weight @ a - s) ** 2) + 0.3 * np.abs(a).sum() for a, s in zip(codes, x.numpy(), strict=True)]
    )
    excess = run.objective.values - best
    assert bool((excess > -1e-9).all())
    times = run.time.values
    assert -1.3 < np.polyfit(np.log(times), np.log(np.median(error, 1)), 1)[0] < -0.7
    assert (
        np.polyfit(np.log(times), np.log(np.median(excess, 1)), 1)[0] < -0.8
    )  # 1 / T, or 1 / T^2 on the right support
    assert bool((excess <= run.bound.values).all())
    assert bool((excess <= run.gap.values + 1e-12).all())


def test_units_with_less_input_than_lam_never_fire() -> None:
    dictionary, x = case(2)
    for leak in (0.0, 0.1):
        cells = vd.SpikingLCA(dictionary, x, 1.01 * vd.SparseProblem(dictionary, x, 1.0).critical_lam(), leak=leak)
        run = vd.spike(cells, 200.0, every=200.0)
        assert run.sizes["spike"] == 0
        assert float(run.relative_gap.max()) < 1e-12


def test_spike_times_do_not_change_with_the_unit_of_the_signals() -> None:
    dictionary, x = case(4)
    small, large = (vd.spike(vd.SpikingLCA(dictionary, s * x, s * 0.3), 30.0, every=10.0) for s in (1.0, 1024.0))
    np.testing.assert_array_equal(small.spike_time, large.spike_time)
    np.testing.assert_array_equal(1024 * small.code, large.code)


def test_a_leak_leaves_a_bias_that_falls_with_the_quantum() -> None:
    dictionary, x = case(5)
    problem = vd.SparseProblem(dictionary, x[:3], 0.3)
    best = problem.objective(vd.solve(problem, tol=1e-12).code).numpy()
    excess = []
    for quantum in (0.3, 0.05):
        run = vd.spike(vd.SpikingLCA(dictionary, x[:3], 0.3, leak=1.0, quantum=quantum), 60.0, every=60.0)
        excess.append(float((run.objective.values - best).max()))
        assert bool(np.isinf(run.bound).all())
    assert excess[1] < 0.3 * excess[0]


def test_a_wide_dictionary_needs_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = vd.ConvDictionary(strategies.normal(0, 3, 1, 3, 3) / 3, (1, 5, 5), padding=1)
    x = strategies.normal(1, 2, 1, 5, 5)
    dense = vd.spike(vd.SpikingLCA(bank, x, 0.2), 20.0, every=20.0)
    monkeypatch.setattr(neurons, "_MOST_ATOMS", 0)
    matrix_free = vd.spike(vd.SpikingLCA(bank, x, 0.2), 20.0, every=20.0)
    np.testing.assert_allclose(dense.spike_time, matrix_free.spike_time, rtol=1e-9)
    np.testing.assert_array_equal(dense.spike_atom, matrix_free.spike_atom)
    assert dense.code.dims == ("time", "signal", "channel", "y", "x")


def test_the_rows_of_units_hold_all_spikes_and_no_other() -> None:
    dictionary, x = case(6)
    run = vd.spike(vd.SpikingLCA(dictionary, x, 0.3), 40.0, every=10.0)
    rows = by_unit(run)
    assert int(rows.offset[-1]) == run.sizes["spike"]
    for k in (0, 17, 60, len(rows.unit) - 1):
        signal, atom, sign = (int(rows[name][k]) for name in ("signal", "atom", "sign"))
        own = (run.spike_signal == signal) & (run.spike_atom == atom) & (run.spike_sign == sign)
        start, end = rows.offset.values[k : k + 2]
        np.testing.assert_array_equal(rows.spike_time[start:end], run.spike_time[own])
    counts = (rows.spike_count * rows.sign).values.reshape(len(x), -1, 2).sum(-1)
    np.testing.assert_allclose(counts * run.quantum.values[:, None] / 40.0, run.code[-1], atol=1e-12)
    assert bool((np.diff(run.spike_end) > 0).all())
    first = run.spike_time.values[: int(run.spike_end[0])]
    assert first.max() <= 10.0 < run.spike_time.values[int(run.spike_end[0])]


def test_filtered_trains_are_sums_of_exponentials_and_settle_near_the_code() -> None:
    dictionary, x = case(8)
    run = vd.spike(vd.SpikingLCA(dictionary, x[:3], 0.3, quantum=0.1), 100.0, every=100.0)
    seen = filtered(run, [3.0, 50.0, 100.0], tau=10.0, signal=2)
    own = (run.spike_signal == 2).values
    for at, value in zip((3.0, 50.0, 100.0), seen.values, strict=True):
        expected = np.zeros(12)
        for t, atom, sign in zip(
            run.spike_time.values[own], run.spike_atom.values[own], run.spike_sign.values[own], strict=True
        ):
            if t <= at:
                expected[atom] += 0.1 * sign * math.exp(-(at - t) / 10.0) / 10.0
        np.testing.assert_allclose(value, expected, atol=1e-12)
    exact = vd.solve(vd.SparseProblem(dictionary, x, 0.3), tol=1e-10).code[2].numpy()
    assert np.abs(seen[-1].values - exact).max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lam": -1.0}, "lam"),
        ({"quantum": 0.0}, "quantum holds 0.0"),
        ({"leak": -0.1}, "leak"),
        ({"leak": 1.0, "quantum": 1.0}, "a smaller quantum"),
        ({"leak": 1.0, "lam": 0.0}, "lam down to 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], sentence: str) -> None:
    dictionary, x = case()
    with pytest.raises(ValueError, match=sentence):
        vd.SpikingLCA(dictionary, x, **{"lam": 0.3, **arguments})


def test_other_dtypes_batches_and_times_are_refused() -> None:
    dictionary, x = case()
    with pytest.raises(ValueError, match="float64 is wanted"):
        vd.SpikingLCA(dictionary.to(dtype=torch.float32), x.float())
    with pytest.raises(ValueError, match="batch_shape"):
        vd.SpikingLCA(vd.DenseDictionary(dictionary.weight[None]), x[None])
    cells = vd.SpikingLCA(dictionary, x)
    for wrong in ({"t_max": 15.0}, {"t_max": -1.0}, {"t_max": 10.0, "every": 0.0}, {"t_max": 10.0, "resume": True}):
        with pytest.raises(ValueError, match="wanted"):
            vd.spike(cells, **wrong)


def test_zero_signals_and_zero_atoms_stay_silent() -> None:
    weight = torch.cat([strategies.normal(0, 4, 3), torch.zeros(4, 1, dtype=torch.float64)], 1)
    x = torch.cat([strategies.normal(1, 1, 4), torch.zeros(1, 4, dtype=torch.float64)])
    for lam in (0.0, 0.1):
        run = vd.spike(vd.SpikingLCA(vd.DenseDictionary(weight), x, lam), 50.0, every=50.0)
        assert not bool((run.spike_atom == 3).any())
        assert not bool((run.spike_signal == 1).any())
        assert run.sizes["spike"] > 0
