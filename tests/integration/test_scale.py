"""Homogeneity: (s x, s lam) has s times the trajectory of (x, lam), in every method, mode, command and layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vars_dyn as vd
from tests.integration.methods import ADAPTIVE_METHODS, STABILISED_METHODS
from tests.references import Array
from tests.strategies import normal, seeds, states_for
from vars_dyn import simulate
from vars_dyn.attention.solving import Ode
from vars_dyn.integration import METHODS, start_of
from vars_dyn.integration.integrate import stream
from vars_dyn.integration.scale import tolerances

TIMES = torch.tensor([0.0, 0.4, 1.1, 2.5], dtype=torch.float64)
SETTINGS = {"explicit_adams": 2e-3, "implicit_adams": 1e-2}
#: Powers of two beyond 1e-30 and 1e30.
exponents = st.integers(-101, 101)
scales = st.one_of(st.floats(-30, 30).map(lambda e: 10.0**e), st.sampled_from([1e-30, 1e-13, 1e-6, 1e6, 1e30]))


def field_for(
    seed: int, scale: float, kind: str = "sparse", dtype: torch.dtype = torch.float64, rows: Tensor | None = None
) -> vd.Field:
    """A field of four signals, one of them zero, times `scale`. `rows` gives each signal a factor of its own."""
    P = vd.DenseDictionary(normal(seed, 5, 7, dtype=dtype) / 2)
    x = normal(seed + 1, 4, 5, dtype=dtype)
    x[1] = 0
    lam = torch.tensor([0.3, 0.2, 0.05, 0.4], dtype=dtype)
    if rows is not None:
        x, lam = x * rows[:, None].to(dtype), lam * rows.to(dtype)
    x, lam = x * scale, lam * scale
    if kind == "recurrent":
        return vd.Recurrent(vd.DenseDictionary(P.weight / 4), x)
    return vd.SparseRecurrent(P, x, lam) if kind == "sparse" else vd.Reduced(P, x, lam, threshold="nonnegative")


def run(field: vd.Field, scale: float, method: str, start: int | None = None, **options: object) -> vd.Trajectory:
    state = (
        field.initial_state() if start is None else tuple(scale * s.to(field.x.dtype) for s in states_for(field, start))
    )
    times = 0.02 * TIMES if "adams" in method else TIMES
    return vd.integrate(field, state, times, method=method, **options)


# The implicit Adams method warns if it stops its inner iteration early, which happens equally at every scale.
@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=4)
@given(
    seed=seeds,
    power=exponents,
    kind=st.sampled_from(["sparse", "reduced", "recurrent"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    gap=st.sampled_from([None, 1e-3]),
    own=st.booleans(),
)
def test_powers_of_two_change_no_bit(
    method: str, seed: int, power: int, kind: str, dtype: torch.dtype, gap: float | None, own: bool
) -> None:
    if "adams" in method:
        gap = None
    scale, options = 2.0**power, {"rtol": 1e-4, "gap": gap}
    start = seed if own else None
    one = run(field_for(seed, 1.0, kind, dtype), 1.0, method, start, **options)
    other = run(field_for(seed, scale, kind, dtype), scale, method, start, **options)
    assert one.statistics == other.statistics
    for part, wanted in zip(other.states, one.states, strict=True):
        assert bool(part.isfinite().all())
        assert torch.equal(part, wanted * scale)


@pytest.mark.parametrize("method", [*ADAPTIVE_METHODS, *STABILISED_METHODS, "rk4"])
@settings(max_examples=4)
@given(seed=seeds, scale=scales, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_any_factor_changes_nothing_but_rounding(method: str, seed: int, scale: float, dtype: torch.dtype) -> None:
    rtol = 1e-5 if method in ("dopri5", "dopri8", "auto") else 1e-4
    one = run(field_for(seed, 1.0, dtype=dtype), 1.0, method, rtol=rtol)
    other = run(field_for(seed, scale, dtype=dtype), scale, method, rtol=rtol)
    for part, wanted in zip(other.states, one.states, strict=True):
        size = wanted.double().abs().amax((0, 2), keepdim=True)
        assert bool(((part.double() / scale - wanted.double()).abs() <= 100 * rtol * size).all())


@pytest.mark.parametrize("method", [*ADAPTIVE_METHODS, *STABILISED_METHODS])
@settings(max_examples=4)
@given(seed=seeds, powers=st.lists(st.floats(-30, 30), min_size=4, max_size=4))
def test_quiet_signals_are_as_accurate_as_loud_ones_beside_them(method: str, seed: int, powers: list[float]) -> None:
    rows = 10.0 ** torch.tensor(powers, dtype=torch.float64)
    rtol = 1e-5 if method in ("dopri5", "dopri8", "auto") else 1e-4
    one = run(field_for(seed, 1.0), 1.0, method, rtol=rtol / 10, atol=1e-9)
    mixed = run(field_for(seed, 1.0, rows=rows), 1.0, method, rtol=rtol)
    for part, wanted in zip(mixed.states, one.states, strict=True):
        size = wanted.abs().amax((0, 2), keepdim=True)
        assert bool(((part / rows[:, None] - wanted).abs() <= 100 * rtol * size).all())


def test_microvolts_are_as_good_as_volts() -> None:
    # SciPy's run at scale 1 is the reference. With an absolute tolerance of 1e-8 the error was 1 % at a scale of 1e-6,
    # and unbounded at 1e-13.
    import scipy.integrate

    field = field_for(3, 1.0)
    W, theta = field.dictionary.weight.numpy(), (field.lam / 2).numpy()  # type: ignore[union-attr]

    def f(t: float, y: Array, row: int) -> Array:
        z, u = y[:5], y[5:]
        a = np.sign(u) * np.maximum(np.abs(u) - theta[row], 0)
        return np.concatenate([-z + W @ a + field.x[row].numpy(), -2 * u - 2 * (W.T @ (W @ a) - a) + W.T @ z])

    for row in (0, 2):
        start = np.concatenate([field.x[row].numpy(), np.zeros(7)])
        exact = scipy.integrate.solve_ivp(f, (0, 2.5), start, "DOP853", args=(row,), rtol=1e-12, atol=1e-13).y[:, -1]
        for scale in (1e-200, 1e-30, 1e-13, 1e-6, 1.0, 1e6, 1e30, 1e200):
            found = run(field_for(3, scale), scale, "dopri5")
            z, u = (part[-1, row].numpy() / scale for part in found.states)
            np.testing.assert_allclose(np.concatenate([z, u]), exact, atol=2e-5)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-12])
def test_potentials_that_are_held_small_have_tolerances_of_their_own(size: float) -> None:
    # If all units stay below their threshold, u comes to rest at P^T x / (alpha beta), and z at x / alpha.
    W, x = normal(0, 5, 7) / 2, normal(1, 2, 5)
    drive, lam = x @ W, 10.0
    for field, alpha, end in (
        (vd.SparseRecurrent(vd.DenseDictionary(size * W), x, lam * size), 1.0, 40.0),
        (vd.Reduced(vd.DenseDictionary(size * W), x, lam * size), 1.0, 40.0),
        (vd.SparseRecurrent(vd.DenseDictionary(W), x, lam, alpha=2 / size, beta=2.0), 2 / size, None),
    ):
        # The runs are long enough to come to rest. With the large alpha only z comes to rest, since u is slow.
        found = vd.integrate(field, field.initial_state(), torch.tensor([0.0, end or 40 / alpha]))
        if end:
            u = found.states[-1][-1]
            torch.testing.assert_close(u / size, drive / 2, rtol=0, atol=1e-4 * float(drive.abs().max()))
        else:
            torch.testing.assert_close(found.states[0][-1] * alpha, x, rtol=0, atol=1e-4)


def test_states_beyond_the_dtype_are_an_error() -> None:
    # The equilibrium is at 1e39, which float32 cannot hold.
    field = vd.FeedForward(torch.full((2, 3), 1e38), alpha=0.1)
    with pytest.raises(vd.IntegrationError, match="the state grows out of range"):
        vd.integrate(field, field.initial_state(), torch.tensor([0.0, 50.0]))


def test_tolerances_come_from_the_field_alone() -> None:
    P = vd.DenseDictionary(normal(0, 5, 7))
    x = torch.stack([torch.ones(5), 1e-9 * torch.ones(5), torch.zeros(5), torch.zeros(5)]).double()
    field = vd.SparseRecurrent(P, x, torch.tensor([0.3, 0.3, 0.2, 0.0]).double())
    for part in tolerances(field, 1e-8):
        torch.testing.assert_close(part, torch.tensor([1e-8, 1e-17, 2e-9, 1e-8]).double())
    assert tolerances(vd.SparseRecurrent(P, 0 * x, 0.0), 1e-8) == (1e-8, 1e-8)


@pytest.mark.parametrize("power", [-90, 90])
def test_a_quiet_run_resumes_to_the_same_bits(power: int) -> None:
    field = field_for(5, 2.0**power)
    whole = list(stream(field, start_of(field, field.initial_state()), TIMES[1:], chunk=1))
    resumed = list(stream(field, whole[0][2], TIMES[2:], chunk=1))
    plainly = field_for(5, 1.0)
    reference = list(stream(plainly, start_of(plainly, plainly.initial_state()), TIMES[1:], chunk=1))
    for (_, states, snapshot), (_, wanted, after), (_, plain, _) in zip(resumed, whole[1:], reference[1:], strict=True):
        assert snapshot.statistics == after.statistics
        assert snapshot.step == after.step
        for a, b, c in zip(states, wanted, plain, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c * 2.0**power)


@pytest.mark.parametrize("mode", ["backprop", "checkpoint", "adjoint"])
@settings(max_examples=4)
@given(seed=seeds, scale=st.floats(-30, 30).map(lambda e: 10.0**e))
def test_gradients_are_homogeneous(mode: str, seed: int, scale: float) -> None:
    def gradients(s: float) -> tuple[Tensor, ...]:
        field = field_for(seed, s)
        x, lam = field.x.detach().requires_grad_(), field.lam.detach().requires_grad_()
        weight = field.dictionary.tensors()[0].detach().requires_grad_()
        field = vd.SparseRecurrent(vd.DenseDictionary(weight), x, lam)
        path = vd.integrate(field, field.initial_state(), TIMES, rtol=1e-6, gradient=mode)
        loss = sum((part * normal(seed + 7, *part.shape)).sum() for part in path.states)
        return torch.autograd.grad(loss, (x, lam, weight))

    one, other = gradients(1.0), gradients(scale)
    for value, wanted, power in zip(other, one, (0, 0, 1), strict=True):
        torch.testing.assert_close(value / scale**power, wanted, rtol=0, atol=0.02 * float(wanted.abs().max()))


@settings(max_examples=4)
@given(seed=seeds, powers=st.lists(st.floats(-12, 12), min_size=4, max_size=4))
def test_the_adjoint_of_quiet_signals_is_as_accurate_as_that_of_loud_ones(seed: int, powers: list[float]) -> None:
    rows = 10.0 ** torch.tensor(powers, dtype=torch.float64)

    def gradient(rows: Tensor, mode: str) -> Tensor:
        field = field_for(seed, 1.0, rows=rows)
        x = field.x.detach().requires_grad_()
        path = vd.integrate(
            vd.SparseRecurrent(field.dictionary, x, field.lam),
            (x, x.new_zeros(4, 7)),
            TIMES,
            gradient=mode,
        )
        return torch.autograd.grad(sum(part.square().sum() for part in path.states), x)[0]

    found, wanted = gradient(rows, "adjoint"), gradient(rows, "backprop")
    for a, b in zip(found[[0, 2, 3]], wanted[[0, 2, 3]], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.02 * float(b.abs().max()))


def test_second_derivatives_of_a_quiet_run_are_right() -> None:
    def slope(scale: float) -> Tensor:
        field = field_for(2, scale)
        x = field.x.detach().requires_grad_()
        field = vd.SparseRecurrent(field.dictionary, x, field.lam)
        path = vd.integrate(field, field.initial_state(), TIMES, method="rk4", step=0.05)
        (first,) = torch.autograd.grad(path.states[1][-1].pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad((first * normal(4, 4, 5)).sum(), x)[0]

    torch.testing.assert_close(slope(2.0**-60) * 2.0**60, slope(1.0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e20])
def test_the_layers_solver_is_homogeneous(scale: float) -> None:
    P, x = vd.DenseDictionary(normal(0, 6, 9, dtype=torch.float32) / 2), normal(1, 3, 6, dtype=torch.float32)
    for method in ("dopri5", "rkc", "rk4"):
        one, other = (
            Ode(method=method, horizon=2.0)(vd.SparseProblem(P, s * x, 0.2 * s)).double() for s in (1.0, scale)
        )
        torch.testing.assert_close(other / scale, one, rtol=0, atol=1e-3)


def test_a_recorded_run_is_homogeneous_and_says_what_its_tolerance_means(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", normal(0, 3, 5).numpy())
    np.save(tmp_path / "quiet.npy", 2.0**-90 * normal(0, 3, 5).numpy())
    np.save(tmp_path / "w.npy", (normal(1, 5, 7) / 2).numpy())
    for name, lam in (("one", 0.25), ("quiet", 0.25 * 2.0**-90)):
        arguments = [str(tmp_path / f"{name}.npy"), "--dictionary", str(tmp_path / "w.npy"), "--lam", repr(lam)]
        more = ["--t-max", "3", "--out", str(tmp_path / f"{name}.zarr"), "--record", "z,u"]
        assert simulate.main([*arguments, *more]) in (0, 1)
    one, quiet = (xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False) for name in ("one", "quiet"))
    np.testing.assert_array_equal(quiet["u"].values, 2.0**-90 * one["u"].values)
    assert "size" in vd.facts(one)["atol_relative_to"]
