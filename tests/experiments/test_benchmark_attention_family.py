"""The benchmark of attention of many shapes: its cells, its goals, and a small run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import attention_family as family
from experiments.benchmark.attention_family import GRID, KINDS, Cell, Measured


def test_cells_follow_from_their_seed_and_have_every_kind() -> None:
    cells = family.drawn(12, 3)
    assert cells == family.drawn(12, 3) != family.drawn(12, 4)
    assert [cell.kind for cell in cells] == 4 * list(KINDS)
    assert all(cell.dim % cell.heads == 0 for cell in cells)
    assert {(cell.kind, cell.tokens) for cell in GRID} == {(k, n) for k in KINDS for n in (49, 196, 784, 3136)}


def test_a_goal_is_met_by_the_whole_interval_and_only_in_cells_of_the_grid() -> None:
    cell = next(cell for cell in GRID if cell[0] == "VARS-S" and cell.tokens == 196)
    steady, noisy = ([1.4, 1.4, 1.4], [1.4, 1.4, 1.9])
    met = [Measured(cell, np.stack([np.array(t), np.ones(3)]), 0.0).figure for t in (steady, noisy)]
    assert [figure.met for figure in met] == [True, False]
    assert [figure.value for figure in met] == [1.4, 1.4]
    assert math.isnan(Measured(cell._replace(images=3), np.ones((2, 3)), 0.0).figure.goal)


def test_a_small_run_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(family, "GRID", tuple(Cell(kind, 2, 3, 4, 8, 2) for kind in KINDS))
    for _ in range(2):  # the second run replaces what the first wrote
        assert family.main(["--drawn", "0", "--rounds", "3", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "attention-family.json").read_text())
    assert [np.shape(cell["seconds"]) for cell in record["rows"]] == [(2, 3)] * 3
    assert all(0 < cell["error"] < 1e-3 for cell in record["rows"])
    assert (tmp_path / "attention-family.md").read_text().strip() in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--rounds", "2"], ["--no-grid", "--drawn", "0"], ["--seed", "-1"], ["--nothing"]])
def test_bad_input_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert family.main(wrong) == 2
    assert "error: " in capsys.readouterr().err
