"""A run under a stimulus that is killed goes on to the same bits, from Python and from the command line."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vars_dyn as vd
from tests.moving import noise, write_movie
from tests.recording.helpers import assert_same_bits
from tests.strategies import normal
from vars_dyn.recording.integrity import read_attributes
from vars_dyn.simulate import main

S = vd.stimuli
TIMES = 0.2 * torch.arange(25, dtype=torch.float64)
ACTS = [vd.Silence(atoms=[3], start=1.1, stop=3.0), vd.Inject(0.3, neurons=[1], start=2.0, stop=4.0)]
NOISE = vd.Noise(u=0.1, z=0.05, seed=4)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    write_movie(Path("film.mkv"), list(noise(6, 8, 16)), codec="ffv1", pixels="bgr0", rate=125)


def film() -> vd.stimuli.Stimulus:
    return S.Patches(S.Movie("film.mkv", between="linear"), 4)


def drifting() -> vd.stimuli.Stimulus:
    return S.Patches(S.Grating(S.Screen(8, 8), temporal_frequency=6.0), 4)


#: The stimulus, and what else happens in the run.
RUNS: dict[str, tuple[Callable[[], vd.stimuli.Stimulus], dict[str, Any]]] = {
    "movie": (film, {"interventions": ACTS}),
    "grating with noise": (drifting, {"interventions": ACTS, "noise": NOISE}),
}


def record_one(name: str, store: str, resume: bool) -> None:
    torch.set_num_threads(1)
    stimulus, how = RUNS[name]
    weight = torch.nn.functional.normalize(normal(7, 16, 20), dim=0)
    field = vd.SparseRecurrent(vd.DenseDictionary(weight), stimulus(), lam=0.1)
    vd.record(field, store, TIMES, chunk=2, resume=resume, rtol=1e-3, **how)


def killed(target: Callable[..., object], arguments: tuple[object, ...], store: Path) -> None:
    """Run `target` in a process, and kill it once the store holds a commit or two."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    while process.is_alive() and read_attributes(store).get("snapshot_index", 0) < 2:
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("name", RUNS)
def test_a_recording(name: str) -> None:
    record_one(name, "whole.zarr", False)
    killed(record_one, (name, "run.zarr", False), Path("run.zarr"))
    record_one(name, "run.zarr", True)
    assert_same_bits(vd.open_dataset("run.zarr"), vd.open_dataset("whole.zarr"))


@pytest.mark.parametrize(
    "options",
    [
        ("film.mkv", "--patch", "8", "--silence", "u3@1:3"),
        ("--stimulus", "bars", "--patch", "8", "--inject", "z1=0.3@1:3", "--noise-u", "0.1", "--t-max", "5"),
    ],
)
def test_a_command(options: tuple[str, ...]) -> None:
    small = ("--dictionary", "random:20", "--rtol", "1e-3", "--dt", "0.2", "--chunk", "2", "--figure", "none")
    assert main([*options, *small, "--out", "whole.zarr"]) == 0
    killed(main, ([*options, *small, "--out", "run.zarr"],), Path("run.zarr"))
    assert main(["--out", "run.zarr", "--resume", "--figure", "none"]) == 0
    assert_same_bits(vd.open_dataset("run.zarr"), vd.open_dataset("whole.zarr"))
