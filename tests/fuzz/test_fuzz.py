"""Run each target of the fuzz command for some seconds. `python -m tests.fuzz` runs them for any length of time."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fuzz import commands
from tests.fuzz.__main__ import run, targets
from tests.fuzz.sandbox import called


@pytest.mark.parametrize("target", targets())
def test_no_fault_is_found(target: str, tmp_path: Path) -> None:
    # QUICK: how many cases a target tries in a few seconds.
    assert run(target, importlib.import_module(f"tests.fuzz.{target}").QUICK, 0, tmp_path) == []


def test_a_busy_machine_is_no_hang_but_a_command_without_an_end_is(tmp_path: Path) -> None:
    def busy(_: Sequence[str]) -> int:
        while True:
            pass

    def sleeping(words: Sequence[str]) -> int:
        time.sleep(float(words[0]))
        return 0

    # On a busy machine a command waits, as if it slept.
    assert called(sleeping, ["0.4"], tmp_path, 0.2).faults() == []
    assert called(sleeping, ["30"], tmp_path, 0.1).faults()[0].startswith("no end after 1.5 s on the clock")
    assert called(busy, [], tmp_path, 0.2).faults()[0].startswith("no end after 0.2 s of processor time")


def test_a_process_of_its_own_has_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = tmp_path / "python"
    endless.write_text("#!/bin/sh\nwhile :; do :; done\n")
    endless.chmod(0o700)
    monkeypatch.setattr(commands, "_OWN_SECONDS", 1)
    monkeypatch.setattr(sys, "executable", str(endless))
    assert commands._subprocess(["--help"], tmp_path) == ["no end after 1 s of processor time in a process of its own"]
