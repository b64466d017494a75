"""A tiny model of each attention computes the same by torch.compile, in one graph, and by ONNX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import models
from vars_dyn.attention import KINDS

OTHERS = ["vars_d, exact L", "vars_s, 16 x 9 tokens", "vars_s, 9 x 16 tokens", "the GPU's operator", "gfnet", "rvt"]


@pytest.fixture(scope="module")
def differences() -> dict[str, dict[str, dict[str, float]]]:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    script = Path(__file__).with_name("compile_and_export.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(models.__file__).parent.parent)}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_compiled_it_computes_the_same(kind: str, differences: dict) -> None:
    assert max(differences["compile"][kind].values()) < 1e-4


@pytest.mark.parametrize("kind", [*KINDS, "vars_d, row sums"])
def test_exported_to_onnx_it_computes_the_same_for_any_batch_size(kind: str, differences: dict) -> None:
    assert set(differences["onnx"][kind]) == {"batch of 2", "batch of 3"}
    assert max(differences["onnx"][kind].values()) < 1e-4
