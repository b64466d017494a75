"""`python -m vars_dyn.simulate --spiking`: the spikes of `vd.spike`, a store that goes on, a figure, a report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vars_dyn as vd
from tests.simulate.test_simulate import refused
from vars_dyn.simulate import main

SMALL = ("signals.npy", "--dictionary", "atoms.npy", "--lam", "0.2", "--spiking")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    atoms = draw.normal(size=(6, 9))
    np.save("signals.npy", draw.normal(size=(2, 6)))
    np.save("atoms.npy", atoms / np.linalg.norm(atoms, axis=0))


def test_the_command_runs_spikes_and_certifies_their_average(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--threshold", "nonnegative", "--quantum", "0.5", "--t-max", "60")
    assert main([*SMALL, *given, "--out", "a.zarr", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    x, P = (torch.from_numpy(np.load(f"{name}.npy")) for name in ("signals", "atoms"))
    units = vd.SpikingLCA(vd.DenseDictionary(P), x, 0.2, nonnegative=True, quantum=0.5)
    wanted, run = vd.spike(units, 60.0, every=10.0), vd.spiking.open_spikes("a.zarr")
    for name in ("spike_time", "spike_atom", "code", "relative_gap", "bound"):
        np.testing.assert_array_equal(run[name].to_numpy(), wanted[name].to_numpy())
    assert (found["signals"], found["signal_dim"], found["code_dim"], found["units"]) == (2, 6, 9, 9)
    assert (found["t_end"], found["spikes"]) == (60.0, wanted.sizes["spike"])
    assert found["relative_gap_max"] == float(wanted["relative_gap"][-1].max())
    assert Path("a.png").stat().st_size > 10_000


def test_a_run_goes_on_to_a_later_end_with_the_same_bits(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = ("--figure", "none")
    assert main([*SMALL, *quiet, "--leak", "0.01", "--t-max", "40", "--out", "a.zarr"]) == 0
    assert main(["--resume", "--out", "a.zarr", "--t-max", "80", *quiet]) == 0
    assert main([*SMALL, *quiet, "--leak", "0.01", "--t-max", "80", "--out", "b.zarr"]) == 0
    one, two = (vd.spiking.open_spikes(name) for name in ("a.zarr", "b.zarr"))
    for name in ("spike_time", "spike_atom", "spike_sign", "code"):
        np.testing.assert_array_equal(one[name].to_numpy(), two[name].to_numpy())
    capsys.readouterr()
    assert main(["--resume", "--out", "a.zarr", "--leak", "0.02", *quiet]) == 2
    assert "cannot be resumed with another leak" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((*SMALL, "--gap", "1e-3"), "--gap does nothing with --spiking"),
        ((*SMALL, "--noise-u", "1"), "--noise-u does nothing with --spiking"),
        ((*SMALL, "--weights", "atoms.npy"), "--weights does nothing with --spiking"),
        ((*SMALL, "--t-max", "15"), "no multiple of --window, 10; one that is, is wanted"),
        ((*SMALL, "--leak", "3", "--quantum", "9"), "a smaller quantum, a smaller leak or a larger lam"),
        ((*SMALL[:-1], "--leak", "3"), "--leak does nothing without --spiking"),
        (("--stimulus", "grating", "--spiking"), "--spiking came with --stimulus grating, which moves"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refused(*options, "--figure", "none", capsys=capsys)
