"""The commands of docs/howto/paper.md exist."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from experiments.evaluation.suites import SUITES

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "paper.md"


def test_every_command_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
    assert len(lines) >= 10
    for line in lines:
        python, option, module, *arguments = shlex.split(line.removeprefix("$ "))
        assert (python, option) == ("python", "-m")
        assert importlib.import_module(module).main([*arguments, "--print_config"]) == 0, line
    assert "unknown" not in capsys.readouterr().err


def test_every_suite_and_figure_is_on_the_page() -> None:
    from experiments.figures import FIGURES

    text = PAGE.read_text()
    for name in (*SUITES, *(f"experiments.figures {figure}" for figure in FIGURES)):
        assert f"{name}`" in text or f"{name} " in text, name
    for picture in re.findall(r"\]\((paper/[^)]+)\)", text):
        assert (PAGE.parent / picture).stat().st_size < 300_000
