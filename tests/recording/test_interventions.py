"""Recorded interventions, noise and monitors: the record carries them, and a killed run ends with the same bits."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import vars_dyn as vd
from tests.recording.helpers import assert_same_bits, even, small_field
from vars_dyn.interventions import Course, with_interventions
from vars_dyn.recording import facts, to_dataset
from vars_dyn.recording.integrity import read_attributes

ACTS = [
    vd.Silence(atoms=[3], start=1.1, stop=6.0),
    vd.Clamp(Course([1.0, 3.0, 5.0], [0.0, 1.0, 0.5], between="linear"), neurons=[2], start=1.0, stop=8.0),
    vd.Inject(0.3, atoms=[1], start=2.0, stop=4.0),
]
NOISE = vd.Noise(u=0.1, z=0.05, seed=4)


def record_noisily(store: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    vd.record(small_field(), store, even(6.0), chunk=2, resume=resume, interventions=ACTS, noise=NOISE)


def test_certificates_are_those_of_the_moment(tmp_path: Path) -> None:
    field = small_field()
    run = vd.record(field, tmp_path / "run.zarr", even(10.0), interventions=ACTS)
    acting = with_interventions(field, ACTS)
    for k, now in enumerate(run.time.to_numpy().tolist()):
        here = acting.at(now)
        state = (torch.from_numpy(run.z[k].to_numpy()), torch.from_numpy(run.u[k].to_numpy()))
        np.testing.assert_array_equal(run.code[k], here.code(state))
        np.testing.assert_array_equal(run.lyapunov[k], here.lyapunov(state))
        np.testing.assert_array_equal(run.gap[k], here.problem().gap(here.unknowns(state)))
    # The current into an atom of an overcomplete dictionary has a certificate too.
    assert bool(run.gap.notnull().all())
    assert float(abs(run.code.sel(time=slice(1.2, 5.9))[..., 3]).max()) == 0
    np.testing.assert_allclose(run.z.sel(time=2.0)[..., 2], 0.5, rtol=0, atol=1e-12)
    memory = to_dataset(acting, vd.integrate(acting, field.initial_state(), even(10.0)))
    assert bool(memory.gap.notnull().all())


def test_the_record_carries_what_was_done_and_refuses_to_go_on_without(tmp_path: Path) -> None:
    field, store = small_field(), tmp_path / "run.zarr"
    run = vd.record(field, store, even(2.0), interventions=ACTS, noise=NOISE)
    found = json.loads(run.provenance.item())
    assert found["interventions"] == [each.parameters() for each in ACTS]
    assert found["noise"] == NOISE.parameters()
    with pytest.raises(ValueError, match="another interventions"):
        vd.record(field, store, even(3.0), noise=NOISE, resume=True)
    with pytest.raises(ValueError, match="another noise"):
        vd.record(field, store, even(3.0), interventions=ACTS, noise=vd.Noise(u=0.1, z=0.05, seed=5), resume=True)
    plain = vd.record(field, tmp_path / "plain.zarr", even(1.0))
    assert (facts(plain)["interventions"], facts(plain)["noise"]) == ("none", "none")


def test_a_monitor_stops_the_run_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    field = small_field()
    whole = vd.record(field, tmp_path / "whole.zarr", even(6.0), chunk=4)
    run = vd.record(
        field, tmp_path / "run.zarr", even(6.0), chunk=4, monitor=lambda now: "enough" if now.time > 2 else None
    )
    assert run.status == "stopped: enough"
    assert 2 < float(run.time[-1]) < 4
    np.testing.assert_array_equal(run.z, whole.z[: len(run.time)])
    assert_same_bits(vd.record(field, tmp_path / "run.zarr", even(6.0), chunk=4, resume=True), whole)


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    record_noisily(tmp_path / "whole.zarr", False)
    whole, store = vd.open_dataset(tmp_path / "whole.zarr"), tmp_path / "run.zarr"
    process = multiprocessing.get_context("fork").Process(target=record_noisily, args=(store, False))
    process.start()
    while process.is_alive() and read_attributes(store).get("snapshot_index", 0) < 5:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    record_noisily(store, True)
    assert_same_bits(vd.open_dataset(store), whole)
