"""Parameters and GFLOPs."""

from __future__ import annotations

import json
import math
import sys

import pytest
import timm
import torch
from torch import Tensor, nn

from models import cost
from vars_dyn.attention import KINDS, attention_class, solving


def test_a_flop_is_a_multiply_accumulate() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4, bias=False), nn.Flatten(), nn.Linear(8 * 64, 10))
    parameters, gflops = cost.cost_of(model, img_size=32)
    assert parameters * 1e6 == pytest.approx(8 * 48 + 5130)
    assert gflops * 1e9 == pytest.approx(64 * 8 * 48 + 5120)


class _Undecided(nn.Module):
    """A model that reads a number in its forward pass, as adaptive solvers do. So it cannot run on meta tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found = self.model(x)
        return found if float(found.sum()) < math.inf else -found


@pytest.mark.parametrize(("device", "wrapped"), [("cpu", False), ("meta", False), ("cpu", True)])
def test_attention_is_counted_on_every_device(device: str, wrapped: bool) -> None:
    """Each attention of this ViT has two products of 4 N^2 C FLOPs together, which are 2 N^2 C multiply-accumulates."""
    C, N, patches = 24, 17, 16
    model: nn.Module = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=C, depth=2, num_heads=3, num_classes=5
    ).to(device)
    if wrapped:
        model = _Undecided(model)
    block = 4 * N * C**2 + 2 * N**2 * C + 8 * N * C**2
    expected = patches * C * 3 * 8**2 + 2 * block + 5 * C
    assert cost.cost_of(model, img_size=32).gflops * 1e9 == pytest.approx(expected)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_every_attention_costs_on_the_cpu_what_it_does_on_meta(kind: str) -> None:
    model = timm.create_model("vars_deit_micro", attention=kind, img_size=32, stem="patch", depth=1)
    meta = timm.create_model("vars_deit_micro", attention=kind, img_size=32, stem="patch", depth=1, device="meta")
    assert cost.cost_of(model, 32) == cost.cost_of(meta, 32)


def test_an_attention_that_integrates_is_counted_too() -> None:
    layer = attention_class(
        "vars_d", solver=solving.Ode(field="reduced", horizon=1.0, method="rkc", rtol=0.1, atol=0.1)
    )
    options = {"img_size": 32, "stem": "patch", "depth": 1, "embed_dim": 16, "num_heads": 2}
    model = timm.create_model("vars_deit_micro", attention=layer, **options)
    other = timm.create_model("vars_deit_micro", attention="vars_d", **options)
    with pytest.raises(RuntimeError):
        model.to("meta")(torch.zeros(1, 3, 32, 32, device="meta"))
    model = timm.create_model("vars_deit_micro", attention=layer, **options)
    assert cost.cost_of(model, 32).gflops > 0.5 * cost.cost_of(other, 32).gflops


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
    assert [row.get("published") for row in rows] == [{"parameters": 7, "gflops": 1.3}, *[None] * len(KINDS)]
    assert all(row["parameters"] > 0.3 and row["gflops"] > 0.5 for row in rows)
    monkeypatch.setattr(sys, "argv", ["cost", "--variant", variant])
    cost.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + len(KINDS)
    assert len({line.count("|") for line in lines}) == 1
