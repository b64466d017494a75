"""The command that sweeps: designs from YAML, results of commands, figures, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import vars_dyn as vd
from experiments.options import plain_data
from experiments.report import ensembles
from experiments.settings import Settings
from experiments.sweep import Points, Span, design_of, main
from vars_dyn.simulate import main as simulate
from vars_dyn.simulate.member import simulation
from vars_dyn.sweeping import open_sweep
from vars_dyn.sweeping.commands import words_of

FIXED = {"patch": 8, "patches": 4, "scales": 1, "t_max": 4, "dt": 0.5, "norm": "unit"}


def test_simulations_give_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {
        "command": "simulate",
        "design": {"parameters": {"lam": [0.1, 0.6], "t_max": [2, 4]}, "seeds": [3]},
        "fixed": {name: value for name, value in FIXED.items() if name != "t_max"},
        "keep": ["active"],
        "store": "s.zarr",
        "figure": "s.png",
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(config))
    assert main(["--config", "sweep.yaml"]) == 0
    found = open_sweep("s.zarr")
    assert found["lam"].values.tolist() == [0.1, 0.1, 0.6, 0.6]
    assert found["time_length"].values[:3].tolist() == [5, 9, 5]
    words = words_of({**FIXED, "lam": 0.6, "seed": 3}, flags=True)
    assert simulate([*words, "--out", "one.zarr", "--figure", "none"]) in (0, 1)
    alone, own = vd.open_dataset("one.zarr"), found.isel(member=3)
    assert (own["relative_gap_end"].values == alone["relative_gap_end"].values).all()
    length = alone.sizes["time"]
    assert int(own["time_length"]) == length
    assert (own["active"].values[:length] == alone["active"].values).all()
    assert (own["time_values"].values[:length] == alone["time"].values).all()
    assert np.isnan(own["time_values"].values[length:]).all()
    assert (found["active"].values[2][5:] == -1).all()
    share = (alone["code_end"].values != 0).mean(1)
    assert own["active_fraction"].values == pytest.approx(share)
    signals, rebuilt = alone["signals"].values, alone["reconstruction_end"].values
    error = ((signals - rebuilt) ** 2).sum(1) / (signals**2).sum(1)
    assert own["reconstruction_error"].values == pytest.approx(error)
    assert int(own["evaluations"]) == int(alone["evaluations"])
    assert Path("s.png").stat().st_size > 5000
    assert not Path("s.zarr.members").exists()
    with pytest.raises(ValueError, match="along is 'magic'"):
        ensembles.draw(found, Path("t.png"), along="magic")
    with pytest.raises(ValueError, match="panels holds 'error'"):
        ensembles.draw(found, Path("t.png"), panels=["error"])
    with pytest.raises(ValueError, match="keep holds 'magic'"):
        simulation(["magic"])


def test_a_member_with_a_bad_option_fails_in_the_words_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    design = "{kind: list, listed: [{lam: 0.5}, {lam: -1}]}"
    assert main(["--design", design, "--fixed", json.dumps(FIXED), "--store", "s.zarr"]) == 1
    told = capsys.readouterr()
    assert "1 members done, 1 failed" in told.out
    assert "member 1 failed: CommandError: --lam is '-1'; a number of at least 0" in told.err
    assert '"lam": -1' in Path("s.zarr.members/member-000001.txt").read_text()


def test_training_runs_are_members(settings: Callable[..., Settings], tmp_path: Path) -> None:
    run = plain_data.as_plain(settings(epochs=1))
    fixed = {
        f"{group}.{name}": value
        for group, names in (("model", ("name",)), ("data", ("root", "image_size", "crop")))
        for name, value in run[group].items()
        if name in names
    }
    fixed |= {"model.sizes": run["model"]["sizes"], "model.attention.kind": "vars_d", "epochs": 1, "probe_images": 0}
    fixed |= {"optimization.batch_size": 8, "accelerator": "cpu", "augmentation.crop": "padded"}
    from experiments.sweeps.commands import work_of

    found = vd.sweep(work_of("train"), {"model.attention.lam": [0.1, 0.5]}, tmp_path / "s.zarr", fixed=fixed)
    assert found["error"].values.tolist() == ["", ""]
    assert found["accuracy"].dims == ("member", "epoch")
    assert np.isfinite(found["loss"].values).all()
    assert found["loss"].values[0] != found["loss"].values[1]
    assert (tmp_path / "s.zarr.members" / "member-000001" / "run" / "checkpoints").is_dir()


def test_numbers_of_a_command_that_prints_json(tmp_path: Path) -> None:
    from experiments.sweeps.commands import work_of

    fixed = {"small": True, "steps": 2, "signals": 32, "batch": 8}
    found = vd.sweep(work_of("learn_dictionary"), {"lam": [0.1, 0.5], "seed": [1]}, tmp_path / "s.zarr", fixed=fixed)
    assert found["error"].values.tolist() == ["", ""]
    assert found["first_loss"].dtype == np.float64
    assert found["first_loss"].values[0] != found["first_loss"].values[1]
    assert found["gradient"].values.tolist() == ["implicit", "implicit"]


def test_dictionaries_are_learned_over_seeds(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((64, 9)))
    fixed = {"images": str(tmp_path / "x.npy"), "atoms": 12, "whiten": "none", "batch": 8, "every": 1, "tol": 1e-3}
    design = [{"seed": 1, "steps": 2}, {"seed": 2, "steps": 3}, {"seed": 2, "steps": 3, "lam": -1.0}]
    found = vd.sweep("learn", design, tmp_path / "s.zarr", fixed=fixed)
    assert found["status"].values.tolist() == [1, 1, 2]
    assert "lam" in str(found["error"].values[2])
    assert found["step_length"].values.tolist() == [2, 3, -1]
    assert np.isfinite(found["objective"].values[1]).all()
    assert np.isnan(found["objective"].values[0]).tolist() == [False, False, True]
    run = tmp_path / "s.zarr.members" / "member-000001" / "run"
    assert (run / "dictionary.safetensors").is_file()


def test_physiology_over_stimuli(tmp_path: Path) -> None:
    from experiments.sweeps.commands import work_of

    fixed = {"cells": 2, "r_squared": 0.0, "bank.side": 8, "bank.orientations": 2, "bank.scales": 1, "bank.places": 2}
    design = {"experiment": ["cross"], "lam": [0.1, 0.4], "contrasts": [[0.25, 1.0]]}
    found = vd.sweep(work_of("physiology"), design, tmp_path / "s.zarr", fixed=fixed)
    assert found["error"].values.tolist() == ["", ""]
    assert np.isfinite(found["median"].values).all()
    assert (tmp_path / "s.zarr.members" / "member-000001" / "response.zarr").is_dir()


@pytest.mark.parametrize(
    ("points", "length"),
    [
        (Points(parameters={"a": [1, 2], "b": [3]}, seeds=[0, 1]), 4),
        (Points(kind="random", parameters={"a": Span(0.1, 1.0, log=True), "b": ["x", "y"]}, members=5), 5),
        (Points(kind="latin-hypercube", parameters={"a": Span(0.0, 1.0)}, members=3, seeds=[0, 1]), 6),
        (Points(kind="list", listed=[{"a": 1}, {"b": 2}]), 2),
    ],
)
def test_designs_have_their_members(points: Points, length: int) -> None:
    assert len(design_of(points)) == length


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--command", "magic"], "command is 'magic'"),
        (["--design", "{kind: magic}"], "one of grid, list"),
        (["--design", "{parameters: {lam: {low: 0, high: 1}}}"], "a list of values"),
        (["--design", "{kind: random, parameters: {lam: {low: 0, high: 1}}}"], "members is None"),
        (["--design", "{kind: list}"], "no members listed"),
        (["--design", "{parameters: {speed: [1]}}"], "no option speed"),
        (["--design", "{parameters: {out: [a.zarr]}}"], "sets itself"),
        (["--design", "{}"], "no parameters"),
        (["--design", "{parameters: {lam: [0.1]}}", "--workers", "-1"], "workers is -1"),
        (["--nothing", "1"], "no option --nothing"),
    ],
)
def test_bad_input_gets_one_line(
    wrong: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(wrong) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
