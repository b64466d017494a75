"""The examples of the page on attention run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from vars_dyn.attention import LayerView

PAGE = Path(__file__).parents[2] / "docs" / "attention.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    export = [block for block in blocks if "torch.export" in block]
    assert len(export) == 1, "the export cannot be traced under the tests' run-time checks; test_export.py has it"
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        exec("\n".join(block for block in blocks if block not in export), names)
    assert dict(names["run"].sizes)["signal"] == 96
    view = names["view"]
    assert isinstance(view, LayerView)
    assert view.maps.shape == (4, 4, 3, 8, 8)
