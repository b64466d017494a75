"""The benchmark of families: its figures, its cells, and a small run with a stand-in for the peer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch

from experiments.benchmark import families
from experiments.benchmark.families import Cell, figures


def test_figures_are_the_mean_and_the_worst_of_medians() -> None:
    steady = figures([np.full(5, 0.5), np.full(5, 2.0)])
    assert [f.name for f in steady] == ["geometric mean", "worst"]
    for figure, value in zip(steady, (1.0, 2.0), strict=True):
        assert figure.low == pytest.approx(value) == pytest.approx(figure.value) == pytest.approx(figure.high)
        assert not figure.met
    # Its median is within the goal, but the interval is not.
    noisy = figures([np.array([0.6, 0.65, 0.7, 3.0, 3.1])])[0]
    assert noisy.value == pytest.approx(0.7)
    assert noisy.low <= 0.7 < 0.8 < noisy.high
    assert not noisy.met
    assert figures([np.full(5, 0.79)])[0].met


def test_cells_follow_from_their_seed() -> None:
    cells = families.drawn(30, 3)
    assert cells == families.drawn(30, 3) != families.drawn(30, 4)
    assert {cell.dtype for cell in cells} == {"float32", "float64"}
    for cell in cells:
        assert 1 <= cell.nonzeros <= cell.d <= cell.atoms
        weight, x = families.data(cell._replace(signals=2), 0)
        assert x.shape == (2, cell.d)
        torch.testing.assert_close(weight.norm(dim=0).double(), torch.ones(cell.atoms).double(), rtol=0, atol=1e-5)


def test_coherence_is_the_atoms_mean_inner_product() -> None:
    weight, _ = families.data(Cell(1, 400, 200, 3, 0.1, 0.5), 0)
    gram = weight.mT @ weight
    assert float(gram.fill_diagonal_(0).sum() / (200 * 199)) == pytest.approx(0.5, abs=0.02)


def test_a_small_run_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lasso(X: np.ndarray, D: np.ndarray, **options: object) -> scipy.sparse.csc_matrix:
        assert options == {"lambda1": 0.1, "mode": 2, "numThreads": 1}
        return scipy.sparse.csc_matrix(np.zeros((D.shape[1], X.shape[1])))

    monkeypatch.setitem(sys.modules, "spams", SimpleNamespace(lasso=lasso))
    monkeypatch.setattr(families, "GRID", (Cell(3, 16, 24, 2, 0.1), Cell(2, 16, 24, 2, 0.1, 0.3, "float32")))
    monkeypatch.setattr(families, "_SHORTEST", 0.0)
    monkeypatch.setattr(families, "PEERS", {"scikit-learn": families.PEERS["scikit-learn"]})
    monkeypatch.setattr(families, "_PEER_SIGNALS", 2)
    for more in ([], ["--peers"]):  # the second run replaces what the first wrote
        assert families.main(["--drawn", "0", "--rounds", "3", "--out", str(tmp_path), *more]) == 0
    record = json.loads((tmp_path / "families.json").read_text())
    assert [np.shape(cell["seconds"]) for cell in record["rows"]] == [(3, 3)] * 2
    assert record["rows"][0]["contenders"] == ["ours", "SPAMS", "scikit-learn"]
    ours, none, lars = zip(*(cell["kkt"] for cell in record["rows"]), strict=True)
    assert max(*ours, *lars) < 1e-5 < 0.5 < min(none)  # codes of zeros are no solution
    assert (tmp_path / "families.md").read_text().strip() in capsys.readouterr().out


def test_a_peer_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(families, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "spams", raising=False)
    assert families.main([]) == 2
    assert capsys.readouterr().err == "error: SPAMS is not installed; the extra bench is wanted\n"


@pytest.mark.parametrize("wrong", [["--rounds", "2"], ["--no-grid", "--drawn", "0"], ["--seed", "-1"], ["--nothing"]])
def test_bad_input_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert families.main(wrong) == 2
    assert "error: " in capsys.readouterr().err
