from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from experiments import table2 as command
from experiments.data.drawn import SHAPES
from experiments.evaluation.corruptions import CORRUPTIONS
from experiments.evaluation.suites.imagenet import synsets
from experiments.evaluation.trained import labelled_source
from experiments.settings import Settings
from experiments.training.loop import train
from models.cost import cost_of
from tests.experiments.trees import write


def test_the_table_its_links_and_its_dashes(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One model is ImageNet's, one of six shapes. ImageNet-C has the six, ImageNet-R lacks one, Sketch is missing."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "weights.safetensors")
    made = settings(epochs=1)
    train(made)
    root = tmp_path / "root"
    for i, label in enumerate(synsets()):
        write(root / "imagenet" / "val" / label / "x.png", i)
    for label in synsets("imagenet_a"):
        write(root / "imagenet-a" / label / "x.png", 0)
    for label in synsets("imagenet_r")[1:]:
        write(root / "imagenet-r" / label / "x.png", 0)
    for name in CORRUPTIONS:
        for severity in range(1, 6):
            for shape in SHAPES:
                write(root / "imagenet-c" / name / str(severity) / shape / "x.png", 0)
    out = tmp_path / "table"
    arguments = ["--models", f"[timm:test_vit={tmp_path / 'weights.safetensors'}, my run={made.out}]"]
    arguments += ["--data", str(root), "--out", str(out), "--validation", "{val_images: 12}", "--progress", "false"]
    capsys.readouterr()
    assert command.main(arguments) == 1
    printed = capsys.readouterr()
    assert "test_vit, IN-C (mCE, lower is better)" in printed.err
    table = json.loads((out / "table2.json").read_text())
    ours, theirs = {row["label"]: row for row in table["rows"]}["my run"], table["rows"][0]
    assert theirs["gflops"] == pytest.approx(cost_of(timm.create_model("test_vit", device="meta"), 160).gflops)
    cells = theirs["cells"]
    assert {name for name, cell in cells.items() if cell["value"] is not None} == {"Clean", "FGSM", "PGD", "IN-A"}
    assert cells["IN-A"]["value"] == pytest.approx(100 / 200)  # all 200 files hold one image
    assert f"has no class '{synsets('imagenet_r')[0]}'" in cells["IN-R"]["missing"]
    assert "no folder imagenet-sketch" in cells["IN-SK"]["missing"]
    cells = ours["cells"]
    assert cells["IN-C (mCE, lower is better)"]["value"] > 0
    assert "wants a model of ImageNet's 1000 classes" in cells["IN-A"]["missing"]
    # Every number equals the value on the line that its link points to.
    lines = (out / "table2.md").read_text().splitlines()
    tex = (out / "table2.tex").read_text()
    for row in (ours, theirs):
        for name, cell in row["cells"].items():
            column = command.COLUMNS[name]
            if cell["value"] is None:
                assert cell["record"] is None
                continue
            file, line = cell["record"].split("#L")
            record = json.loads((out / file).read_text().splitlines()[int(line) - 1])
            assert (record["on"], record["metric"]) == (column.on, column.metric)
            assert column.scale * record["value"] == pytest.approx(cell["value"])
            shown = f"{cell['value']:.1f}"
            assert f"[{shown}]({cell['record']})" in lines[2 + table["rows"].index(row)]
            assert rf"\href{{{file}\#L{line}}}{{{shown}}}" in tex
    assert lines[2].startswith("| test_vit | 0.37 | ")
    assert lines[2].endswith(" - | [0.5](test_vit/records.jsonl#L10) | - | - |")
    assert "test\\_vit & " in tex
    assert tex.count("--") == lines[2].count(" - ") + lines[3].count(" - ")
    # The second run of the command measures nothing again.
    before = (out / "test_vit" / "parts").stat().st_mtime_ns, len(list((out / "test_vit" / "parts").iterdir()))
    assert command.main(arguments) == 1
    assert before == (
        (out / "test_vit" / "parts").stat().st_mtime_ns,
        len(list((out / "test_vit" / "parts").iterdir())),
    )


def test_no_data_leave_dashes_and_bad_input_one_line(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = settings(epochs=1)
    train(made)
    arguments = ["--models", f"[{made.out}]", "--out", str(tmp_path / "table")]
    assert command.main([*arguments, "--validation", "{root: /nowhere}"]) == 0
    (row,) = (tmp_path / "table" / "table2.md").read_text().splitlines()[2:]
    assert row.endswith(" | - | - | - | - | - | - | - |")
    capsys.readouterr()
    for wrong, words in (
        (["--models", f"[a={made.out}, a={made.out}]"], "different labels"),
        (["--models", "[]"], "models are called nothing"),
        (["--models", "[/nowhere]"], "/nowhere is no checkpoint"),
        (["--data", "/nowhere"], "data is '/nowhere'"),
    ):
        assert command.main([*arguments, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_labels() -> None:
    assert labelled_source("timm:deit_tiny=w.safetensors") == ("deit_tiny", "timm:deit_tiny=w.safetensors")
    assert labelled_source("my model=timm:deit_tiny=w.safetensors") == ("my model", "timm:deit_tiny=w.safetensors")
    assert labelled_source("runs/a") == ("a", "runs/a")
    assert labelled_source("runs/a/checkpoints/epoch-0003") == ("a", "runs/a/checkpoints/epoch-0003")
