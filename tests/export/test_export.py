"""Exported runs: read back equal, valid NWB, written block by block, and never over what is not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import vars_dyn as vd
from vars_dyn.export import sources
from vars_dyn.export.command import main

h5netcdf = pytest.importorskip("h5netcdf")
pynwb = pytest.importorskip("pynwb")

TIMES = 0.5 * torch.arange(21, dtype=torch.float64)


def field_of(x: Any = None) -> vd.SparseRecurrent:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64) if x is None else x
    return vd.SparseRecurrent(vd.DenseDictionary(weight / weight.norm(dim=0)), x, lam=0.5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "run.zarr"
    vd.record(field_of(), path, TIMES, chunk=4, attributes={"note": "a", "levels": [1, 2], "nested": {"b": [1]}})
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Blocks of two chunks, and the rows of each block that was read."""
    read: list[int] = []
    blocks = sources.blocks

    def counted(array: xr.DataArray) -> Any:
        for start, values in blocks(array):
            read.append(len(values))
            yield start, values

    monkeypatch.setattr(sources, "_BLOCK", 1)
    for name in ("nwb", "netcdf"):
        monkeypatch.setattr(f"vars_dyn.export.{name}.blocks", counted)
    return read


def test_netcdf_is_read_back_equal(store: Path, tmp_path: Path, small_blocks: list[int]) -> None:
    file = tmp_path / "run.nc"
    assert main([str(store), "--to", "netcdf", "--out", str(file)]) == 0
    assert small_blocks
    assert max(small_blocks) == 4  # a chunk of the store at a time
    run = vd.open_dataset(store)
    with xr.open_dataset(file, engine="h5netcdf") as found:
        assert set(found.variables) == set(run.variables)
        assert set(found.coords) == set(run.coords)
        for name in run.variables:
            assert found[name].dims == run[name].dims
            assert found[name].dtype.kind == run[name].dtype.kind or run[name].dtype.kind in "TUO"
            np.testing.assert_array_equal(found[name].to_numpy(), run[name].to_numpy(), err_msg=str(name))
            assert found[name].attrs.get("units") == run[name].attrs.get("units")
        assert vd.facts(found)["method"] == vd.facts(run)["method"]
        assert found.attrs["note"] == "a"
        assert list(found.attrs["levels"]) == [1, 2]
        assert json.loads(found.attrs["nested"]) == {"b": [1]}


def test_nwb_is_valid_and_read_back_equal(store: Path, tmp_path: Path, small_blocks: list[int]) -> None:
    file = tmp_path / "run.nwb"
    assert main([str(store), "--to", "nwb", "--out", str(file), "--tau-ms", "10"]) == 0
    assert max(small_blocks) == 4
    assert not problems(file)
    run = vd.open_dataset(store)
    with pynwb.NWBHDF5IO(str(file), "r") as opened:
        nwb = opened.read()
        dynamics = nwb.processing["dynamics"]
        for name, title in (("z", "neurons_z"), ("u", "encoding_neurons_u"), ("code", "code"), ("gap", "gap")):
            series = dynamics[title]
            np.testing.assert_array_equal(series.data[:], run[name].to_numpy())
            assert series.data.dtype == run[name].dtype
            assert series.unit == "dimensionless"
            assert series.rate == pytest.approx(200.0)  # half a time constant of 10 ms
            assert series.starting_time == 0.0
        signals = dynamics["signals"]
        np.testing.assert_array_equal(np.stack(signals["signals"][:]), run["signals"])
        np.testing.assert_array_equal(np.stack(dynamics["dictionary"]["atom"][:]), run["dictionary"].T)
        known = json.loads(nwb.notes)
        assert known["method"] == vd.facts(run)["method"]
        assert nwb.identifier == vd.facts(run)["run"]
        assert nwb.session_start_time.tzinfo is not None


def problems(file: Path) -> list[Any]:
    """What pynwb's own validator says."""
    found = pynwb.validate(path=str(file))
    return list(found[0] if isinstance(found, tuple) else found)


def test_uneven_times_and_a_moving_stimulus(tmp_path: Path) -> None:
    frames = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    moving = vd.stimuli.Sampled(frames, torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64), between="hold")
    times = torch.tensor([0.0, 0.5, 1.5, 4.0], dtype=torch.float64)
    vd.record(field_of(moving), tmp_path / "run.zarr", times)
    assert main([str(tmp_path / "run.zarr"), "--to", "nwb", "--tau-ms", "20"]) == 0
    file = tmp_path / "run.nwb"
    assert not problems(file)
    run = vd.open_dataset(tmp_path / "run.zarr")
    with pynwb.NWBHDF5IO(str(file), "r") as opened:
        nwb = opened.read()
        seen = nwb.stimulus["stimulus_x"]
        np.testing.assert_array_equal(seen.data[:], run["x"].to_numpy())
        np.testing.assert_allclose(seen.timestamps[:], 0.02 * times.numpy())
        np.testing.assert_allclose(nwb.processing["dynamics"]["neurons_z"].timestamps[:], 0.02 * times.numpy())


def test_spikes_become_units(tmp_path: Path) -> None:
    path = tmp_path / "spikes.zarr"
    problem = field_of().problem()
    neurons = vd.SpikingLCA(problem.dictionary, problem.x, lam=0.5)
    run = vd.spike(neurons, 20.0, path, every=5.0)
    assert run.sizes["spike"]
    assert main([str(path), "--to", "nwb", "--tau-ms", "10"]) == 0
    assert not problems(tmp_path / "spikes.nwb")
    with pynwb.NWBHDF5IO(str(tmp_path / "spikes.nwb"), "r") as opened:
        units = opened.read().units
        total = 0
        for k in range(len(units)):
            own = (
                (run["spike_signal"].to_numpy() == units["signal"][k])
                & (run["spike_atom"].to_numpy() == units["atom"][k])
                & (run["spike_sign"].to_numpy() == units["sign"][k])
            )
            np.testing.assert_allclose(units["spike_times"][k], 0.01 * run["spike_time"].to_numpy()[own])
            total += int(own.sum())
        assert total == run.sizes["spike"]
    assert main([str(path), "--to", "netcdf"]) == 0
    with xr.open_dataset(tmp_path / "spikes.nc", engine="h5netcdf") as found:
        np.testing.assert_array_equal(found["spike_time"], run["spike_time"])
        np.testing.assert_array_equal(found["code"], run["code"])


@pytest.mark.parametrize(("to", "suffix"), [("nwb", ".nwb"), ("netcdf", ".nc")])
def test_only_own_files_are_replaced(to: str, suffix: str, store: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / f"a{suffix}"
    line = [str(store), "--to", to, "--out", str(file), *(["--tau-ms", "10"] if to == "nwb" else [])]
    file.write_bytes(b"mine")
    assert main([*line, "--overwrite"]) == 2
    assert "no file that this command wrote" in capsys.readouterr().err
    assert file.read_bytes() == b"mine"
    file.unlink()
    assert main(line) == 0
    assert main(line) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*line, "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.zarr", "--to", "netcdf"], "does not exist"),
        (["RUN", "--to", "nbw"], "nwb"),
        (["RUN", "--to", "nwb"], "give it by --tau-ms"),
        (["RUN", "--to", "nwb", "--tau-ms", "-1"], "above zero"),
        (["RUN", "--to", "netcdf", "--tau-ms", "1"], "does nothing"),
        (["RUN", "--to", "netcdf", "--out", "a.zip"], "ending in .nc"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], said: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(store) if word == "RUN" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(array: xr.DataArray) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vars_dyn.export.netcdf.blocks", fail)
    assert main([str(store), "--to", "netcdf", "--out", str(tmp_path / "a.nc")]) == 2
    assert not list(tmp_path.iterdir())
