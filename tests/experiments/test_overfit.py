"""A vision transformer with ODE attention learns a few images by heart, by every gradient mode."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from experiments.overfit import MODES, Overfit, main, overfit


@pytest.mark.parametrize("mode", MODES)
def test_real_images_are_learned_by_heart(mode: str) -> None:
    """Learn four handwritten digits. The loss stays high if the gradient has a wrong sign or size, or lacks a part."""
    found = load_digits()
    pixels = torch.tensor(found.images[:4] / 8 - 1, dtype=torch.float32)
    images = torch.nn.functional.interpolate(pixels[:, None].expand(-1, 3, -1, -1), size=16)
    options = Overfit(modes=(mode,), epochs=40, batch_size=4, lr=5e-3, horizon=0.25)
    (record,) = overfit(options, images, torch.tensor(found.target[:4]))
    assert record["accuracy"] == 1
    assert record["loss"] < 0.6 * record["curve"][0]["loss"]


def test_the_command_writes_numbers_and_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    where = ["--data.root", str(tmp_path), "--data.image_size", "16", "--out", str(tmp_path / "out")]
    assert main([*where, "--images", "4", "--epochs", "1", "--modes", "[implicit]"]) == 0
    assert "| implicit | 1 |" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"overfit.json", "overfit.png"}

    small = [*where, "--images", "4", "--epochs", "1"]
    before = json.loads((tmp_path / "out" / "overfit.json").read_text())["records"]
    assert main([*small, "--modes", "[implicit]"]) == 2
    assert "exists; resume" in capsys.readouterr().err
    assert main([*small, "--lr", "3e-3", "--modes", "[implicit]", "--resume", "true"]) == 2
    assert "another lr" in capsys.readouterr().err
    assert main([*small, "--modes", "[backprop,implicit]", "--resume", "true"]) == 0
    after = json.loads((tmp_path / "out" / "overfit.json").read_text())["records"]
    assert [record["mode"] for record in after] == ["backprop", "implicit"]
    assert after[1] == before[0]


@pytest.mark.parametrize(
    "wrong", [["--modes", "[magic]"], ["--epochs", "0"], ["--data.root", "nowhere"], ["--lr", "-1"]]
)
def test_bad_input_gets_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data.root", "nowhere", *wrong]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
