"""The command as a process: the resources that it needs, its standard streams, and its end by a signal."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import vars_dyn as vd
from tests.recording.helpers import assert_same_bits
from vars_dyn import _resources
from vars_dyn.recording.integrity import read_attributes
from vars_dyn.simulate import main

SMALL = ("signals.npy", "--dictionary", "random:9", "--lam", "0.3x", "--t-max", "400", "--chunk", "64")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(vd.__file__).parents[1])}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a few signals."""
    monkeypatch.chdir(tmp_path)
    np.save("signals.npy", np.random.default_rng(0).normal(size=(3, 6)))
    return tmp_path


def refused(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line with which the command refuses. It must be quick, and write no file. The status must be 2."""
    before, began = set(Path.cwd().rglob("*")), time.perf_counter()
    assert main([*arguments]) == 2
    assert time.perf_counter() - began < 10
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 1000
    assert set(Path.cwd().rglob("*")) == before
    return printed.err


# Memory, disk and time


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--dictionary", "random:999999999999"), "of 999999999999 atoms, needs about"),
        (("--dictionary", "gabor", "--orientations", "999999999"), "needs about"),
        (("--dictionary", "gabor", "--scales", "999999999"), "--scales is 999999999"),
        (("--chunk", "999999999999"), "a smaller --chunk"),
        (("--neurons", "0-999999999999"), "at most 10000000 indices"),
        (("--check-every", "1e-9"), "4e+11 looks at the gap"),
        (("--t-max", "1e300"), "1e+301 times; at most 1e8"),
        (("--threads", "99999999"), "an integer of at most 1024"),
        (("--seed", "99999999999999999999"), "an integer of at most"),
        (("--lam", "9" * 5000), "--lam is"),
        (("--full-scale", "1e-320"), "overflows"),
        (("--record", "z,z"), "each once"),
        (("--out", ""), "a path is wanted"),
    ],
)
def test_absurd_numbers(
    options: tuple[str, ...], expected: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(*SMALL, *options, capsys=capsys)


def test_a_run_that_cannot_fit(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph of 24 million pixels meets machines of several sizes."""
    Image.new("L", (6000, 4000)).save("photo.png", compress_level=1)
    arguments = ("photo.png", "--t-max", "0.2", "--figure", "none", "--out", "disk/run.zarr")
    monkeypatch.setattr(_resources, "free_memory", lambda: 4 * 10**9)
    monkeypatch.setattr("vars_dyn.simulate.limits.free_disk", lambda _: 10**12)
    told = refused(*arguments, capsys=capsys)
    assert "93750 signals of 256 neurons and 168 encoding neurons" in told
    assert "4 GB are free; fewer signals (--patches, --crop, --scale)" in told
    monkeypatch.setattr(_resources, "free_memory", lambda: 64 * 10**9)
    monkeypatch.setattr("vars_dyn.simulate.limits.free_disk", lambda _: 10**8)
    told = refused(*arguments, capsys=capsys)
    assert "100 MB of disk are free" in told
    assert "--record" in told
    monkeypatch.setattr(_resources, "free_memory", lambda: 10**8)
    assert "an image of 6000 x 4000 pixels needs about" in refused(*arguments, capsys=capsys)


def test_a_large_run_is_announced(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vars_dyn.simulate.limits._MUCH", 10**4)
    monkeypatch.setattr("vars_dyn.simulate.limits.free_disk", lambda _: 5 * 10**4)
    assert main([*SMALL, "--gap", "1e-2", "--figure", "none"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("3 signals of 6 neurons, 9 encoding neurons each: about ")
    assert second.startswith("50 kB of disk are free")


def test_the_disk_that_is_worked_out_is_enough(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The size of the store lies between the two estimates, apart from its metadata."""
    from vars_dyn.simulate.build import dictionary_of, times_of
    from vars_dyn.simulate.cli import parse
    from vars_dyn.simulate.inputs import read_signals
    from vars_dyn.simulate.limits import demand_of

    np.save("signals.npy", np.random.default_rng(0).normal(size=(300, 40)))
    line = ["signals.npy", "--dictionary", "random:90", "--t-max", "30", "--gap", "none", "--out", "run.zarr"]
    options = parse(line)
    signals = read_signals(options.signals, 0)
    dictionary = dictionary_of(options.dictionary, signals, seed=0)
    demand = demand_of(options, signals, dictionary, times_of(options.integrator))
    assert main([*line, "--figure", "none"]) == 0
    capsys.readouterr()
    chunks = [path for path in Path("run.zarr").rglob("c*") if path.is_file()]
    assert demand.least < sum(path.stat().st_size for path in chunks) < demand.most


# Options that do nothing


@pytest.mark.parametrize(
    ("line", "named"),
    [
        *((f"signals.npy --{name}", f"--{name.split()[0]} does nothing with an array of signals") for name in (
            "crop 0,0,2,2", "scale 2", "patch 8", "stride 2", "patches 2", "colour", "background 0")),
        ("signals.npy --kernel 5", "--kernel does nothing without --whole"),
        ("signals.npy --conv-stride 5", "--conv-stride does nothing without --whole"),
        *((f"signals.npy --dictionary random:9 --{name} 3", f"--{name} does nothing with --dictionary random:9")
          for name in ("orientations", "scales", "phases", "places", "wavelength")),
        ("stack.npy --patch 4 --colour", "--colour does nothing with a stack of grey images"),
        ("stack.npy --whole --patch 4", "--patch does nothing with --whole"),
        ("stack.npy --whole --dictionary gabor --places 2", "--places does nothing with --whole"),
        ("stack.npy --whole --dictionary k.npy --kernel 5", "--kernel does nothing with --dictionary k.npy"),
        ("signals.npy --gap none --check-every 1", "--check-every does nothing with --gap none"),
        ("signals.npy --method rk4 --rtol 1e-3", "--rtol does nothing with --method rk4"),
        ("signals.npy --record gap --neurons 1", "--neurons does nothing with --record gap"),
        ("signals.npy --record z --atoms 1", "--atoms does nothing with --record z"),
    ],
)  # fmt: skip
def test_options_that_do_nothing(line: str, named: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("stack.npy", np.random.default_rng(0).random((2, 9, 8)))
    np.save("k.npy", np.random.default_rng(0).random((2, 1, 3, 3)))
    words = line.split()
    assert named in refused(*words, *(() if "--dictionary" in words else ("--dictionary", "random:9")), capsys=capsys)


def test_a_seed_that_draws_nothing_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("w.npy", np.eye(6))
    assert main(["signals.npy", "--dictionary", "w.npy", "--seed", "3", "--gap", "1e-2", "--figure", "none"]) == 0
    assert capsys.readouterr().err == (
        "warning: --seed changes nothing: neither noise, --dictionary random:M nor --patches draws by it\n"
    )


# Paths that are no regular files


@pytest.mark.parametrize("name", ["pipe", "pipe.npy", "pipe.safetensors", "/dev/zero", "/dev/null", "empty.png"])
@pytest.mark.parametrize("option", [(), ("--dictionary",), ("--config",)])
def test_no_regular_file(name: str, option: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for pipe in ("pipe", "pipe.npy", "pipe.safetensors"):
        os.mkfifo(pipe)
    Path("empty.png").touch()
    if name == "empty.png" and option == ("--config",):
        return  # an empty file is a valid file of options
    line = (name,) if not option else ("signals.npy", *option, name)
    assert name in refused(*line, capsys=capsys)


def test_an_array_that_says_it_is_larger(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path("signals.npy").read_bytes()
    Path("huge.npy").write_bytes(data.replace(b"(3, 6), }" + b" " * 9, b"(3000000000, 6), }"))
    assert "huge.npy cannot be read as .npy" in refused("huge.npy", capsys=capsys)


# Streams and signals


def shell(line: str, here: Path) -> subprocess.CompletedProcess[str]:
    command = (
        f"{shlex.quote(sys.executable)} -m vars_dyn.simulate {shlex.join(SMALL)} --figure none --gap 0.5 --record z"
    )
    return subprocess.run(
        ["bash", "-c", line.replace("SIMULATE", command)],
        cwd=here, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_streams_that_are_closed_or_broken(here: Path) -> None:
    """Run with a closed pipe, without streams, and with a full disk, all in one shell to save time."""
    done = shell(
        "SIMULATE --json | true; echo ${PIPESTATUS[0]}; SIMULATE --out a.zarr >&- 2>&-; echo $?; "
        "SIMULATE --out b.zarr >/dev/full; echo $?",
        here,
    )
    assert done.stdout == "0\n0\n2\n"
    assert done.stderr.count("\n") == 1
    assert "standard output cannot be written: No space left on device; the store b.zarr is complete" in done.stderr
    for name in ("run-0001.zarr", "a.zarr", "b.zarr"):
        assert xr.open_zarr(here / name).status == "settled"


def goes_on(told: str, word: str, out: str) -> None:
    """Check that an interrupted run says how to go on."""
    assert told.startswith(f"{word}: {out} is whole up to its last commit; go on with: ")
    assert told.count("\n") == 1
    words = shlex.split(told.partition(" with: ")[2])
    assert words == [sys.executable, "-m", "vars_dyn.simulate", "--resume", "--out", out, "--figure", "none", "--json"]


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_the_command_that_goes_on(
    number: int,
    status: int,
    word: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = "a store's name.zarr"
    line = [*SMALL, "--gap", "1e-2", "--chunk", "4", "--out", out, "--figure", "none", "--json"]
    monkeypatch.setattr("vars_dyn.simulate.run._Bar.__call__", lambda *_: os.kill(os.getpid(), number))
    handler = signal.getsignal(signal.SIGTERM)
    assert main(line) == status
    assert signal.getsignal(signal.SIGTERM) == handler
    printed = capsys.readouterr()
    assert printed.out == ""
    goes_on(printed.err, word, out)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert main(shlex.split(printed.err.partition(" with: ")[2])[3:]) == 0  # the printed command works
    assert main([*SMALL, "--gap", "1e-2", "--chunk", "4", "--out", "whole.zarr", "--figure", "none"]) == 0
    assert_same_bits(xr.open_zarr(out), xr.open_zarr("whole.zarr"))


def test_terminated_as_a_process(here: Path) -> None:
    line = [sys.executable, "-m", "vars_dyn.simulate", *SMALL, "--gap", "1e-15", "--chunk", "2", "--times", "even"]
    line += ["--dt", "0.01", "--record", "gap", "--out", "run.zarr", "--figure", "none", "--json"]
    process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and read_attributes(Path("run.zarr")).get("snapshot_index", 0) < 4:
        time.sleep(0.01)
    process.terminate()
    printed, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert printed == ""
    goes_on(told, "terminated", "run.zarr")
