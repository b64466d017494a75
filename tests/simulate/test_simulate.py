"""The command: its results on images and arrays, its exit statuses, and one clear line for each bad input."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from PIL import Image
from safetensors.torch import save_file

import vars_dyn as vd
from tests.recording.helpers import assert_same_bits
from vars_dyn._files import Workplace
from vars_dyn.images import patches
from vars_dyn.recording import facts
from vars_dyn.recording.integrity import read_attributes
from vars_dyn.simulate import main
from vars_dyn.simulate.build import times_of
from vars_dyn.simulate.cli import parse

#: Options that make a run on signals.npy quick. The large chunk saves hundreds of small commits.
SMALL = ("--dictionary", "random:9", "--lam", "0.3x", "--t-max", "400", "--chunk", "64")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a few signals and images."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    np.save("signals.npy", generator.normal(size=(3, 6)))
    np.save("stack.npy", generator.random((2, 9, 8)))
    pixels = (255 * generator.random((20, 24, 3))).astype(np.uint8)
    Path("images").mkdir()
    Image.fromarray(pixels).save("images/b.png")
    Image.fromarray(pixels[..., 0]).save("images/a.jpg")
    return tmp_path


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], xr.Dataset]:
    """Run the command to the end. Returns its status, its JSON object and its dataset."""
    status = main([*arguments, "--json", *(() if "--figure" in arguments else ("--figure", "none"))])
    printed = capsys.readouterr()
    assert printed.out, printed.err
    found = json.loads(printed.out)  # nothing else is printed there
    return status, found, xr.open_zarr(found["store"])


def refused(*arguments: str, capsys: pytest.CaptureFixture[str], status: int = 2) -> str:
    """Return the line that the command prints about bad arguments. It must print nothing else, and write no file."""
    before = {p: p.stat().st_mtime_ns for p in Path.cwd().rglob("*")}
    assert main([*arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    assert "Traceback" not in printed.err
    assert {p: p.stat().st_mtime_ns for p in Path.cwd().rglob("*")} == before
    return printed.err


# What the command does


def test_the_command_as_a_newcomer_gives_it(tmp_path: Path) -> None:
    """The default run, in a process of its own, on a photograph. It certifies every signal, and draws a figure."""
    command = [sys.executable, "-m", "vars_dyn.simulate", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # without a terminal there is no progress bar, and nothing warns
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["equilibrium"] is True
    assert found["relative_gap_max"] <= 1e-6
    assert found["signals"] == 81
    assert (found["signal_dim"], found["code_dim"]) == (256, 168)
    assert 0.05 < found["active_fraction"] < 0.5
    assert found["settled"] == found["signals"]
    dataset = xr.open_zarr(tmp_path / "run-0001.zarr")
    for name in ("z", "u", "gap", "relative_gap", "lyapunov"):
        assert dataset[name].attrs["units"] == "1"
    assert float(dataset.time[0]) == 0.0
    with Image.open(tmp_path / "run-0001.png") as figure:
        assert figure.size > (800, 400)
    # The test does not rely on the run's own certificate, since an independent solver finds the same codes.
    dictionary = vd.DenseDictionary(torch.from_numpy(dataset.dictionary.to_numpy()))
    x, lam = (torch.from_numpy(dataset[name].to_numpy()) for name in ("signals", "lam"))
    problem = vd.SparseProblem(dictionary, x, lam)
    code = torch.from_numpy(dataset.code_end.to_numpy())
    excess = problem.objective(code) - problem.objective(vd.solve(problem).code)
    assert float((excess / (0.5 * x.square().sum(-1))).max()) <= 1e-6
    np.testing.assert_allclose(lam, 0.1 * np.abs(x.numpy() @ dictionary.weight.numpy()).max(-1), rtol=1e-12)


def test_rows_of_an_array(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found, dataset = run("signals.npy", *SMALL, "--out", "run.zarr", capsys=capsys)
    assert status == 0
    assert found["equilibrium"] is True
    assert (found["signals"], found["signal_dim"], found["code_dim"]) == (3, 6, 9)
    assert found["store"] == str(here / "run.zarr")
    np.testing.assert_array_equal(dataset.signals, np.load("signals.npy"))  # the command keeps rows as they are
    assert found["active_fraction"] == float((dataset.code_end != 0).mean())
    assert found["kkt_max"] == float(dataset.kkt_residual_end.max())
    assert found["t_end"] == dataset.t_end
    assert "LASSO" in found["problem"]


def test_images_and_folders_are_cut_into_patches(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--patch", "8", "--lam", "0.5x", "--t-max", "1", "--gap", "none")
    status, found, dataset = run("images", *arguments, capsys=capsys)
    assert status == 0
    assert found["equilibrium"] is False
    assert found["signals"] == 12  # 2 x 3 patches of each of two images
    with Image.open("images/a.jpg") as image:
        grey = np.asarray(image, dtype=np.float64) / 255
    patch = grey[8:16, 16:24].ravel()
    np.testing.assert_allclose(dataset.signals[5], patch - patch.mean(), atol=1e-12)
    assert float(dataset.signal_mean[5]) == pytest.approx(patch.mean())
    assert [int(dataset[f"patch_{name}"][5]) for name in ("image", "row", "column")] == [0, 8, 16]
    _, _, coloured = run("images/b.png", *arguments, "--colour", "--mean", "keep", "--norm", "unit", capsys=capsys)
    assert coloured.sizes["neuron"] == 3 * 64
    assert coloured.sizes["atom"] == 3 * 8 * (16 + 4 + 1)
    np.testing.assert_allclose((coloured.signals**2).sum("neuron"), 1.0)
    _, drawn, _ = run("images", *arguments, "--patches", "4", "--seed", "3", capsys=capsys)
    assert drawn["signals"] == 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32])
def test_arrays_are_taken_as_they_are(dtype: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = np.array([[0, 3, 250, 7, 1, 2], [5, 0, 0, 9, 200, 1]]).astype(dtype)  # counts of spikes, for example
    weight = np.random.default_rng(0).integers(0, 4, (6, 8)).astype(dtype) + np.eye(6, 8).astype(dtype)
    np.save("counts.npy", counts)
    np.save("weight.npy", weight)
    arguments = ("counts.npy", "--dictionary", "weight.npy", "--t-max", "0.5", "--gap", "none")
    _, found, dataset = run(*arguments, capsys=capsys)
    np.testing.assert_array_equal(dataset.signals, counts)
    np.testing.assert_array_equal(dataset.dictionary, weight)
    assert dataset.scaling == found["input_scaling"] == f"the array's {np.dtype(dtype)} numbers as they are stored"
    most = 1.0 if dtype == np.float32 else float(np.iinfo(dtype).max)
    _, found, dataset = run(*arguments, "--full-scale", "dtype", capsys=capsys)
    np.testing.assert_array_equal(dataset.signals, counts / most)
    np.testing.assert_array_equal(dataset.dictionary, weight)
    assert found["full_scale"] == [most]
    _, _, dataset = run(*arguments, "--full-scale", "250", capsys=capsys)
    np.testing.assert_array_equal(dataset.signals, counts.astype(float) / 250)


def test_the_scale_of_images_is_stated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = np.random.default_rng(0).integers(0, 2**16, (8, 8)).astype(np.uint16)
    Image.fromarray(words).save("deep.png")
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save("clear.png")
    arguments = ("--patch", "8", "--mean", "keep", "--dictionary", "random:5", "--t-max", "0.5", "--gap", "none")
    _, _, dataset = run("deep.png", *arguments, capsys=capsys)
    np.testing.assert_array_equal(dataset.signals[0], words.ravel() / 65535)
    assert dataset.scaling == "images divided by 65535"
    _, _, dataset = run("deep.png", *arguments, "--full-scale", "none", capsys=capsys)
    np.testing.assert_array_equal(dataset.signals[0], words.ravel())
    _, found, dataset = run("deep.png", "clear.png", *arguments, "--background", "0.25", capsys=capsys)
    np.testing.assert_allclose(dataset.signals[1], 0.25, rtol=0, atol=1e-15)
    assert found["full_scale"] == [255.0, 65535.0]
    assert dataset.scaling == "images divided by 255 or 65535, over a ground of 0.25"
    main(["deep.png", *arguments, "--figure", "none"])
    assert "images divided by 65535" in capsys.readouterr().out


def test_drawn_patches_are_those_of_all(here: Path) -> None:
    images = [np.random.default_rng(k).random((3, 9 + k, 11)) for k in range(2)]
    every = patches(images, 4, 2)
    chosen = np.array([0, 5, 11, 12, 20])
    some = patches(images, 4, 2, chosen)
    np.testing.assert_array_equal(some.values, every.values[chosen])
    for name, values in every.coordinates.items():
        np.testing.assert_array_equal(some.coordinates[name], values[chosen])
    for value, k, r, c in zip(every.values, *every.coordinates.values(), strict=True):
        np.testing.assert_array_equal(value, images[k][:, r : r + 4, c : c + 4].ravel())


def test_crop_and_scale(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--patch", "4", "--lam", "0.5x", "--t-max", "0.5", "--gap", "none", "--mean", "keep")
    _, _, dataset = run("stack.npy", *arguments, "--crop", "1,2,4,4", capsys=capsys)
    np.testing.assert_array_equal(dataset.signals[1], np.load("stack.npy")[1, 1:5, 2:6].ravel())
    _, half, _ = run("images/b.png", *arguments, "--scale", "0.5", capsys=capsys)
    assert half["signals"] == 6  # six patches of 4 x 4 fit into 10 x 12 pixels


def test_whole_images_with_a_convolutional_dictionary(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "--whole",
        "--kernel",
        "5",
        "--scales",
        "1",
        "--conv-stride",
        "3",
        "--lam",
        "0.3x",
        "--t-max",
        "2",
        "--gap",
        "none",
    )
    _, found, dataset = run("stack.npy", *arguments, capsys=capsys)
    assert dataset.z.dims == ("time", "signal", "colour", "row", "column")
    assert dataset.u.dims == ("time", "signal", "channel", "y", "x")
    assert found["signal_dim"] == 72
    critical = vd.ConvDictionary(
        torch.from_numpy(dataset.dictionary.to_numpy()), (1, 9, 8), stride=3, padding=2
    ).encode(torch.from_numpy(dataset.signals.to_numpy()))
    np.testing.assert_allclose(dataset.lam, 0.3 * critical.abs().amax((-3, -2, -1)), rtol=1e-12)


def test_dictionaries_from_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = np.random.default_rng(1).normal(size=(6, 4))
    np.save("weight.npy", weight)
    save_file({"one": torch.from_numpy(weight), "two": torch.zeros(2)}, "weights.safetensors")
    zarr.create_array("weight.zarr", data=weight)
    group = zarr.create_group("group.zarr")
    group.create_array("atoms", data=weight)
    for name in ("weight.npy", "weights.safetensors:one", "weight.zarr", "group.zarr/atoms"):
        _, found, dataset = run("signals.npy", "--dictionary", name, "--lam", "0.4", "--gap", "1e-2", capsys=capsys)
        np.testing.assert_array_equal(dataset.dictionary, weight)
        assert found["equilibrium"] is True  # there may be fewer atoms than neurons
        assert set(np.unique(dataset.lam)) == {0.4}


def test_zarr_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.load("signals.npy")
    zarr.create_array("signals.zarr", data=values.astype(np.float32))
    _, _, dataset = run("signals.zarr", *SMALL, capsys=capsys)
    np.testing.assert_array_equal(dataset.signals, values.astype(np.float32))


@pytest.mark.parametrize("field", ["sparse", "reduced", "encoder-decoder", "recurrent", "feed-forward"])
def test_every_field(field: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("weight.npy", 0.3 * np.eye(6))
    status, found, dataset = run("signals.npy", "--dictionary", "weight.npy", "--field", field, capsys=capsys)
    assert status == 0
    assert found["equilibrium"] is True
    x = dataset.signals.to_numpy()
    if field in ("encoder-decoder", "recurrent"):
        np.testing.assert_allclose(dataset.z_end, x / (1 - 0.09), atol=1e-4)
    if field == "feed-forward":
        np.testing.assert_allclose(dataset.z_end, x, atol=1e-4)


def test_every_parameter_reaches_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {
        "alpha": 1.5,
        "beta": 2.5,
        "gamma": 2.0,
        "tau_z": 0.5,
        "tau_u": 2.0,
        "rtol": 1e-5,
        "atol": 1e-7,
        "stop_gap": 1e-4,
    }
    wanted |= {
        "threshold": "nonnegative",
        "method": "bosh3",
        "every": 2,
        "chunk": 5,
        "seed": 4,
        "dtype": "float32",
        "t_max": 90.0,
    }
    options = [
        text
        for name, value in wanted.items()
        for text in (f"--{'gap' if name == 'stop_gap' else name.replace('_', '-')}", str(value))
    ]
    _, found, dataset = run(
        *(
            "signals.npy",
            "--dictionary",
            "random:5",
            "--record",
            "z,gap",
            "--neurons",
            "1,3-4",
            "--dt",
            "0.5",
            "--times",
            "even",
        ),
        *options,
        capsys=capsys,
    )
    assert {name: facts(dataset)[name] for name in wanted} == wanted
    assert set(dataset.data_vars) & {"z", "u", "code", "gap", "relative_gap"} == {"z", "gap"}
    assert list(dataset.neuron.to_numpy()) == [1, 3, 4]
    assert float(dataset.time[1]) == 1.0  # the store has every second of the times 0, .5, 1
    assert dataset.z.dtype == np.float32
    assert (
        found["problem"] == "non-negative elastic net: 1/2 |P a - x / 2|^2 + lam / 1.33333 |a|_1 + 0.1875 |a|^2, a >= 0"
    )
    problem = vd.SparseProblem(
        vd.DenseDictionary(torch.from_numpy(dataset.dictionary.to_numpy())),
        torch.from_numpy(dataset.signals.to_numpy()) / 2,
        torch.from_numpy(dataset.lam.to_numpy()) / (4 / 3),
        ridge=0.375,
        nonnegative=True,
    )
    assert float(problem.relative_gap(torch.from_numpy(dataset.code_end.to_numpy())).max()) <= 2e-4


def test_seeds_draw_different_dictionaries(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = [
        run("signals.npy", *SMALL, "--gap", "0.5", "--seed", seed, capsys=capsys)[2].dictionary.to_numpy()
        for seed in ("1", "1", "2")
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.1


def test_a_yaml_file_and_the_command_line_that_wins(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text(
        "input: signals.npy\ndictionary: random:7\nlam: 0.25\nrtol: 1e-5\nt-max: 50\n"
        "record: [z, gap]\ngap: null\nseed: 3\n"
    )
    status, found, dataset = run("--config", "run.yaml", "--seed", "5", "--t-max", "20", capsys=capsys)
    assert status == 0
    assert (found["code_dim"], found["t_max"], found["equilibrium"]) == (7, 20.0, False)
    assert (dataset.rtol, dataset.seed, facts(dataset)["lam"]) == (1e-5, 5, 0.25)
    assert facts(dataset)["variables"] == ["z", "gap"]


def test_exit_status_1_where_the_gap_is_not_reached(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found, dataset = run("signals.npy", *SMALL, "--t-max", "1", capsys=capsys)
    assert status == 1
    assert found["equilibrium"] is False
    assert found["status"] == dataset.status == "reached t_max"
    assert found["relative_gap_max"] > 1e-6


def test_exit_status_1_where_the_integration_fails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signals.npy", *SMALL, "--max-steps", "30", "--out", "run.zarr"]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "30 steps" in printed.err
    assert xr.open_zarr("run.zarr").status.item().startswith("failed")
    status, _, resumed = run("--resume", "--max-steps", "100000", "--out", "run.zarr", capsys=capsys)
    assert status == 0
    assert resumed.status == "settled"


def test_the_same_command_twice_gives_two_stores(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        assert main(["signals.npy", *SMALL, "--gap", "1e-2"]) == 0
        assert Path(f"run-{number:04d}.zarr").is_dir()
        assert Path(f"run-{number:04d}.png").is_file()
    table = capsys.readouterr().out
    for word in (
        "LASSO",
        "3 signals of 6 neurons, 9 encoding neurons",
        "evaluations",
        "relative gap",
        "KKT",
        "run-0002.zarr",
    ):
        assert word in table


def test_overwriting_when_told_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signals.npy", *SMALL, "--out", "run.zarr", "--figure", "none"]) == 0
    capsys.readouterr()
    status, _, dataset = run("signals.npy", *SMALL, "--lam", "0.4x", "--out", "run.zarr", "--overwrite", capsys=capsys)
    assert status == 0
    assert json.loads(facts(dataset)["options"])["lam"] == "0.4x"


def test_resuming_needs_nothing_but_the_store(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = ("signals.npy", "--dictionary", "random:9", "--lam", "0.3x", "--chunk", "4", "--seed", "2")
    assert main([*first, "--t-max", "7", "--out", "parts.zarr", "--figure", "none"]) == 1
    capsys.readouterr()
    _, _, whole = run(*first, "--t-max", "100", "--out", "whole.zarr", capsys=capsys)
    _, _, parts = run("--resume", "--t-max", "100", "--out", "parts.zarr", capsys=capsys)
    assert_same_bits(whole, parts)
    assert main(["--resume", "--out", "parts.zarr", "--figure", "none"]) == 0  # the store knows its new t_max


@pytest.mark.parametrize("case", ["zero signals", "lam above critical", "duplicate atoms", "one signal", "one point"])
def test_valid_edge_cases(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["signals.npy", *SMALL]
    if case == "zero signals":
        np.save("signals.npy", np.zeros((2, 6)))
    elif case == "lam above critical":
        arguments += ["--lam", "1.1x"]
    elif case == "duplicate atoms":
        np.save("weight.npy", np.tile(np.random.default_rng(0).normal(size=(6, 3)), 2))
        arguments += ["--dictionary", "weight.npy"]
    elif case == "one signal":
        np.save("signals.npy", np.load("signals.npy")[:1])
    else:
        arguments += ["--every", "1000000"]
    status, found, dataset = run(*arguments, capsys=capsys)
    if case == "one point":
        assert float(dataset.time[0]) == 0.0
        assert dataset.sizes["time"] <= 2  # one for the start, one for rest
    assert status == 0
    assert found["equilibrium"] is True
    if case in ("zero signals", "lam above critical"):
        assert found["active_fraction"] == 0.0


@pytest.mark.parametrize("spacing", ["even", "octaves"])
def test_times_do_not_depend_on_t_max(spacing: str) -> None:
    def times(t_max: float) -> np.ndarray[Any, Any]:
        return times_of(parse(["--t-max", str(t_max), "--dt", "0.1", "--times", spacing]).integrator).numpy()

    longest = times(500.0)
    for t_max in (0.03, 0.1, 3.95, 4.0, 4.1, 77.7, 256.0):
        some = times(t_max)
        assert some[0] == 0.0
        assert some[-1] == pytest.approx(t_max)
        assert np.diff(some).min() > 0
        np.testing.assert_array_equal(some[:-1], longest[: len(some) - 1])
    assert len(longest) == (5001 if spacing == "even" else 181)


# Bad input gives one line and status 2, and writes nothing


def _text(name: str, content: str) -> Callable[[], None]:
    return lambda: [Path(name).write_text(content), None][1]


def _save(name: str, values: Any) -> Callable[[], None]:
    return lambda: np.save(name, values, allow_pickle=True)


def _truncated_image() -> None:
    data = Path("images/b.png").read_bytes()
    Path("cut.png").write_bytes(data[: len(data) // 2])


def _truncated_array() -> None:
    data = Path("signals.npy").read_bytes()
    Path("cut.npy").write_bytes(data[:-20])


def _with(value: float) -> Any:
    values = np.ones((3, 6))
    values[1, 2] = value
    return values


BAD_INPUTS: dict[str, tuple[Callable[[], Any] | None, tuple[str, ...], str]] = {
    "missing file": (None, ("none.png",), "none.png does not exist"),
    "unreadable file": (None, ("images/b.png/x",), "does not exist"),
    "truncated image": (_truncated_image, ("cut.png",), "cut.png cannot be read as an image"),
    "truncated array": (_truncated_array, ("cut.npy",), "cut.npy cannot be read as .npy"),
    "no image": (_text("text.png", "hello"), ("text.png",), "text.png is no image"),
    "no image either": (_text("text.txt", "hello"), ("text.txt",), "text.txt is no image"),
    "an empty file": (_text("empty.npy", ""), ("empty.npy",), "empty.npy cannot be read"),
    "a pickle": (_save("pickle.npy", np.array([{}], dtype=object)), ("pickle.npy",), "pickle.npy cannot be read"),
    "NaN": (_save("nan.npy", _with(math.nan)), ("nan.npy",), "NaN or infinity, first at (1, 2)"),
    "infinity": (_save("inf.npy", _with(math.inf)), ("inf.npy",), "NaN or infinity"),
    "one dimension": (_save("one.npy", np.ones(5)), ("one.npy",), "shape (5,)"),
    "four dimensions": (_save("four.npy", np.ones((2, 2, 2, 2))), ("four.npy",), "shape (2, 2, 2, 2)"),
    "no signals": (_save("none.npy", np.ones((0, 6))), ("none.npy",), "is empty"),
    "complex numbers": (_save("complex.npy", np.ones((2, 6), complex)), ("complex.npy",), "dtype complex128"),
    "integers that float64 rounds": (
        _save("big.npy", np.full((2, 6), 2**53 + 1)),
        ("big.npy",),
        "integers of 2^53 or more",
    ),
    "text": (_save("words.npy", np.array([["a", "b"]])), ("words.npy",), "dtype <U1"),
    "an empty folder": (lambda: Path("empty").mkdir(), ("empty",), "empty holds no image"),
    "a zarr group": (lambda: zarr.create_group("group.zarr"), ("group.zarr",), "is a zarr group"),
    "images and arrays": (None, ("images", "signals.npy"), "images, or one array"),
    "rows coded whole": (None, ("signals.npy", "--whole"), "--whole wants images"),
    "images of two sizes coded whole": (
        lambda: Image.new("L", (9, 9)).save("images/c.png"),
        ("images", "--whole"),
        "--whole wants one size",
    ),
    "an image smaller than a patch": (None, ("images", "--patch", "21"), "at least the patch of 21 x 21"),
    "a crop that sticks out": (None, ("images", "--crop", "0,0,30,5"), "crop is 0,0,30,5"),
    "more patches than there are": (None, ("images", "--patches", "1000"), "--patches is 1000"),
    "a dictionary that does not fit": (
        _save("w.npy", np.ones((5, 4))),
        ("signals.npy", "--dictionary", "w.npy"),
        "atoms of 5",
    ),
    "a dictionary of another kind": (
        _save("w.npy", np.ones(5)),
        ("signals.npy", "--dictionary", "w.npy"),
        "shape (5,)",
    ),
    "no atoms": (_save("w.npy", np.ones((6, 0))), ("signals.npy", "--dictionary", "w.npy"), "is empty"),
    "an atom that is zero": (_save("w.npy", np.eye(6, 7)), ("signals.npy", "--dictionary", "w.npy"), "atom 6 is zero"),
    "NaN in a dictionary": (_save("w.npy", np.full((6, 2), np.nan)), ("signals.npy", "--dictionary", "w.npy"), "NaN"),
    "no such dictionary": (None, ("signals.npy", "--dictionary", "w.npy"), "w.npy does not exist"),
    "a dictionary of no known kind": (_text("w.txt", "1"), ("signals.npy", "--dictionary", "w.txt"), "no known kind"),
    "no safetensors": (_text("w.safetensors", "1"), ("signals.npy", "--dictionary", "w.safetensors"), "cannot be read"),
    "zero random atoms": (None, ("signals.npy", "--dictionary", "random:0"), "at least 1"),
    "random nonsense": (None, ("signals.npy", "--dictionary", "random:many"), "random:M"),
    "Gabors for what is no patch": (None, ("signals.npy",), "square patches"),
    "a negative lam": (None, ("signals.npy", *SMALL, "--lam", "-0.1"), "--lam is '-0.1'"),
    "a negative share": (None, ("signals.npy", *SMALL, "--lam", "-0.1x"), "--lam is '-0.1x'"),
    "lam NaN": (None, ("signals.npy", *SMALL, "--lam", "nan"), "--lam is 'nan'"),
    "alpha zero": (None, ("signals.npy", *SMALL, "--alpha", "0"), "alpha is 0"),
    "an option of another field": (
        None,
        ("signals.npy", "--dictionary", "random:3", "--field", "recurrent", "--gamma", "1"),
        "--gamma is no parameter",
    ),
    "no equilibrium": (
        _save("w.npy", 2 * np.eye(6)),
        ("signals.npy", "--dictionary", "w.npy", "--field", "recurrent"),
        "no stable equilibrium",
    ),
    **{
        f"--{name} {value}": (None, ("signals.npy", *SMALL, f"--{name}", value), f"--{name} is '{value}'")
        for name in ("rtol", "atol", "gap", "t-max", "dt", "step")
        for value in ("0", "-1", "nan", "soon")
    },
    "unknown method": (None, ("signals.npy", *SMALL, "--method", "dopri6"), "--method is 'dopri6'; one of dopri5"),
    "unknown option": (None, ("signals.npy", *SMALL, "--speed", "1"), "--speed"),
    "nearly an option": (None, ("signals.npy", *SMALL, "--tmax", "1"), "did you mean --t-max?"),
    "nearly a method": (None, ("signals.npy", *SMALL, "--method", "dopri"), "did you mean dopri8 or dopri5?"),
    "nearly a variable": (None, ("signals.npy", *SMALL, "--record", "relative-gap"), "did you mean relative_gap?"),
    "nearly a bank": (None, ("signals.npy", "--dictionary", "gabr"), "did you mean gabor?"),
    "an abbreviated option": (None, ("signals.npy", *SMALL, "--meth", "rk4"), "--meth"),
    "an option without a value": (None, ("signals.npy", "--lam"), "--lam"),
    "unknown variable": (None, ("signals.npy", *SMALL, "--record", "z,energy"), "--record is 'z,energy'"),
    "a neuron that there is not": (None, ("signals.npy", *SMALL, "--neurons", "0,6"), "neurons holds 6"),
    "every zeroth time": (None, ("signals.npy", *SMALL, "--every", "0"), "--every is '0'"),
    "unknown device": (None, ("signals.npy", *SMALL, "--device", "gpu"), "--device gpu is not there"),
    "unknown dtype": (None, ("signals.npy", *SMALL, "--dtype", "int8"), "--dtype is 'int8'"),
    "too many times": (None, ("signals.npy", *SMALL, "--times", "even", "--dt", "1e-12"), "at most 1e8"),
    "no such configuration": (None, ("--config", "none.yaml"), "none.yaml cannot be read"),
    "unknown option in it": (
        _text("c.yaml", "lamda: 1"),
        ("--config", "c.yaml"),
        "the options; did you mean lam",
    ),
    "bad value in it": (_text("c.yaml", "rtol: -1"), ("--config", "c.yaml"), "--rtol is '-1'"),
    "no YAML": (_text("c.yaml", "a: [1"), ("--config", "c.yaml"), "c.yaml is no YAML"),
    "YAML that is a list": (_text("c.yaml", "- 1"), ("--config", "c.yaml"), "holds a list"),
    "a figure of no known kind": (None, ("signals.npy", *SMALL, "--figure", "run.doc"), "--figure is run.doc"),
    "a figure in place of the input": (
        None,
        ("images/b.png", "--patch", "8", "--figure", "images/b.png", "--overwrite"),
        "is an INPUT",
    ),
    "a figure in place of a picture": (
        lambda: Image.new("L", (9, 9)).save("holiday.png"),
        ("signals.npy", *SMALL, "--figure", "holiday.png"),
        "holiday.png exists",
    ),
    "resuming without a store": (None, ("signals.npy", *SMALL, "--resume"), "--resume came without --out"),
    "resuming what is not there": (None, ("--resume", "--out", "none.zarr"), "none.zarr does not exist"),
    "resuming what is no store": (None, ("--resume", "--out", "images"), "images is no store"),
    "resuming and overwriting": (None, ("--resume", "--overwrite", "--out", "run.zarr"), "--resume and --overwrite"),
    "a store under a file": (None, ("signals.npy", *SMALL, "--out", "signals.npy/run.zarr"), "cannot be written"),
    "a folder in the store's place": (
        None,
        ("signals.npy", *SMALL, "--out", "images", "--overwrite"),
        "never overwritten",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare, arguments, expected = BAD_INPUTS[case]
    if prepare is not None:
        prepare()
    assert expected in refused(*arguments, capsys=capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--device cuda is not there" in refused("signals.npy", *SMALL, "--device", "cuda", capsys=capsys)


def test_a_store_that_exists(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signals.npy", *SMALL, "--out", "run.zarr", "--gap", "0.5", "--figure", "none"]) == 0
    capsys.readouterr()
    assert "run.zarr exists" in refused("signals.npy", *SMALL, "--out", "run.zarr", capsys=capsys)
    # Bad input leaves the old store alone, even with --overwrite.
    bad = ("signals.npy", *SMALL, "--out", "run.zarr", "--overwrite", "--neurons", "77")
    assert "neurons holds 77" in refused(*bad, capsys=capsys)


def test_a_store_resumed_with_other_parameters(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["signals.npy", *SMALL, "--gap", "1e-15", "--t-max", "150", "--out", "run.zarr", "--figure", "none"]) == 1
    )
    capsys.readouterr()
    for options, named in (
        (("--lam", "0.4x"), "another lam: it has 0.3x, this run has 0.4x"),
        (("--rtol", "1e-5"), "another rtol: it has 1e-6, this run has 1e-5"),
        (("--dictionary", "random:8"), "another dictionary: it has random:9, this run has random:8"),
        (("--t-max", "100"), "smaller t_max"),
        (("--device", "cuda"), "another device: it has cpu, this run has cuda"),
    ):
        assert named in refused("--out", "run.zarr", "--resume", *options, capsys=capsys)


def test_a_store_resumed_with_other_signals(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signals.npy", *SMALL, "--t-max", "1", "--out", "run.zarr", "--figure", "none"]) == 1
    capsys.readouterr()
    np.save("signals.npy", np.load("signals.npy") + 1e-9)
    assert "another signals_sha256" in refused("--out", "run.zarr", "--resume", "--t-max", "2", capsys=capsys)


def test_disks_that_are_full_or_may_not_be_written(here: Path) -> None:
    """Give each run a file system of its own, and make all runs in one process, to save time.

    One file system is mounted read-only, because root could write to a folder without permission.
    """
    common = f"signals.npy {' '.join(SMALL)} --times even --dt 0.01 --figure none"
    lines = [
        f"{common} --out full/run.zarr",
        f"{common} --out locked/run.zarr",
        f"{common} --t-max 0.2 --gap 1e-15 --chunk 4 --out later/run.zarr",
        "--resume --t-max 400 --out later/run.zarr --figure none",  # the disk fills while this run goes on
    ]
    disks = {"full": "size=600k", "locked": "ro", "later": "size=1200k"}
    mounts = " && ".join(f"mkdir -p {name} && mount -t tmpfs -o {how} tmpfs {name}" for name, how in disks.items())
    inside = ["unshare", "-Urm", "sh", "-c"]
    missing = shutil.which("unshare") is None
    if missing or subprocess.run([*inside, mounts], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    code = "import sys; from vars_dyn.simulate import main; [print('status', main(a.split())) for a in sys.argv[1:]]"
    script = f"{mounts} && {shlex.join([sys.executable, '-c', code, *lines])} && ls full locked later"
    environment = os.environ | {"PYTHONPATH": str(Path(vd.__file__).parents[1])}
    done = subprocess.run(
        [*inside, script], cwd=here, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    printed = [line for line in done.stdout.splitlines() if line.startswith("status ")]
    assert printed == ["status 2", "status 2", "status 1", "status 2"], done.stderr
    assert done.stdout.endswith("full:\nrun.zarr\n\nlater:\nrun.zarr\n\nlocked:\n")
    full, locked, later = done.stderr.splitlines()
    assert "full/run.zarr cannot be written: the disk is full" in full
    assert "locked/run.zarr cannot be written: no permission to write" in locked
    assert "later/run.zarr cannot be written: the disk is full" in later


# Killed runs


def test_killed_and_resumed_from_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "signals.npy",
        "--dictionary",
        "random:9",
        "--lam",
        "0.1x",
        "--chunk",
        "2",
        "--times",
        "even",
        "--figure",
        "none",
    ]
    arguments += ["--t-max", "40", "--gap", "1e-15", "--dt", "0.25", "--record", "z,code,gap"]
    environment = os.environ | {"PYTHONPATH": str(Path(vd.__file__).parents[1])}
    command = [sys.executable, "-m", "vars_dyn.simulate", *arguments, "--out", "killed.zarr"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and read_attributes(Path("killed.zarr")).get("snapshot_index", 0) < 30:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with xr.open_zarr("killed.zarr") as seen:
        assert seen.status == "running"
        assert 30 < seen.sizes["time"] < 160
    assert main([*arguments, "--out", "whole.zarr"]) == 1
    assert main(["--resume", "--out", "killed.zarr", "--figure", "none"]) == 1
    capsys.readouterr()
    assert_same_bits(xr.open_zarr("killed.zarr"), xr.open_zarr("whole.zarr"))


# Other runs and foreign files in the same folder


def test_a_default_run_that_is_killed_leaves_nothing_for_long(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill runs at their start, while they make the store, and later, and leave an unfinished figure."""
    environment = os.environ | {"PYTHONPATH": str(Path(vd.__file__).parents[1])}
    options = ["signals.npy", "--dictionary", "random:9", "--lam", "0.1x", "--t-max", "1e5", "--gap", "1e-15"]
    command = [sys.executable, "-m", "vars_dyn.simulate", *options, "--chunk", "1", "--times", "even", "--dt", "1"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(here.glob(".run-0001.zarr.*")):
        time.sleep(0.001)
    process.kill()
    process.wait()
    hidden = Workplace.begin(Path("run-0001.png"))
    assert hidden._lock is not None
    os.close(hidden._lock)  # a killed process closes its lock too
    assert list(here.glob(".run-0001.*"))
    status, found, _ = run("signals.npy", *SMALL, capsys=capsys)
    assert status == 0
    assert not list(here.glob(".run-*"))
    assert sorted(path.name for path in here.glob("run-*")) == ["run-0001.zarr"]
    assert found["status"] == "settled"


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_only_figures_of_simulations_are_replaced(suffix: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = Path(f"figure.{suffix}")
    figure.write_bytes(Path("images/b.png").read_bytes())
    before = figure.read_bytes()
    short = ("--t-max", "1", "--gap", "none", "--times", "even")
    arguments = ("signals.npy", *SMALL, *short, "--out", "run.zarr", "--overwrite", "--figure", str(figure))
    assert f"{figure} exists and is no figure of a simulation" in refused(*arguments, capsys=capsys)
    assert figure.read_bytes() == before
    figure.unlink()
    for _ in range(2):
        assert main([*arguments]) == 0
    figure.rename("kept")
    figure.symlink_to("kept")
    capsys.readouterr()
    assert "a symbolic link" in refused(*arguments, capsys=capsys)


def test_a_store_is_not_put_where_its_input_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signals.npy", *SMALL, "--out", "first.zarr", "--figure", "none"]) == 0
    capsys.readouterr()
    to = ("--out", "first.zarr", "--overwrite", "--figure", "none")
    assert "where the input" in refused("first.zarr/signals", *SMALL, *to, capsys=capsys)
    with_atoms = ("signals.npy", *SMALL, "--dictionary", "first.zarr/dictionary", *to)
    assert "where the input" in refused(*with_atoms, capsys=capsys)
    inside = ("signals.npy", *SMALL, "--out", "first.zarr/second.zarr", "--figure", "none")
    assert "inside the zarr store" in refused(*inside, capsys=capsys)
    inside = ("signals.npy", *SMALL, "--out", "second.zarr", "--figure", "first.zarr/run.png")
    assert "inside the zarr store" in refused(*inside, capsys=capsys)


@pytest.mark.parametrize("damage", ["signals/c.0.0", "dictionary/c.0.0", "zarr.json", "z/zarr.json", "run/zarr.json"])
def test_a_damaged_store_is_refused_in_a_line(damage: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signals.npy", *SMALL, "--t-max", "2", "--out", "run.zarr", "--figure", "none"]) == 1
    capsys.readouterr()
    file = Path("run.zarr") / damage
    file.write_bytes(file.read_bytes()[:-20])
    said = refused("--out", "run.zarr", "--resume", "--t-max", "3", capsys=capsys)
    assert "damaged" in said or "no store" in said
