"""The cue: the strokes of the cued digit gain, and those of the other lose."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import cue


def test_the_cued_digit_gains_and_the_other_loses(tmp_path: Path) -> None:
    options = cue.Options(str(tmp_path / "cue.png"))
    found = cue.responses(options)
    activity = found.activity()
    assert found.relative_gap < 1e-7
    for cued, other in (("left", "right"), ("right", "left")):
        assert activity[cued][cued] > 1.02 * activity["none"][cued]
        assert activity[cued][other] < 0.98 * activity["none"][other]


def test_two_equal_digits_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cue.main(["--out", str(tmp_path / "cue.png"), "--left", "7"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert "two different digits are wanted" in errors[0]
