"""Bad input gets one line and exit status 2."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from experiments import evaluate, quickstart, series, train
from experiments.options.plain_data import as_plain
from experiments.settings import Settings
from experiments.training.loop import train as train_run
from experiments.training.networks import build_model
from experiments.training.parsing import read_settings
from tests.experiments.digests import without_digests

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"


@pytest.fixture
def config(settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., list[str]]:
    def write(**data: object) -> list[str]:
        made = as_plain(settings(epochs=1))
        made["data"].update(data)
        file = tmp_path / "settings.yaml"
        file.write_text(yaml.safe_dump(made))
        return ["--config", str(file)]

    return write


def check_refused(capsys: pytest.CaptureFixture[str], status: int, words: str) -> None:
    assert status == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1, errors
    assert words in errors[0]


def test_missing_folder(config: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    check_refused(capsys, train.main(config(root="/nowhere")), "/nowhere/train is no folder")


def test_without_standard_error_the_line_is_not_printed_as_a_result(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert evaluate.main(["/nowhere"]) == 2
    assert sys.stderr is None
    assert capfd.readouterr().out == ""


def test_empty_class(config: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "data" / "train" / "cat").mkdir(parents=True)
    check_refused(capsys, train.main(config(root=str(tmp_path / "data"))), "class 'cat' has no images")


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_image(
    config: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path, workers: int
) -> None:
    import shutil

    shutil.copytree(images, tmp_path / "data")
    broken = tmp_path / "data" / "train" / "disc" / "00000.png"
    broken.write_bytes(broken.read_bytes()[:60])
    arguments = [*config(root=str(tmp_path / "data"), workers=workers), "--optimization.batch_size", "24"]
    check_refused(capsys, train.main(arguments), f"{broken} cannot be read as an image")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--colour", "red"], "colour"),
        (["--model.attention.kind", "vars_x"], "vars_x"),
        (["--model.name", "no_such_model"], "no_such_model"),
        (["--model.sizes", "{wings: 2}"], "wings"),
        (["--model.attention.kind", "softmax", "--model.attention.lam", "0.3"], "lam"),
        (["--optimization.batch_size", "1000"], "1000"),
        (["--epochs", "none"], "epochs"),
        (["--epochs", "0"], "epochs is 0"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--finetune", "/nowhere"], "/nowhere is no checkpoint"),
    ],
)
def test_bad_options(
    config: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    check_refused(capsys, train.main([*config(), *arguments]), words)


def test_unknown_key_in_a_file(config: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    check_refused(capsys, train.main(config(rooot="x")), "rooot")


def test_pickle_other_model_and_damage(
    settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"weight": 1}))
    check_refused(capsys, evaluate.main([str(tmp_path / "model.pt")]), "pickles are never loaded")
    pickled = ["timm:resnet18", "--weights", str(tmp_path / "model.pt")]
    check_refused(capsys, evaluate.main(pickled), "pickles are never loaded")
    check_refused(capsys, evaluate.main([str(tmp_path / "nothing")]), "is no checkpoint")
    path = train_run(settings(epochs=1))
    capsys.readouterr()
    without_digests(path)
    weights = load_file(path / "model.safetensors")
    save_file({**weights, "head.weight": torch.zeros(6, 99)}, path / "model.safetensors")
    check_refused(capsys, evaluate.main([str(path), "--on", "clean"]), "checkpoint of another model: head.weight")
    (path / "model.safetensors").write_bytes(pickle.dumps(weights))
    check_refused(capsys, evaluate.main([str(path), "--on", "clean"]), "is no readable checkpoint")
    check_refused(capsys, evaluate.main([str(path), "--on", "rain"]), "rain")


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (train, evaluate, series, quickstart):
        assert command.main(["--help"]) == 0
    assert "--optimization.lr" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["rvt", "deit", "gfnet"])
def test_imagenet_configurations_compose_with_every_attention(family: str) -> None:
    for attention in sorted((CONFIGS / "attention").glob("*.yaml")):
        files = [CONFIGS / "imagenet" / "recipe.yaml", CONFIGS / "imagenet" / f"{family}.yaml", attention]
        made = read_settings([word for file in files for word in ("--config", str(file))])
        assert made.model.name == f"vars_{family}_tiny"
        assert str(made.model.attention.kind) in attention.stem
        assert (made.epochs, made.augmentation.mixup, made.optimization.batch_size) == (300, 0.8, 1024)
    made.model.sizes = {"depth": [1, 1] if family == "rvt" else 1}
    assert build_model(made.model, 10, made.data.image_size, 0.1)(torch.zeros(1, 3, 224, 224)).shape == (1, 10)


@pytest.mark.parametrize("name", ["cifar10/rvt.yaml", "pacs.yaml"])
def test_other_configurations_are_read(name: str) -> None:
    assert read_settings(["--config", str(CONFIGS / name)]).epochs > 1
