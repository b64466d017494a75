"""Effects that physiologists know come out of the cells with the right sign, and the command writes them down.

Zhu and Rozell (PLoS Comput. Biol. 9, e1003191, 2013) saw them in a sparse code with learned atoms. natural_atoms.py
says how the atoms here were learned. A linear receptive field, which is what an atom alone would do, has none of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from experiments.physiology import latency, surround, tuning
from experiments.physiology.__main__ import EXPERIMENTS, main
from experiments.physiology.drawings import Place, bar, disc, grating
from experiments.physiology.population import Bank, Population, population

LEARNED = Path(__file__).parents[2] / "data" / "natural_atoms.npy"
#: Atoms near the middle that are Gabor functions with an R^2 of at least 0.7.
CELLS = [192, 171, 150, 168, 12, 78, 162, 0, 21, 261, 285, 105, 48]
SIZES = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0]


@pytest.fixture(scope="module")
def learned() -> Population:
    return population(Bank(str(LEARNED)), 0.3)


@pytest.fixture(scope="module")
def bank() -> Population:
    return population(Bank(orientations=4, scales=2, places=4), 0.3)


def middle(cells: Population, count: int) -> list[int]:
    """Atoms of the bank's shortest wavelength at the four places nearest to the middle."""
    places = [5, 6, 9, 10]
    assert len(cells.atoms) > 128
    return [16 * k + p for k in range(8) for p in places][:: 32 // count]


def test_surrounds_suppress_and_cells_are_end_stopped(bank: Population, learned: Population) -> None:
    for cells, chosen, margin in ((bank, middle(bank, 8), 0.4), (learned, [131, 285, 48], 0.1)):
        for measured in (surround.size_tuning, surround.length_tuning):
            found = measured(cells, chosen, SIZES)
            assert float(found.suppression_index.median()) > margin
            assert float(found.suppression_index.median()) > float(found.linear_index.median()) + margin
            assert float(found.linear_index.median()) < 0.15


def test_an_orthogonal_mask_suppresses_though_it_drives_no_cell(learned: Population) -> None:
    found = surround.cross_orientation(learned, CELLS, [0.5, 1.0], 0.15, phases=4)
    assert float(found.suppression.median()) > 0.2
    assert float((found.suppression > 0).mean()) >= 0.75
    assert float((found.mask_alone / found.alone).median()) < 0.1
    assert float(found.response.median("cell")[1]) < float(found.response.median("cell")[0])


def test_orientation_tuning_is_much_the_same_at_all_contrasts(learned: Population) -> None:
    found = tuning.contrast_tuning(learned, CELLS[:5], [0.25, 0.5, 1.0], orientations=18)
    width = found.half_width.median("cell")
    assert bool((width > 5).all() and (width < 40).all())
    # A linear cell with the threshold lam, an iceberg, widens without bound above its threshold.
    assert abs(float(found.width_slope.median())) < 10
    own = found.response.sel(turn=0.0)
    assert bool((own.diff("contrast") > 0).all())


def test_cells_respond_earlier_to_higher_contrast(learned: Population) -> None:
    found = latency.latency(learned, CELLS[:4], [0.15, 1.0], t_max=30.0, tau=10.0)
    assert found.latency.attrs["units"] == "ms"
    fine = found.latency.dropna("cell")
    assert len(fine.cell) >= 3
    assert bool((fine[:, 0] > fine[:, 1]).all())
    slow = latency.latency(learned, CELLS[:4], [0.15, 1.0], t_max=30.0, tau=20.0)
    np.testing.assert_allclose(slow.latency, 2 * found.latency)
    # The last response is that of the equilibrium.
    place = learned.place(CELLS[0])
    picture = grating(learned.side, place, 1.0) * disc(learned.side, place, learned.extent(CELLS[0]))
    assert float(found.response[0, 1, -1]) == pytest.approx(learned.responses(picture)[CELLS[0]], rel=0.1)


def test_occluded_cells_keep_part_of_their_response(bank: Population) -> None:
    found = surround.completion(bank, middle(bank, 4), [0.5, 4.0, 30.0])
    assert bool((found.linear_ratio[:, 2].fillna(0) == 0).all())
    assert bool((found.response[:, 2] == 0).all())
    assert bool((found.linear_ratio[:, 0] > found.linear_ratio[:, 1]).all())
    np.testing.assert_allclose(found.ratio, found.response / found.unoccluded)


def test_gratings_find_the_orientation_and_the_frequency_of_the_atoms(bank: Population) -> None:
    found = tuning.grating_tuning(bank, orientations=8, frequencies=[0.06, 0.125, 0.25, 0.4], phases=4)
    chosen = middle(bank, 8)
    expected = np.array([45.0 * (k // 32) for k in chosen])
    np.testing.assert_array_equal(found.preferred_orientation[chosen], expected)
    # Full gratings of the atoms' own frequency drive many atoms at once, so the best is at or above it.
    assert float(found.preferred_frequency[chosen].min()) >= 0.25
    assert float(found.osi[chosen].min()) > 0.9
    assert float(found.circular_variance[chosen].max()) < 0.5


def test_the_drawings_are_what_they_say() -> None:
    place = Place(7.5, 7.5, 30.0, 0.2, 60.0)
    wave = grating(16, place, 0.8)
    assert np.abs(wave).max() <= 0.8
    np.testing.assert_allclose(grating(16, place, turned=180.0, shift=-120.0), grating(16, place), atol=1e-12)
    assert disc(16, place, 6.0).sum() == pytest.approx(np.pi * 9, rel=0.05)
    upright = Place(7.5, 7.5, 0.0, 0.125, 0.0)  # stripes along the rows' axis, bright in the middle
    drawn = bar(16, upright, 8.0, 0.5)
    assert drawn.max() == 0.5
    np.testing.assert_allclose(drawn.sum(1) > 0.01, [False] * 4 + [True] * 8 + [False] * 4)
    assert drawn.sum() == pytest.approx(0.5 * 8 * 4, rel=0.15)
    dark = bar(16, Place(7.5, 7.5, 0.0, 0.125, 180.0), 8.0)
    np.testing.assert_allclose(dark, -2 * drawn)


SMALL = ["--bank.places", "1", "--bank.orientations", "2", "--bank.scales", "1", "--cells", "2"]


@pytest.mark.parametrize("experiment", [*EXPERIMENTS])
def test_the_command_writes_a_labelled_store_and_a_figure(
    experiment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figure = tmp_path / "found.zarr", tmp_path / "found.png"
    line = [experiment, "--out", str(out), "--figure", str(figure), "--json", "true", *SMALL]
    assert main(line) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["experiment"] == experiment
    found = xr.open_zarr(out, consolidated=False)
    assert found.attrs["vars_dyn_physiology"] == experiment
    assert all({"units", "long_name"} <= set(v.attrs) for v in found.data_vars.values())
    assert figure.stat().st_size > 5000
    if experiment == "size":
        assert main(line) == 0, "its own results are replaced"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["size", "--lam", "0"], "lam is 0"),
        (["size", "--contrasts", "[0.5,0.2]"], "increasing"),
        (["size", "--cells", "0"], "cells is 0"),
        (["latency", "--tau", "0"], "tau is 0"),
        (["gabors", "--bank.dictionary", "nowhere.npy"], "nowhere.npy"),
        (["nothing"], "nothing"),
    ],
)
def test_bad_input_gets_one_line(
    wrong: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*wrong, "--out", str(tmp_path / "a.zarr")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert sentence in said[0]


def test_other_peoples_files_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis").mkdir()
    assert main(["gabors", "--out", str(tmp_path / "thesis"), *SMALL]) == 2
    assert "did not make it" in capsys.readouterr().err
    assert (tmp_path / "thesis").is_dir()


def test_dictionaries_that_are_no_square_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="squares of side 4 or more"):
        Population(np.ones((15, 3)), 0.3)
    with pytest.raises(ValueError, match="atom 1 is zero"):
        Population(np.stack([np.ones(16), np.zeros(16)], -1), 0.3)
