"""Signals that are simulated in blocks: one store as of all signals together, whatever processes did the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from vars_dyn.integration import Snapshot
from vars_dyn.recording import facts, open_dataset
from vars_dyn.recording.joining import EndKeeper
from vars_dyn.simulate import blocks, main

OPTIONS = ["--dictionary", "random:24", "--lam", "0.5x", "--t-max", "12", "--dt", "0.5", "--chunk", "8",
           "--gap", "1e-4", "--figure", "none"]  # fmt: skip
LITTLE = ["--record", "code,relative_gap"]


@pytest.fixture
def signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Fourteen signals in blocks of eight. Those of the first block are zero, and settle at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks, "_NUMBERS", 8 * 12)
    values = np.random.default_rng(0).standard_normal((14, 12))
    values[:8] = 0
    np.save("x.npy", values)
    return "x.npy"


def run(signals: str, out: str, *more: str) -> xr.Dataset:
    assert main([signals, *OPTIONS, "--out", out, *more]) in (0, 1)
    return open_dataset(out).load()


def structure(store: str) -> dict[str, object]:
    """Shape, chunks, dtype, dimensions and attributes of every array."""
    found = {}
    for name, array in zarr.open_group(store, mode="r").members(max_depth=None):
        if isinstance(array, zarr.Array):
            kept = (array.shape, array.chunks, array.dtype, array.metadata.dimension_names, dict(array.attrs))
            found[name] = kept
    return found


def test_the_store_is_that_of_all_signals_together(signals: str, capsys: pytest.CaptureFixture[str]) -> None:
    some = ("--record", "z,code,lyapunov")
    whole, joined = run(signals, "whole.zarr", *some), run(signals, "joined.zarr", *some, "--workers", "0")
    assert structure("joined.zarr") == structure("whole.zarr")
    assert joined["time"].equals(whole["time"])
    assert joined["signals"].equals(whole["signals"])
    # Blocks have their own steps, so they agree to the tolerances. A block that has settled keeps its last state.
    for name in ("z", "code", "z_end", "code_end", "lyapunov"):
        assert np.abs(joined[name].values - whole[name].values).max() < 1e-4, name
    assert (joined["code_end"].values == joined["code"].values[-1]).all()
    assert (joined["relative_gap_end"].values[:8] == 0).all()
    of = facts(joined)
    assert of["status"] == facts(whole)["status"] == "reached t_max"
    assert of["signals_per_block"] == 8
    assert not Path("joined.zarr.blocks").exists()
    # It is resumed like any other, but no more in blocks.
    assert main(["--resume", "--out", "joined.zarr", "--workers", "2", "--t-max", "20"]) == 2
    assert "no run in blocks" in capsys.readouterr().err
    for store in ("joined.zarr", "whole.zarr"):
        assert main(["--resume", "--out", store, "--t-max", "90"]) == 0
    joined, whole = open_dataset("joined.zarr"), open_dataset("whole.zarr")
    assert facts(joined)["equilibrium"] is True
    assert float(joined["relative_gap_end"].max()) < 1e-4
    assert np.abs(joined["code_end"].values - whole["code_end"].values).max() < 0.02
    shared = min(joined.sizes["time"], whole.sizes["time"])
    assert (joined["time"].values[:shared] == whole["time"].values[:shared]).all()


def test_whoever_does_the_work_and_however_often_it_is_interrupted_the_bits_are_the_same(
    signals: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="the extra cluster is not installed")
    undisturbed = run(signals, "a.zarr", *LITTLE, "--workers", "2")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    class Stopping(EndKeeper):
        """Stops in the second block, after its first commit."""

        def __call__(self, now: Snapshot) -> None:
            super().__call__(now)
            if bool(now.live.any()) and now.time > 5:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(blocks, "EndKeeper", Stopping)
        assert main([signals, *OPTIONS, *LITTLE, "--out", "b.zarr", "--workers", "0"]) == 130
    assert "--resume --out b.zarr --figure none --workers 0" in capsys.readouterr().err
    assert not Path("b.zarr").exists()
    for wrong, words in (
        ([signals, *OPTIONS, "--workers", "0"], "resume the run that it belongs to"),
        ([signals, *OPTIONS], "has not ended; resume it"),
        (["--resume", "--t-max", "20"], "another t_max"),
    ):
        assert main([*wrong, "--out", "b.zarr"]) == 2
        assert words in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(blocks, "join_plan", stop)
        assert main(["--resume", "--out", "b.zarr", "--figure", "none"]) == 130
    kept = np.load(signals)
    np.save(signals, kept + 1)
    assert main(["--resume", "--out", "b.zarr", "--figure", "none"]) == 2
    assert "other signals" in capsys.readouterr().err
    np.save(signals, kept)
    with monkeypatch.context() as patched:
        patched.setattr(blocks.shutil, "rmtree", stop)
        assert main(["--resume", "--out", "b.zarr", "--figure", "none"]) == 130
    assert main(["--resume", "--out", "b.zarr", "--figure", "none"]) == 1
    again = open_dataset("b.zarr").load()
    for name in ("code", "relative_gap", "settled_at", "code_end"):
        assert again[name].values.tobytes() == undisturbed[name].values.tobytes(), name
    assert facts(again)["evaluations"] == facts(undisturbed)["evaluations"]
    assert not Path("b.zarr.blocks").exists()


def test_a_block_that_fails_is_named(signals: str, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [signals, *OPTIONS, *LITTLE, "--out", "a.zarr", "--workers", "0", "--max-steps", "9",
             "--t-max", "3"]  # fmt: skip
    assert main(wrong) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: 2 of 2 blocks failed; block 0: IntegrationError: signal 0: the step limit")
    assert "kept in a.zarr.blocks" in told


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--noise-u", "0.1"], "came with noise"),
        (["--stimulus", "grating"], "stimulus that moves"),
        (["--workers", "-1"], "--workers is '-1'"),
    ],
)
def test_bad_input_gets_one_line(
    wrong: list[str], words: str, signals: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([signals, *OPTIONS, "--out", "a.zarr", "--workers", "0", *wrong]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not Path("a.zarr.blocks").exists()
