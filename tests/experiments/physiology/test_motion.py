"""Cells whose receptive fields are movies prefer the direction and temporal frequency at which their waves drift."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from experiments.physiology import motion
from experiments.physiology.__main__ import main
from experiments.physiology.kept import Kept
from experiments.physiology.population import Bank, MotionPopulation, motion_population

RATE = 20.0


@pytest.fixture(scope="module")
def cells() -> MotionPopulation:
    return motion_population(Bank(side=12, orientations=4, scales=1, places=1, frames=6, drift=0.2), 0.2)


def test_gratings_drift_as_they_say(cells: MotionPopulation) -> None:
    """At one pixel a frame each frame is the one before, moved by a pixel."""
    wide = MotionPopulation(np.random.default_rng(0).normal(size=(4 * 64, 3)), 4, 0.1)  # one period of 8 pixels a side
    right = motion.drifting(wide, 0.0, 1 / 8, RATE / 8, RATE, 5)
    up = motion.drifting(wide, 90.0, 1 / 8, RATE / 8, RATE, 5)
    assert right.shape == (5, 4, 8, 8)
    for k in range(3):
        np.testing.assert_allclose(right[:, k + 1], np.roll(right[:, k], 1, axis=-1), atol=1e-12)
        np.testing.assert_allclose(up[:, k + 1], np.roll(up[:, k], -1, axis=-2), atol=1e-12)
    np.testing.assert_allclose(right.mean(0), 0.0, atol=1e-12)


def test_cells_prefer_the_direction_of_their_own_drift(cells: MotionPopulation) -> None:
    found = motion.direction_tuning(cells, RATE, 8, [0.1, 0.25, 0.4], [RATE * f for f in (0.05, 0.2, 0.4)], phases=4)
    # Atoms: one way, then the other; two phases; wave vectors in steps of 45 degrees, rows downwards.
    ways = [-45.0 * k + turn for turn in (0, 180) for _ in range(2) for k in range(4)]
    np.testing.assert_array_equal(found.preferred_direction, np.array(ways) % 360)
    np.testing.assert_array_equal(found.preferred_frequency, 0.25)
    np.testing.assert_allclose(found.preferred_temporal_frequency, 0.2 * RATE)
    np.testing.assert_allclose(found.speed, 0.2 * RATE / 0.25)
    assert found.speed.attrs["units"] == "pixel/s"
    assert float(found.dsi.min()) > 0.9
    # Competition sharpens what the atoms alone do.
    assert 0.5 < float(found.linear_dsi.max()) < float(found.dsi.min())


def test_atoms_that_stand_have_no_direction() -> None:
    still = np.tile(np.random.default_rng(1).normal(size=(64, 2)), (5, 1))
    found = motion.direction_tuning(MotionPopulation(still, 5, 0.05), RATE, 4, [0.1, 0.2], [RATE * 0.1], phases=16)
    # A still atom sees a grating that drifts one way as it sees the mirrored movie: the phases come in another order.
    np.testing.assert_allclose(found.linear_dsi, 0.0, atol=0.02)


def test_temporal_tuning_peaks_at_the_drift(cells: MotionPopulation) -> None:
    found = motion.temporal_tuning(cells, 3, RATE, [RATE * f for f in (0.02, 0.05, 0.1, 0.2, 0.4)], 2, 8)
    np.testing.assert_allclose(found.preferred, 0.2 * RATE)
    assert found.preferred.attrs["units"] == "Hz"
    assert float((found.opposite.max("temporal_frequency") / found.response.max("temporal_frequency")).max()) < 0.3
    assert float(found.low_pass.max()) < 0.7
    with pytest.raises(ValueError, match="no cell responds"):
        motion.temporal_tuning(MotionPopulation(cells.dictionary.weight.numpy(), 6, 1e3), 3, RATE, [1.0], 1, 2)


MOVING = ["--bank.places", "1", "--bank.orientations", "2", "--bank.scales", "1", "--bank.side", "8", "--cells", "2"]


class Killed(BaseException):
    """What no code catches."""


@pytest.mark.parametrize("experiment", ["cross", "gabors", "latency"])
def test_a_run_that_is_killed_ends_with_the_same_bits(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [experiment, *MOVING]
    assert main([*line, "--out", str(tmp_path / "whole.zarr")]) == 0
    broken = [*line, "--out", str(tmp_path / "broken.zarr")]
    assert main([*broken, "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    taken, array = [0], Kept.array

    def killed(self: Kept, name: str, *others: object) -> np.ndarray:
        taken[0] += 1
        if taken[0] == 3 or experiment == "latency":
            raise Killed
        return array(self, name, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Kept, "array", killed)
    with pytest.raises(Killed):
        main(broken)
    monkeypatch.undo()
    assert not (tmp_path / "broken.zarr").exists()
    kept = list((tmp_path / "broken.zarr.unfinished").glob("*.npy"))
    assert len(kept) == (0 if experiment == "latency" else 2)
    assert main([*broken, "--resume", "--lam", "0.4"]) == 2
    assert "another lam: it has 0.3" in capsys.readouterr().err
    assert main([*broken, "--resume"]) == 0
    whole, again = (xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False) for name in ("whole", "broken"))
    xr.testing.assert_equal(whole, again)
    assert not (tmp_path / "broken.zarr.unfinished").exists()


def test_what_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.array([float(len(calls))])

    kept = Kept.beside(tmp_path / "a.zarr", {"lam": 1}, {}, resume=False)
    assert kept.array("x", np.zeros(2), compute) == kept.array("x", np.zeros(2), compute) == 1
    assert kept.array("x", np.zeros(3), compute) == 2
    kept.close(finished=False)
    again = Kept.beside(tmp_path / "a.zarr", {"lam": 1}, {}, resume=True)
    assert again.array("x", np.zeros(3), compute) == 2
    with pytest.raises(ValueError, match="another process"):
        Kept.beside(tmp_path / "a.zarr", {"lam": 1}, {}, resume=True)
    again.close(finished=False)
    fresh = Kept.beside(tmp_path / "a.zarr", {"lam": 1}, {}, resume=False)
    assert fresh.array("x", np.zeros(3), compute) == 3
    fresh.close(finished=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "b.zarr.unfinished").mkdir()
    with pytest.raises(ValueError, match="did not make it"):
        Kept.beside(tmp_path / "b.zarr", {}, {}, resume=False)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--frame_rate", "0"], "frame_rate is 0"),
        (["--bank.frames", "1"], "frames is 1"),
        (["--bank.dictionary", "atoms.npy"], "bank.frames is not given"),
        (["--bank.dictionary", "atoms.npy", "--bank.frames", "5"], "square frames"),
    ],
)
def test_bad_input_gets_one_line(
    wrong: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("atoms.npy", np.ones((64, 3)))
    assert main(["direction", *wrong, "--out", "a.zarr"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert sentence in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["atoms.npy"]
