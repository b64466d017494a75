"""The benchmark of dictionary learning: a small run writes its table, and ours learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.benchmark import learning


def test_a_small_run_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--patch",
        "6",
        "--atoms",
        "40",
        "--patches",
        "300",
        "--seconds",
        "0.2",
        "--lam",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert learning.main(words) == 0
    record = json.loads((tmp_path / "learning.json").read_text())
    assert {"vars_dyn online", "scikit-learn, lars"} <= set(record["rows"])
    for course in record["rows"].values():
        assert [each["seconds"] >= mark for each, mark in zip(course, record["marks"], strict=True)] == [True] * 4
        assert course[-1]["objective"] < record["start"]
    assert "| vars_dyn online |" in (tmp_path / "learning.md").read_text()
    assert (tmp_path / "learning.png").is_file()
    assert "held-out objective" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--lam", "0"], ["--patch", "5000"], ["--nothing"]])
def test_bad_input_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert learning.main(wrong) == 2
    assert "error: " in capsys.readouterr().err
