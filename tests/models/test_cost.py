"""Parameters and GFLOPs."""

from __future__ import annotations

import json
import sys

import pytest
import timm
from torch import nn

from models import cost
from vars_dyn.attention import KINDS


def test_a_flop_is_a_multiply_accumulate() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4, bias=False), nn.Flatten(), nn.Linear(8 * 64, 10))
    parameters, gflops = cost.cost_of(model, img_size=32)
    assert parameters * 1e6 == pytest.approx(8 * 48 + 5130)
    assert gflops * 1e9 == pytest.approx(64 * 8 * 48 + 5120)


@pytest.mark.parametrize("name", ["vars_deit_tiny", "vars_gfnet_tiny", "vars_rvt_tiny"])
def test_the_baselines_cost_what_is_published(name: str) -> None:
    options = {} if "rvt" in name else {"stem": "patch"}
    measured = cost.cost_of(timm.create_model(name, device="meta", **options))
    parameters, gflops = cost.BASELINES[name]
    assert measured.parameters == pytest.approx(parameters, abs=0.8)
    assert measured.gflops == pytest.approx(gflops, abs=0.06)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_the_command_prints_every_row(
    variant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cost, "BASELINES", {"vars_gfnet_micro": (7, 1.3)})
    monkeypatch.setattr(sys, "argv", ["cost", "--json", "--variant", variant])
    cost.main()
    rows = json.loads(capsys.readouterr().out)
    assert [row["attention"] for row in rows] == ["global_filter", *KINDS]
    assert [row.get("published") for row in rows] == [{"parameters": 7, "gflops": 1.3}, *[None] * 5]
    assert all(row["parameters"] > 0.3 and row["gflops"] > 0.5 for row in rows)
    monkeypatch.setattr(sys, "argv", ["cost", "--variant", variant])
    cost.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert len({line.count("|") for line in lines}) == 1
