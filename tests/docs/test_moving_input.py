"""The documentation's figure of moving input: the tracking gap falls with the speed, to that of the still grating."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "examples" / "moving_input.py"


def test_the_tracking_gap_falls_with_the_speed() -> None:
    spec = importlib.util.spec_from_file_location("moving_input", PAGE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    still, slowest, slow, fast = (example.track(f, end=60.0, points=13).late for f in (0.0, 1e-4, 0.02, 1.0))
    assert still < slowest < 0.1 * slow
    assert slow < 0.2 * fast
