"""Recordings under a stimulus: what they hold, and that an interrupted run goes on to the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vars_dyn as vd
from tests.strategies import normal
from vars_dyn.recording import Progress

S = vd.stimuli
SCREEN = S.Screen(3, 4, pixels_per_degree=4.0)
TIMES = 0.25 * torch.arange(17, dtype=torch.float64)


class StopError(Exception):
    """The run is interrupted."""


def movie() -> vd.stimuli.Stimulus:
    grating = S.Grating(SCREEN, temporal_frequency=5.0)
    noise = S.Noise(SCREEN, rate=120.0, frames=4, seed=3, contrast=0.4)
    return S.Stack(S.Sum(grating, noise), S.Flash(grating, onset_ms=7.0, duration_ms=16.0))


def field_of(stimulus: vd.stimuli.Stimulus | torch.Tensor, lam: float = 0.3) -> vd.SparseRecurrent:
    weight = torch.nn.functional.normalize(normal(7, 12, 20), dim=0)
    return vd.SparseRecurrent(vd.DenseDictionary(weight), stimulus, lam)


def stop_at(time: float) -> object:
    def progress(now: Progress) -> None:
        if now.time >= time:
            raise StopError

    return progress


@pytest.mark.parametrize(
    "stimulus", [movie, lambda: S.Sampled(normal(1, 5, 2, 12), [0.0, 0.7, 1.1, 2.9, 3.3], "linear")]
)
def test_an_interrupted_run_goes_on_to_the_same_bits(stimulus: object, tmp_path: Path) -> None:
    options = {"rtol": 1e-3, "chunk": 4}
    whole = vd.record(field_of(stimulus()), tmp_path / "whole.zarr", TIMES, **options)
    with pytest.raises(StopError):
        vd.record(field_of(stimulus()), tmp_path / "cut.zarr", TIMES, progress=stop_at(2.0), **options)
    resumed = vd.record(field_of(stimulus()), tmp_path / "cut.zarr", TIMES, resume=True, **options)
    for name in ("x", "z", "u", "code", "gap", "relative_gap", "lyapunov", "x_end", "z_end", "evaluations"):
        np.testing.assert_array_equal(whole[name].to_numpy(), resumed[name].to_numpy())


def test_the_recorded_gap_is_that_to_the_problem_of_each_time(tmp_path: Path) -> None:
    field = field_of(movie())
    run = vd.record(field, tmp_path / "run.zarr", TIMES, rtol=1e-4, every=4)
    assert "tracking gap" in run["relative_gap"].attrs["long_name"]
    for k, time in enumerate(run["time"].to_numpy()):
        x = field.stimulus(time).reshape(2, 12)
        np.testing.assert_array_equal(run["x"][k].to_numpy(), x.numpy())
        problem = vd.SparseProblem(field.dictionary, x, field.lam)
        code = torch.from_numpy(run["code"][k].to_numpy())
        np.testing.assert_allclose(run["relative_gap"][k], problem.relative_gap(code).numpy(), rtol=1e-12)
        np.testing.assert_allclose(run["gap"][k], problem.gap(code).numpy(), rtol=1e-12)
    residual = np.abs(run["x_end"].to_numpy() - field.stimulus(4.0).reshape(2, 12).numpy())
    assert residual.max() == 0


def test_a_stimulus_is_kept_by_its_parameters_and_arrays_by_value(tmp_path: Path) -> None:
    facts = vd.facts(vd.record(field_of(movie()), tmp_path / "a.zarr", TIMES[:3], rtol=1e-3))
    grating = facts["stimulus"]["parts"][0]["parts"][0]
    assert (grating["stimulus"], grating["temporal_frequency"], facts["tau_ms"]) == ("Grating", 5.0, 10.0)
    sampled = S.Sampled(normal(1, 2, 12), [0.0, 0.2])
    run = vd.record(field_of(sampled), tmp_path / "b.zarr", TIMES[:3], rtol=1e-3)
    np.testing.assert_array_equal(run["stimulus_0"].to_numpy(), sampled.values.numpy())
    assert vd.facts(run)["stimulus"]["times"] == [0.0, 0.2]


def test_a_store_is_not_resumed_with_another_stimulus(tmp_path: Path) -> None:
    phase = torch.zeros(12, dtype=torch.float64)

    def course(t: float, phase: torch.Tensor) -> torch.Tensor:
        return torch.cos(phase + t)

    def run(speed: float, resume: bool) -> None:
        function = S.Function(lambda t, p: course(speed * t, p), like=phase + 1, tensors=[phase])
        vd.record(field_of(function), tmp_path / "a.zarr", TIMES[:3], rtol=1e-3, resume=resume)

    run(1.0, resume=False)
    run(1.0, resume=True)
    with pytest.raises(ValueError, match="cannot be resumed with another signals_sha256"):
        run(1.1, resume=True)


def test_a_still_field_has_no_moving_x_to_record(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x cannot be recorded: x does not move"):
        vd.record(field_of(normal(1, 2, 12)), tmp_path / "a.zarr", TIMES[:3], variables=["x"])


def test_a_trajectory_in_memory_becomes_the_same_dataset(tmp_path: Path) -> None:
    field, times = field_of(movie()), TIMES[:9]
    stored = vd.record(field, tmp_path / "a.zarr", times, rtol=1e-4, chunk=64)
    found = vd.to_dataset(field, vd.integrate(field, field.initial_state(), times, rtol=1e-4))
    for name in ("x", "z", "relative_gap", "x_end"):
        np.testing.assert_array_equal(found[name].to_numpy(), stored[name].to_numpy())
