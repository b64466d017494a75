from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments import evaluate as command
from experiments import records as record_table
from experiments.data.images import Labelled
from experiments.evaluation.corruptions import ALEXNET_ERRORS, CORRUPTIONS, corrupt_all
from experiments.evaluation.run import BY_DEFAULT, ON_VALIDATION_IMAGES, Attacks, Corruptions, Evaluation, evaluate
from experiments.evaluation.suites import SUITES, corrupted
from experiments.report.records import latest
from experiments.report.summaries import ALL_COLUMNS, VALIDATION_COLUMNS
from experiments.settings import Data, Optimization, Settings
from experiments.training.loop import train
from tests.experiments.digests import without_digests

DATA = Data(image_size=8, crop=1)


def _labelled(count: int) -> Labelled:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = [Image.fromarray(image) for image in pixels]
    return Labelled(images, [i % 4 for i in range(count)], list("abcd"), lambda image: image)


class Guess(nn.Module):
    """A model with new random logits for every image. Attacks need them to be differentiable in the images."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images: Tensor) -> Tensor:
        return torch.randn(len(images), 4, generator=self.generator) + 0 * images.sum((1, 2, 3))[:, None]


class Constant(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([0.0, 0.0, 1.0, 0.0]) + 0 * images.sum((1, 2, 3))[:, None]


def test_guessing_gives_chance_everywhere() -> None:
    how = Evaluation(corruptions=Corruptions(["fog", "contrast"], [1, 5]), batch_size=100, progress=False)
    found = list(evaluate(Guess(), _labelled(400), DATA, how))
    assert {record["on"] for record in found} == set(BY_DEFAULT)
    accuracies = [record["value"] for record in found if record["metric"] == "accuracy"]
    counts = Counter(record["on"] for record in found if record["metric"] == "accuracy")
    assert [counts[name] for name in ("clean", "corruptions", "fgsm", "pgd")] == [1, 2 * 2, 1, 1]
    assert all(abs(value - 0.25) < 5 * (0.25 * 0.75 / 400) ** 0.5 for value in accuracies)
    assert len(set(accuracies)) > 1


@pytest.mark.parametrize("name", ON_VALIDATION_IMAGES)
def test_no_validation_images_are_refused_by_every_suite_on_them(name: str) -> None:
    none = Labelled([], [], list("abcd"), lambda image: image)
    with pytest.raises(ValueError, match=r"^there are no validation images; at least one is wanted$"):
        list(evaluate(Constant(), none, DATA, Evaluation(on=(name,), progress=False)))


def test_every_suite_has_a_column() -> None:
    lacking = set(SUITES) - {column.on for column in ALL_COLUMNS.values()}
    assert not lacking, f"ALL_COLUMNS in experiments/report/summaries.py wants a column for {sorted(lacking)}"
    lacking = set(BY_DEFAULT) ^ {column.on for column in VALIDATION_COLUMNS.values()}
    assert not lacking, f"VALIDATION_COLUMNS is for the suites of every evaluation alone; see {sorted(lacking)}"


def test_one_answer_to_all_gives_exactly_one_class() -> None:
    how = Evaluation(corruptions=Corruptions(["snow"], [2]), batch_size=7, progress=False)  # 20 is no multiple of 7
    found = list(evaluate(Constant(), _labelled(20), DATA, how))
    by_metric = {(record["metric"], record["on"]): record["value"] for record in found}
    assert by_metric.pop(("mean_corruption_error_unnormalised", "corruptions")) == 0.75
    # The logits 0 0 1 0 stand for the probabilities 1 1 e 1, divided by e + 3.
    for metric, value in (("nll", np.log(np.e + 3) - 0.25), ("ece", np.e / (np.e + 3) - 0.25)):
        for on in BY_DEFAULT:
            assert by_metric.pop((metric, on)) == pytest.approx(value, abs=1e-6)
    assert set(by_metric.values()) == {0.25}
    assert [record["radius"] for record in found if record["on"] == "pgd"] == [1 / 255] * 3


def test_models_see_the_corrupted_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _labelled(6)
    seen: list[Tensor] = []

    class Watch(Constant):
        def forward(self, batch: Tensor) -> Tensor:
            seen.append(batch.clone())
            return super().forward(batch)

    cached = Corruptions(["shot_noise"], [4], cache=str(tmp_path))
    how = Evaluation(on=("corruptions",), corruptions=cached, batch_size=4, seed=9, progress=False)
    for _ in range(2):  # the first pass fills the cache, and the second reads it
        seen.clear()
        list(evaluate(Watch(), images, DATA, how))
        pixels = np.stack([np.asarray(images.image(i)) for i in range(6)])
        expected = torch.from_numpy(corrupt_all(pixels, "shot_noise", 4, 9)).permute(0, 3, 1, 2) / 255
        assert torch.equal(torch.cat(seen), expected)
    assert len(list(tmp_path.iterdir())) == 2
    # Images that another version of the corruptions cached are made anew.
    monkeypatch.setattr(corrupted, "VERSION", corrupted.VERSION + 1)
    list(evaluate(Watch(), images, DATA, how))
    assert len(list(tmp_path.iterdir())) == 4


def test_imagenet_c_folders_and_the_two_errors(tmp_path: Path) -> None:
    """The model always answers with one class, and half of the images belong to it."""
    for name in CORRUPTIONS:
        for severity in range(1, 6):
            for label in "ab":
                folder = tmp_path / name / str(severity) / label
                folder.mkdir(parents=True)
                Image.new("RGB", (8, 8)).save(folder / "x.png")

    class First(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0]).expand(len(images), 2)

    none = Labelled([], [], ["a", "b"], lambda image: image)
    how = Evaluation(on=("corruptions",), corruptions=Corruptions(folder=str(tmp_path)), progress=False)
    figures = {record["metric"]: record["value"] for record in evaluate(First(), none, DATA, how)}
    assert figures["mean_corruption_error_unnormalised"] == pytest.approx(0.5)
    assert figures["mce_alexnet"] == pytest.approx(sum(50 / error for error in ALEXNET_ERRORS.values()) / 15)
    with pytest.raises(ValueError, match="classes"):
        list(evaluate(First(), Labelled([], [], ["a", "c"], none.read), DATA, how))


def test_the_command_uses_the_moving_average_and_writes_records_table_and_figure(
    settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    made = settings(epochs=1, optimization=Optimization(batch_size=8, ema=0.5))
    path = train(made)
    without_digests(path)
    average = load_file(path / "ema.safetensors")
    save_file({**average, "head.bias": torch.tensor([0, 0, 0, 99.0, 0, 0])}, path / "ema.safetensors")
    arguments = [
        made.out,
        "--on",
        "clean,corruptions",
        "--corruptions.names",
        "[fog]",
        "--corruptions.severities",
        "[3]",
    ]
    assert command.main([*arguments, "--label", "mine", "--seed", "4"]) == 0
    out = Path(made.out) / "evaluation"
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [(record["on"], record["metric"]) for record in records] == [
        *(("clean", metric) for metric in ("accuracy", "nll", "ece")),
        *(("corruptions", metric) for metric in ("accuracy", "mean_corruption_error_unnormalised", "nll", "ece")),
    ]
    assert records[0]["value"] == pytest.approx(1 / 6)  # the head of the moving average always answers with one class
    for name in ("commit", "torch_version", "command", "date", "seed", "evaluation_seed", "checkpoint"):
        assert name in records[0]
    assert records[0]["config"]["model"]["attention"]["kind"] == "vars_d"
    assert records[3]["corruption"] == "fog"
    assert "| mine | 1 | 16.7 [0.0, 33.3] |" in (out / "table.md").read_text()
    assert (out / "severity.png").stat().st_size > 1000
    assert (out / "attention.png").stat().st_size > 1000
    assert "16.7" in capsys.readouterr().out
    assert record_table.main([str(out / "records.jsonl"), str(out / "records.jsonl")]) == 0
    assert "| mine | 1 | 16.7 |" in capsys.readouterr().out
    assert record_table.main([str(out / "nothing.jsonl")]) == 2


def test_any_timm_model_with_weights_of_a_local_file(images: Path, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=6, img_size=160)
    weights = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), weights)
    out = tmp_path / "out"
    data = json.dumps({"root": str(images)})
    assert (
        command.main(
            ["timm:test_vit", "--weights", str(weights), "--on", "clean", "--validation", data, "--out", str(out)]
        )
        == 0
    )
    record, *_ = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert 0 <= record["value"] <= 1
    assert record["images"] == 18


def test_attacks_on_fewer_images_and_bad_kinds() -> None:
    how = Evaluation(on=("pgd",), attacks=Attacks(radius=2, images=8), progress=False)
    record, *_ = evaluate(Constant(), _labelled(20), DATA, how)
    assert (record["images"], record["radius"]) == (8, 2 / 255)
    with pytest.raises(ValueError, match="on has 'fear'"):
        Evaluation(on=("fear",))


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def test_suites_measured_one_after_the_other_stand_beside_each_other(
    settings: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    made = settings(epochs=1)
    path = train(made)
    out = Path(made.out) / "evaluation"
    for arguments in (["clean"], ["fgsm"], ["fgsm", "--attacks.radius", "4"], ["clean", "--label", "other"]):
        assert command.main([made.out, "--on", *arguments]) == 0
    first = [r for r in _records(out) if r["metric"] == "accuracy"]
    assert [(r["on"], r["label"]) for r in first] == [
        ("clean", "run"), ("fgsm", "run"), ("fgsm", "run"), ("clean", "other")
    ]  # fmt: skip
    assert (out / "table.md").read_text().count("\n") == 5  # two lines of head, two labels, the images
    assert command.main([made.out, "--on", "fgsm"]) == 0  # its records replace the earlier ones of the same kind
    second = [r for r in _records(out) if r["metric"] == "accuracy"]
    key = ("on", "label", "value", "radius")
    assert sorted(str([r.get(k) for k in key]) for r in first) == sorted(str([r.get(k) for k in key]) for r in second)
    assert second[-1]["radius"] == 1 / 255
    assert latest(second) == [r for r in second if r.get("radius") != 4 / 255]
    capsys.readouterr()

    without_digests(path)
    weights = load_file(path / "model.safetensors")  # another model with the same label hides the first's records
    save_file({**weights, "head.bias": torch.tensor([0, 0, 0, 99.0, 0, 0])}, path / "model.safetensors")
    assert command.main([made.out, "--on", "clean"]) == 0
    assert len([r for r in _records(out) if r["metric"] == "accuracy"]) == 5
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| run | 1")]
    assert row.startswith("| run | 1 | 16.7 [0.0, 33.3] | ")


def test_results_go_beside_the_checkpoint_that_is_given_not_where_it_says(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    made = settings(epochs=1)
    train(made)
    moved = tmp_path / "elsewhere" / "mine"
    moved.parent.mkdir()
    Path(made.out).rename(moved)
    assert command.main([str(moved), "--on", "clean"]) == 0
    assert not Path(made.out).exists()
    record, *_ = _records(moved / "evaluation")
    assert record["label"] == "mine"


def test_files_that_no_evaluation_made_stay(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = settings(epochs=1)
    train(made)
    out = tmp_path / "notes"
    out.mkdir()
    for name, content in (("table.md", b"my table"), ("attention.png", b"holiday"), ("records.jsonl", b"thesis\n")):
        (out / name).write_bytes(content)
        capsys.readouterr()
        assert command.main([made.out, "--on", "clean", "--out", str(out)]) == 2
        assert name in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in out.iterdir()} == {name: content}
        (out / name).unlink()
    (out / "table.md").write_text("my table")
    assert command.main([made.out, "--on", "clean", "--out", str(out), "--overwrite", "true"]) == 0
    assert "| run |" in (out / "table.md").read_text()
