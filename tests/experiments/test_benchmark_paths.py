"""The benchmark of paths: all contenders find the same codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import paths
from experiments.benchmark.families import Cell


def test_a_small_run_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "CELLS", (Cell(3, 16, 24, 2, 0.0),))
    assert paths.main(["--lams", "5", "--rounds", "3", "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "paths.json").read_text())["rows"]
    assert {"solve_path", "solve, each lam", "lars_path"} <= set(row["contenders"])
    assert np.shape(row["seconds"]) == (len(row["contenders"]), 3)
    assert max(row["kkt"]) < 1e-6
    text = (tmp_path / "paths.md").read_text()
    assert "| 3 x 16 x 24 | lars_path |" in text
    assert text.strip() in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--rounds", "2"], ["--lams", "1"], ["--seed", "-1"], ["--nothing"]])
def test_bad_input_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert paths.main(wrong) == 2
    assert "error: " in capsys.readouterr().err
