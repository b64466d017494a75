"""`python -m vars_dyn.learn`, from photographs to a dictionary that `simulate` reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import vars_dyn as vd
from vars_dyn.learning import load_dictionary
from vars_dyn.learning.command import main
from vars_dyn.simulate import main as simulate

QUICK = ["--patch", "6", "--steps", "6", "--batch", "16", "--every", "2"]


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    smooth = np.cumsum(np.cumsum(np.random.default_rng(0).normal(size=(40, 50)), 0), 1)
    scaled = 255 * (smooth - smooth.min()) / np.ptp(smooth)
    Image.fromarray(scaled.astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_run_writes_dictionary_course_and_figure(
    tmp_path: Path, photograph: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main([str(photograph), *QUICK, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == 6
    assert told["atoms"] == 72
    assert load_dictionary(out / "dictionary.safetensors").signal_shape == (36,)
    facts = json.loads((out / "dictionary.json").read_text())
    assert facts["input"] == [str(photograph)]
    assert facts["preparation"][0]["step"] == "olshausen-field"
    assert xr.open_zarr(out / "history.zarr", consolidated=False).sizes["step"] == 6
    with Image.open(out / "atoms.png") as figure:
        assert len(np.unique(np.asarray(figure.convert("L")))) > 50
    store = str(tmp_path / "simulated.zarr")
    words = [str(photograph), "--dictionary", told["dictionary"], "--patch", "6", "--patches", "4", "--out", store]
    assert simulate([*words, "--figure", "none", "--gap", "none", "--t-max", "2"]) == 0


def test_the_command_resumes_with_the_options_of_the_store(tmp_path: Path, photograph: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = [str(photograph), *QUICK, "--seed", "4", "--method", "hebbian", "--whiten", "zca", "--contrast", "0.5"]
    assert main([*options, "--out", str(whole), "--figure", "none"]) == 0
    assert main([*options, "--out", str(broken), "--steps", "3"]) == 0
    assert main([str(photograph), "--resume", "--out", str(broken), "--steps", "6"]) == 0
    found = [load_dictionary(place / "dictionary.safetensors").tensors()[0] for place in (whole, broken)]
    assert torch.equal(*found)
    assert main([str(photograph), "--resume", "--out", str(broken), "--seed", "5"]) == 2


def test_templates_and_arrays_are_learned_too(tmp_path: Path, photograph: Path) -> None:
    words = [str(photograph), "--kind", "conv", "--patch", "12", "--kernel", "4", "--atoms", "5", "--steps", "3"]
    assert main([*words, "--batch", "4", "--out", str(tmp_path / "conv")]) == 0
    assert load_dictionary(tmp_path / "conv" / "dictionary.safetensors").tensors()[0].shape == (5, 1, 4, 4)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 7)))
    words = [str(tmp_path / "x.npy"), "--steps", "3", "--lam", "0.5", "--out", str(tmp_path / "rows")]
    assert main(words) == 0
    assert load_dictionary(tmp_path / "rows" / "dictionary.safetensors").tensors()[0].shape == (7, 14)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["nowhere.png"], "nowhere.png does not exist"),
        (["--lam", "-1"], "lam is -1"),
        (["--method", "magic"], "magic"),
        (["--steps", "0"], "--steps is 0"),
        (["--patch", "4000"], "at least the patch of 4000"),
        (["--nothing"], "nothing"),
        (["--resume"], "--resume came without --out"),
        (["--kernel", "40", "--kind", "conv"], "larger than the padded signal"),
    ],
)
def test_bad_input_gets_one_line(
    wrong: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(wrong) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not list(tmp_path.iterdir())


def test_the_module_is_the_command_and_its_import_the_function() -> None:
    program = (
        "import vars_dyn as vd; f = vd.learn; import vars_dyn.learn; from vars_dyn import learn; "
        "assert vd.learn is f and learn is f and callable(f)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    shown = subprocess.run(
        [sys.executable, "-m", "vars_dyn.learn", "--help"], capture_output=True, text=True, check=True
    )
    assert "--whiten" in shown.stdout
    assert callable(vd.learn)


def test_two_processes_learn_what_one_learns(tmp_path: Path, photograph: Path) -> None:
    words = [str(photograph), *QUICK, "--figure", "none", "--batch", "17", "--patience", "40", "--lam", "0.5"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    assert main([*words, "--out", str(tmp_path / "two"), "--processes", "2"]) == 0
    one, two = (load_dictionary(tmp_path / name / "dictionary.safetensors").tensors()[0] for name in ("one", "two"))
    torch.testing.assert_close(one, two, atol=1e-9, rtol=0)
    histories = [xr.open_zarr(tmp_path / name / "history.zarr", consolidated=False) for name in ("one", "two")]
    xr.testing.assert_allclose(histories[0].drop_vars("atoms"), histories[1].drop_vars("atoms"), rtol=1e-8)
    assert not torch.distributed.is_initialized()
