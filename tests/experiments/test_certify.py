"""The command certifies codes of a trained model, and says whether that says anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import certify as command
from experiments.evaluation.trained import load
from experiments.settings import Attention, Model, Settings
from experiments.training.loop import train
from vars_dyn.attention import VarsAttention, support_radius


def test_radii_changes_and_the_verdict(
    settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = settings(epochs=1)
    train(made)
    assert command.main([made.out, "--images", "3"]) == 0
    shown = capsys.readouterr().out
    found = json.loads((Path(made.out) / "evaluation" / "certified.json").read_text())
    assert (Path(made.out) / "evaluation" / "certified.png").stat().st_size > 5000
    (layer,) = found["layers"].values()
    assert len(layer["radii"]) == 3 * 2 * 8
    assert len(layer["noise"]) == len(layer["fgsm"]) == 3
    assert min(layer["fgsm"]) > 0
    assert found["verdict"] in shown
    assert ("Vacuous" in found["verdict"]) == (sum(r > max(layer["noise"]) for r in layer["radii"]) == 0)
    assert command.main([made.out, "--images", "3", "--attention.kind", "softmax"]) == 2
    assert "no VARS layers" in capsys.readouterr().err
    assert command.main([made.out, "--images", "0"]) == 2
    other = tmp_path / "mine"
    other.mkdir()
    (other / "certified.json").write_text("{}")
    assert command.main([made.out, "--images", "3", "--out", str(other)]) == 2


def test_the_radii_are_the_layers_and_the_change_is_that_of_its_tokens(settings: Callable[..., Settings]) -> None:
    sizes = {"stem": "patch", "embed_dim": 16, "num_heads": 2, "depth": 1}
    made = settings(epochs=1, model=Model("vars_deit_micro", Attention("vars_s"), sizes))
    train(made)
    model = load(made.out)[0].eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = command.certified(model, images, 1e-3)["network.blocks.0.attn"]
    seen: list[torch.Tensor] = []
    layer: nn.Module = model.network.blocks[0].attn
    assert isinstance(layer, VarsAttention)
    layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        model(images)
    (x,) = seen
    radii = support_radius(layer, x, (4, 4)) / x.double().flatten(1).norm(dim=1)[:, None, None]
    torch.testing.assert_close(torch.tensor(found["radii"], dtype=torch.float64), radii.flatten(), rtol=1e-5, atol=0)
    larger = command.certified(model, images, 2e-3)["network.blocks.0.attn"]
    assert all(1.5 < b / a < 2.5 for a, b in zip(found["noise"], larger["noise"], strict=True))
