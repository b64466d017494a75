"""The kernels without a GPU: their tests in Triton's interpreter, and how their work is laid out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from vars_dyn.attention.reconstruct.triton import launch


def test_the_kernels_in_the_interpreter() -> None:
    # This needs a process of its own, since Triton decides at a kernel's declaration whether to interpret it.
    command = [sys.executable, "-m", "pytest", "-n0", "-q", str(Path(__file__).with_name("test_triton.py"))]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert re.search(r"(\d+) passed", done.stdout), done.stdout


@pytest.mark.parametrize("tokens", [1, 196, 784, 3136, 12544])
@pytest.mark.parametrize("batch", [1, 4, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shares_hold_all_tokens_and_are_several_where_a_gpu_would_stand_idle(
    tokens: int, batch: int, dtype: torch.dtype
) -> None:
    plan = launch.launch_plan(torch.empty(batch, 6, tokens, 32, dtype=dtype, device="meta"), 64, processors=132)
    assert plan.share % plan.block == 0
    assert plan.share * plan.shares >= tokens
    assert plan.share * (plan.shares - 1) < tokens + plan.share * plan.shares // 4
    assert (plan.shares > 1) == (batch * 6 < 132 and tokens > 196)
    assert plan.together == (plan.shares == 1)
    assert plan.products == ("ieee" if dtype == torch.float32 else "tf32")


def test_float32_is_rounded_to_tf32_only_where_torch_rounds_it() -> None:
    q, torchs = torch.empty(1, 1, 8, 32, device="meta"), torch.backends.cuda.matmul
    assert launch.launch_plan(q, 64, 1).products == "ieee"
    before = torchs.fp32_precision
    try:
        torchs.fp32_precision = "tf32"
        assert launch.launch_plan(q, 64, 1).products == "tf32"
    finally:
        torchs.fp32_precision = before


def test_wide_heads_are_worked_on_in_parts() -> None:
    plan = launch.launch_plan(torch.empty(256, 6, 196, 64, device="meta"), 128, processors=132)
    assert (plan.shares, plan.together, plan.part, plan.widths) == (1, False, 64, {"C": 64, "M": 128})
