"""`python -m vars_dyn.simulate --stimulus ...`: runs, resumes to the same bits, and one line for bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vars_dyn as vd
from tests.moving import noise, write_movie
from vars_dyn.simulate import main
from vars_dyn.simulate.cli import parse
from vars_dyn.simulate.member import simulation
from vars_dyn.sweeping.commands import words_of

SMALL = ("--patch", "6", "--dictionary", "random:20", "--rtol", "1e-3", "--dt", "0.5", "--chunk", "3")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_a_drifting_grating_is_simulated_and_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--stimulus", "grating", "--stimulus.orientation", "45", "--stimulus.tau-ms", "20", "--t-max", "4")
    assert main([*options, *SMALL, "--out", "a.zarr", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["signals"], found["signal_dim"], found["t_end"], found["settled"]) == (1, 36, 4.0, 0)
    run = vd.open_dataset("a.zarr")
    assert vd.facts(run)["stimulus"]["parts"][0]["orientation"] == 45.0
    assert vd.facts(run)["tau_ms"] == 20.0
    assert vd.facts(run)["stop_gap"] == "none"
    assert Path("a.png").stat().st_size > 10_000
    x = run["x"].to_numpy()[:, 0]
    assert np.abs(x[0] - x[-1]).max() > 0.1
    screen = vd.stimuli.Screen(6, 6)
    wanted = vd.stimuli.Grating(screen, orientation=45, temporal_frequency=4, tau_ms=20)(2.0).flatten()
    np.testing.assert_allclose(x[4], wanted - wanted.mean(), atol=1e-12)


def test_a_run_under_noise_is_resumed_to_the_same_bits_with_the_options_of_the_store() -> None:
    options = (
        "--stimulus",
        "noise",
        "--stimulus.frames",
        "9",
        "--stimulus.rate",
        "200",
        "--seed",
        "5",
        "--gap",
        "none",
    )
    quiet = ("--figure", "none")
    assert main([*options, *SMALL, *quiet, "--out", "whole.zarr", "--t-max", "6"]) == 0
    assert main([*options, *SMALL, *quiet, "--out", "cut.zarr", "--t-max", "3"]) == 0
    assert main(["--out", "cut.zarr", "--resume", "--t-max", "6", *quiet]) == 0
    whole, cut = vd.open_dataset("whole.zarr"), vd.open_dataset("cut.zarr")
    for name in ("x", "z", "u", "relative_gap", "z_end"):
        np.testing.assert_array_equal(whole[name].to_numpy(), cut[name].to_numpy())


def test_after_a_flash_the_run_settles() -> None:
    options = ("--stimulus", "bars", "--stimulus.flash", "10,20", "--t-max", "60", "--figure", "none")
    assert main([*options, *SMALL, "--out", "a.zarr"]) == 0
    run = vd.open_dataset("a.zarr")
    assert bool(run["equilibrium"])
    assert float(run["settled_at"][0]) > 3.0
    assert float(np.abs(run["code_end"]).max()) == 0.0


def test_a_whole_frame_is_coded_by_convolution() -> None:
    options = ("--whole", "--stimulus", "plaid", "--stimulus.size", "12,16", "--kernel", "5", "--conv-stride", "2")
    rest = ("--dictionary", "random:3", "--t-max", "1", "--dt", "0.5", "--rtol", "1e-2", "--figure", "none")
    assert main([*options, *rest, "--out", "a.zarr"]) == 0
    assert vd.open_dataset("a.zarr")["x"].shape == (3, 1, 1, 12, 16)


def test_a_movie_is_seen_frame_by_frame_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    frames = noise(6, 8, 16)
    write_movie(Path("film.mkv"), list(frames), codec="ffv1", pixels="bgr0", rate=40)
    options = ("--patch", "8", "--dictionary", "random:20", "--rtol", "1e-3", "--dt", "0.5", "--lam", "0.2x")
    seen = ("--clip", "1,6", "--colour", "--stimulus.tau-ms", "25", "--stimulus.between", "linear", "--mean", "keep")
    assert main(["film.mkv", *options, *seen, "--out", "a.zarr", "--animate", "a.gif", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["signals"], found["signal_dim"], found["t_end"], found["settled"]) == (2, 192, 5.0, 0)
    assert found["input_scaling"] == "frames divided by 255, in 2 patches"
    run = vd.open_dataset("a.zarr")
    # A frame a time constant: at 2.5 the mean of frames 3 and 4.
    wanted = np.moveaxis(frames[3:5] / 255, -1, 1).mean(0)
    np.testing.assert_allclose(run["x"][5], vd.images.patches([wanted], 8).values, atol=1e-12)
    # The critical value is the largest over the whole movie.
    whole = [vd.images.patches([np.moveaxis(f / 255, -1, 0)], 8).values for f in frames[1:]]
    critical = np.max([np.abs(x @ run["dictionary"].to_numpy()).max(1) for x in whole], axis=0)
    np.testing.assert_allclose(run["lam"], 0.2 * critical, rtol=0.05)
    assert bool((run["lam"] <= 0.2 * critical * (1 + 1e-12)).all())
    assert Path("a.png").stat().st_size > 10_000
    with Image.open("a.gif") as film:
        assert film.n_frames == 11  # type: ignore[attr-defined]
    facts = vd.facts(run)
    assert (facts["tau_ms"], facts["stop_gap"], facts["chunk"]) == (25.0, "none", 64)
    # The same command codes it whole when asked, and a store of that is resumed as such.
    whole_too = ("--stimulus", "none", "--kernel", "2,4,4", "--dictionary", "random:2", "--gap", "none")
    assert main(["film.mkv", *whole_too, "--t-max", "1", "--rtol", "1e-2", "--figure", "none", "--out", "b.zarr"]) == 0
    assert main(["--out", "b.zarr", "--resume", "--t-max", "2", "--figure", "none"]) == 0
    assert vd.open_dataset("b.zarr")["signals"].shape == (1, 1, 6, 8, 16)


def test_a_sweep_can_vary_the_stimulus_and_knows_the_times() -> None:
    write_movie(Path("film.mkv"), list(noise(6, 16, 16)), codec="ffv1", pixels="bgr0", rate=40)
    line = words_of({"stimulus": "noise", "stimulus_tau_ms": 20, "stimulus_rate": 30.0}, flags=True)
    options = parse(line)
    assert (options.stimulus.stimulus_tau_ms, options.stimulus.stimulus_rate) == (20.0, 30.0)
    member = {"dt": 0.5, "t_max": 1.0}
    for own, times in (
        ({"input": "film.mkv"}, np.arange(31) * 0.5),  # six frames of 25 ms
        ({"stimulus": "grating", **member}, [0.0, 0.5, 1.0]),
        ({"input": "film.mkv", "stimulus": "none", **member}, [0.0, 0.5, 1.0]),
    ):
        np.testing.assert_allclose(simulation(["z"]).sizes([{"dt": 0.5, **own}])["time"], times)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--stimulus", "movie"), "INPUT holds 0 paths; one movie is wanted with --stimulus movie"),
        (("--stimulus", "os.system"), "--stimulus is 'os.system'; one of auto, none, grating"),
        (("--stimulus", "bars", "--stimulus.radius", "2"), "--stimulus.radius does nothing with --stimulus bars"),
        (("--stimulus.speed", "2"), "--stimulus.speed does nothing with --stimulus none"),
        (("--stimulus", "grating", "photo.png"), "INPUT does nothing with --stimulus grating"),
        (("--stimulus", "grating", "--stimulus.tau-ms", "0"), "--stimulus.tau-ms is '0'"),
        (("--stimulus", "grating", "--stimulus.size", "4,4"), "at least --patch, 16, are wanted"),
        (("--stimulus", "grating", "--stimulus.flash", "3"), "ONSET,DURATION"),
    ],
)
def test_bad_options_get_one_line(options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options, "--out", "a.zarr"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert sentence in told[0]
    assert not Path("a.zarr").exists()
