"""A store of spikes holds the run's bits, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import vars_dyn as vd
from tests import strategies
from vars_dyn.spiking import run as running


def cells(seed: int = 0, lam: float = 0.3, leak: float = 0.0) -> vd.SpikingLCA:
    weight = torch.nn.functional.normalize(strategies.normal(seed, 6, 10), dim=0)
    return vd.SpikingLCA(vd.DenseDictionary(weight), strategies.normal(seed + 1, 3, 6), lam, leak=leak)


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    assert set(one.variables) == set(other.variables)
    for name in one.variables:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=str(name))
        assert one[name].attrs == other[name].attrs


class StopError(Exception):
    """What stands for an interruption."""


@pytest.mark.parametrize("leak", [0.0, 0.1])
def test_an_interrupted_run_ends_with_the_same_bits(
    leak: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vd.spike(cells(leak=leak), 40.0, every=4.0)
    monkeypatch.setattr(running, "_BETWEEN", -1.0)
    for stop in (1, 6):

        def interrupt(at: running.SpikeProgress, stop: int = stop) -> None:
            if at.time >= 4.0 * stop:
                raise StopError

        store = tmp_path / f"{stop}.zarr"
        with pytest.raises(StopError):
            vd.spike(cells(leak=leak), 40.0, store, every=4.0, progress=interrupt)
        begun = vd.open_spikes(store)
        assert begun.attrs["status"] == "running"
        np.testing.assert_array_equal(begun.time, whole.time[:stop])
        np.testing.assert_array_equal(begun.spike_time, whole.spike_time[: int(whole.spike_end[stop - 1])])
        resumed = vd.spike(cells(leak=leak), 40.0, store, every=4.0, resume=True)
        assert resumed.attrs["status"] == "reached t_max"
        same(whole, resumed)


def test_windows_that_were_written_but_not_committed_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_BETWEEN", 1e9)

    def interrupt(at: running.SpikeProgress) -> None:
        if at.time >= 30.0:
            raise StopError

    with pytest.raises(StopError):
        vd.spike(cells(), 40.0, tmp_path / "a.zarr", every=4.0, progress=interrupt)
    assert vd.open_spikes(tmp_path / "a.zarr").sizes["time"] == 0
    same(vd.spike(cells(), 40.0, every=4.0), vd.spike(cells(), 40.0, tmp_path / "a.zarr", every=4.0, resume=True))


def test_a_finished_run_goes_on_to_a_later_time(tmp_path: Path) -> None:
    vd.spike(cells(), 20.0, tmp_path / "a.zarr", every=4.0)
    longer = vd.spike(cells(), 44.0, tmp_path / "a.zarr", every=4.0, resume=True)
    same(vd.spike(cells(), 44.0, every=4.0), longer)
    assert longer.attrs["t_max"] == 44.0
    again = vd.spike(cells(), 44.0, tmp_path / "a.zarr", every=4.0, resume=True)
    same(longer, again)
    with pytest.raises(ValueError, match="has reached"):
        vd.spike(cells(), 20.0, tmp_path / "a.zarr", every=4.0, resume=True)


def test_a_killed_process_leaves_a_store_that_can_be_resumed(tmp_path: Path) -> None:
    script = (
        "import sys, vars_dyn as vd; from tests.spiking.test_stores import cells; from vars_dyn.spiking import run; "
        "run._BETWEEN = -1.0; vd.spike(cells(), 400000.0, sys.argv[1], every=4.0)"
    )
    store = tmp_path / "killed.zarr"
    process = subprocess.Popen([sys.executable, "-c", script, str(store)], cwd=Path(__file__).parents[2])
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if store.exists() and vd.open_spikes(store).sizes["time"] >= 3:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    reached = vd.open_spikes(store).sizes["time"]
    assert reached >= 3
    t_max = 4.0 * (reached + 5)
    same(vd.spike(cells(), t_max, every=4.0), vd.spike(cells(), t_max, store, every=4.0, resume=True))


def test_the_arrays_grow_over_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vars_dyn.spiking.store._CHUNK", 7)
    monkeypatch.setattr("vars_dyn.spiking.store._WINDOWS", 2)
    same(vd.spike(cells(), 36.0, every=4.0), vd.spike(cells(), 36.0, tmp_path / "a.zarr", every=4.0))
    plain = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)
    assert plain.sizes["spike"] == vd.open_spikes(tmp_path / "a.zarr").sizes["spike"]


@pytest.mark.parametrize("other", [{"lam": 0.4}, {"seed": 5}, {"leak": 0.05}])
def test_another_run_is_not_resumed(other: dict[str, float], tmp_path: Path) -> None:
    vd.spike(cells(), 8.0, tmp_path / "a.zarr", every=4.0)
    with pytest.raises(ValueError, match="cannot be resumed with another"):
        vd.spike(cells(**other), 16.0, tmp_path / "a.zarr", every=4.0, resume=True)
    with pytest.raises(ValueError, match="another every"):
        vd.spike(cells(), 16.0, tmp_path / "a.zarr", every=2.0, resume=True)


def test_only_own_stores_are_replaced_and_opened(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    vd.spike(cells(), 8.0, store, every=4.0)
    with pytest.raises(ValueError, match="exists"):
        vd.spike(cells(), 8.0, store, every=4.0)
    assert vd.spike(cells(1), 4.0, store, every=4.0, overwrite=True).sizes["time"] == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match="never overwritten"):
        vd.spike(cells(), 8.0, tmp_path / "mine", every=4.0, overwrite=True)
    for wrong in (tmp_path / "mine", tmp_path / "nothing"):
        with pytest.raises(ValueError, match="store"):
            vd.open_spikes(wrong)
        with pytest.raises(ValueError, match="store"):
            vd.spike(cells(), 8.0, wrong, every=4.0, resume=True)
    with pytest.raises(ValueError, match=r"a\.zarr"):
        vd.open_dataset(store)


def test_a_run_without_spikes_can_be_stored_and_resumed(tmp_path: Path) -> None:
    vd.spike(cells(lam=100.0), 8.0, tmp_path / "a.zarr", every=4.0)
    again = vd.spike(cells(lam=100.0), 12.0, tmp_path / "a.zarr", every=4.0, resume=True)
    assert again.sizes["spike"] == 0
    assert again.sizes["time"] == 3
