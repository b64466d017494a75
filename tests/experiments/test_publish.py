"""A published folder is what timm reads, and its card says what the records say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.models._hub import load_model_config_from_path

from experiments import publish as command
from experiments.evaluation.trained import load
from experiments.settings import Attention, Model, Settings
from experiments.training.loop import train

RECORDS = [
    {"label": "run", "seed": 0, "on": "clean", "metric": "accuracy", "value": 0.4375, "n": 16, "commit": "abc123",
     "command": "python -m experiments.evaluate run", "weights": "w", "measurement": "clean"},
]  # fmt: skip


@pytest.fixture
def run(settings: Callable[..., Settings]) -> Path:
    sizes = {"stem": "patch", "embed_dim": 16, "num_heads": 2, "depth": 1}
    made = settings(epochs=1, model=Model("vars_deit_micro", Attention("vars_d", lam=0.1, num_steps=2), sizes))
    train(made)
    return Path(made.out)


def test_timm_loads_the_published_folder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "evaluation").mkdir()
    (run / "evaluation" / "records.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in RECORDS))
    out = tmp_path / "published"
    assert command.main([str(run), "--out", str(out), "--title", "Six shapes"]) == 0
    assert f"local-dir:{out}" in capsys.readouterr().out
    cfg, name, arguments = load_model_config_from_path(out)
    assert name == "vars_deit_micro"
    assert arguments["attention"] == {"kind": "vars_d", "lam": 0.1, "num_steps": 2}
    trained, _, state = load(run)
    assert cfg["label_names"] == state["classes"]
    again = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images = torch.rand(2, 3, 16, 16)
    data = timm.data.resolve_data_config(model=again)
    assert (tuple(data["input_size"]), data["crop_pct"]) == ((3, 16, 16), 1)  # older versions of timm give a list
    normalised = (images - torch.tensor(data["mean"])[:, None, None]) / torch.tensor(data["std"])[:, None, None]
    torch.testing.assert_close(again(normalised), trained.eval()(images))
    assert not list(out.glob("*.bin"))
    _, head, text = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "timm"
    assert text.startswith("\n# Six shapes\n")
    assert all(words in text for words in ("43.8", "abc123", "python -m experiments.evaluate run", '"lam": 0.1'))
    assert command.main([str(run), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert command.main([str(run), "--out", str(out), "--overwrite"]) == 0
    assert "# run\n" in (out / "README.md").read_text()
    other = tmp_path / "mine"
    other.mkdir()
    assert command.main([str(run), "--out", str(other), "--overwrite"]) == 2


def test_a_model_that_no_configuration_describes_is_refused(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"patch_size": 8, "embed_dim": 16, "num_heads": 2, "depth": 1}
    made = settings(epochs=1, model=Model("vit_tiny_patch16_224", Attention("vars_d"), sizes))
    train(made)
    assert command.main([made.out, "--out", str(tmp_path / "published")]) == 2
    assert "with its attention replaced" in capsys.readouterr().err
    assert not (tmp_path / "published").exists()
