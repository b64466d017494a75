"""Run each target of the fuzz command for some seconds. `python -m tests.fuzz` runs them for any length of time."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.fuzz.__main__ import run, targets


@pytest.mark.parametrize("target", targets())
def test_no_fault_is_found(target: str, tmp_path: Path) -> None:
    # QUICK: how many cases a target tries in a few seconds.
    assert run(target, importlib.import_module(f"tests.fuzz.{target}").QUICK, 0, tmp_path) == []
