"""CIFAR-10-C and -100-C in small arrays of the published form. The images say what the model answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score

from experiments import evaluate as command
from experiments.evaluation.corruptions import CORRUPTIONS
from experiments.evaluation.run import Corruptions, Evaluation, evaluate_on
from experiments.evaluation.suites import Subject
from experiments.evaluation.suites.cifar_c import CIFAR10, CIFAR100
from experiments.report.records import read
from experiments.settings import Data, Settings
from experiments.training.loop import train
from tests.experiments.trees import Reader

IMAGES = 7


def _written(root: Path, classes: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Write a data set. Returns its labels, and the answers that `Reader` gives for each corruption."""
    generator = np.random.default_rng(classes)
    folder = root / f"CIFAR-{classes}-C"
    folder.mkdir()
    labels = np.tile(generator.integers(0, classes, IMAGES), 5)
    np.save(folder / "labels.npy", labels.astype(np.uint8))
    answers = {}
    for name in (*CORRUPTIONS, "speckle_noise"):
        share = generator.uniform(0.2, 0.9)
        chosen = np.where(generator.random(5 * IMAGES) < share, labels, generator.integers(0, classes, 5 * IMAGES))
        images = np.zeros((5 * IMAGES, 32, 32, 3), dtype=np.uint8)
        images[..., 0] = chosen[:, None, None]
        images[:, :4], images[:, :, :4] = 255, 255  # a crop or another image size would move this frame to [4, 4]
        np.save(folder / f"{name}.npy", images)
        answers[name] = chosen
    return labels, answers


def _subject(root: Path, classes: tuple[str, ...] = CIFAR10) -> Subject:
    return Subject(Reader(len(classes)), Data(image_size=32, crop=0.5), classes, root=root)


def _records(subject: Subject, on: str = "cifar-10-c", parts: Path | None = None, **options: Any) -> list[Any]:
    return list(evaluate_on(subject, Evaluation(on=(on,), batch_size=4, progress=False, **options), parts))


@pytest.mark.parametrize("classes", [CIFAR10, CIFAR100], ids=["10", "100"])
def test_every_cell_and_the_mean_are_scikit_learns(classes: tuple[str, ...], tmp_path: Path) -> None:
    labels, answers = _written(tmp_path, len(classes))
    found = _records(_subject(tmp_path, classes), f"cifar-{len(classes)}-c")
    cells = {(r["corruption"], r["severity"]): r for r in found if r["metric"] == "accuracy"}
    assert len(cells) == 75
    for (name, severity), record in cells.items():
        cut = slice((severity - 1) * IMAGES, severity * IMAGES)
        assert record["value"] == pytest.approx(accuracy_score(labels[cut], answers[name][cut])), (name, severity)
        assert record["images"] == IMAGES
    (mean,) = [record for record in found if record["metric"] not in ("accuracy", "nll", "ece")]
    assert mean["metric"] == "mean_corruption_error_unnormalised"
    errors = [1 - accuracy_score(labels, answers[name]) for name in CORRUPTIONS]
    assert mean["value"] == pytest.approx(np.mean(errors))
    assert mean["corruptions"] == 15


def test_some_corruptions_and_severities_are_enough(tmp_path: Path) -> None:
    labels, answers = _written(tmp_path, 10)
    for name in CORRUPTIONS:
        if name != "fog":
            (tmp_path / "CIFAR-10-C" / f"{name}.npy").unlink()
    found = _records(_subject(tmp_path), corruptions=Corruptions(["fog"], [2, 5]))
    assert [record.get("severity") for record in found] == [2, 5, *[None] * 3]
    assert found[1]["value"] == pytest.approx(accuracy_score(labels[-IMAGES:], answers["fog"][-IMAGES:]))


def test_finished_parts_are_not_measured_again_unless_the_file_is_another(tmp_path: Path) -> None:
    _written(tmp_path, 10)
    subject, parts = _subject(tmp_path), tmp_path / "parts"
    options = {"parts": parts, "corruptions": Corruptions(["fog", "snow"])}
    first = _records(subject, **options)
    calls = subject.model.calls
    assert _records(subject, **options) == first
    assert subject.model.calls == calls
    file = tmp_path / "CIFAR-10-C" / "snow.npy"
    images = np.load(file)
    images[0, 8, 8] += 1
    np.save(file, images)
    assert _records(subject, **options) == first
    assert subject.model.calls == calls + 2  # two batches have the seven images of severity 1


def test_the_command_measures_a_trained_model(settings: Callable[..., Settings], tmp_path: Path) -> None:
    _written(tmp_path, 10)
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CIFAR10:
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / split / name / "0.png")
    made = settings(data=Data(root=str(tmp_path), image_size=32, crop=1), epochs=1)
    train(made)
    assert command.main([made.out, "--on", "cifar-10-c", "--data", str(tmp_path), "--corruptions.names", "[fog]"]) == 0
    found = read([Path(made.out) / "evaluation" / "records.jsonl"])
    assert [(record["on"], record.get("severity")) for record in found] == [
        ("cifar-10-c", severity) for severity in (1, 2, 3, 4, 5, *[None] * 3)
    ]
    table = (Path(made.out) / "evaluation" / "table.md").read_text()
    assert "CIFAR-10-C (mean error)" in table
    low, value, high = (100 * found[5][name] for name in ("low", "value", "high"))
    assert f"| {value:.1f} [{low:.1f}, {high:.1f}] |" in table


def test_the_classes_are_those_of_the_data_sets() -> None:
    for classes, count in ((CIFAR10, 10), (CIFAR100, 100)):
        assert len(set(classes)) == count
        assert list(classes) == sorted(classes)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def _pickled(file: Path) -> None:
    np.save(file, np.array([{}, None]), allow_pickle=True)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "fog.npy").unlink(), r"fog\.npy cannot be read as an array"),
        (lambda folder: _cut(folder / "fog.npy"), r"fog\.npy cannot be read as an array"),
        (lambda folder: _pickled(folder / "fog.npy"), r"fog\.npy cannot be read as an array .*Python objects"),
        (lambda folder: (folder / "fog.npy").write_bytes(b""), r"fog\.npy cannot be read as an array"),
        (lambda folder: np.save(folder / "fog.npy", np.zeros((35, 32, 32, 3))), "dtype float64; images"),
        (lambda folder: np.save(folder / "fog.npy", np.zeros((35, 3, 32, 32), np.uint8)), r"shape \(35, 3, 32, 32\)"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(34, np.uint8)), r"35 images of fog and labels of .*34"),
        (lambda folder: np.save(folder / "labels.npy", np.full(35, 10)), "integers from 0 to 9 are wanted"),
        (lambda folder: np.save(folder / "labels.npy", np.zeros(35)), "integers from 0 to 9 are wanted"),
        (lambda folder: folder.rename(folder.with_name("other")), "has no folder CIFAR-10-C"),
    ],
    ids=["missing", "cut", "pickle", "empty", "dtype", "shape", "count", "class", "floats", "folder"],
)
def test_what_is_wrong_is_said_in_a_sentence(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    _written(tmp_path, 10)
    damage(tmp_path / "CIFAR-10-C")
    with warnings.catch_warnings(), pytest.raises(ValueError, match=words) as caught:
        _records(_subject(tmp_path), corruptions=Corruptions(["fog"]))
    assert "\n" not in str(caught.value)


def test_a_model_of_other_classes_is_refused(tmp_path: Path) -> None:
    _written(tmp_path, 10)
    for classes in (CIFAR10[::-1], CIFAR100, ("a", "b")):
        with pytest.raises(ValueError, match=r"cifar-10-c wants a model of airplane, automobile, \.\.\. truck"):
            _records(_subject(tmp_path, classes))
