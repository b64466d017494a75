"""Suites of classification on hand-made trees, whose answers were computed on paper."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from experiments import evaluate as command
from experiments.data.images import Labelled
from experiments.evaluation.corruptions import CORRUPTIONS
from experiments.evaluation.run import BY_DEFAULT, Corruptions, Evaluation, Pacs, evaluate, evaluate_on
from experiments.evaluation.suites import SUITES, Subject
from experiments.evaluation.suites import pacs as pacs_suite
from experiments.evaluation.suites.attacked import Pgd
from experiments.evaluation.suites.corrupted import THREE_D
from experiments.evaluation.suites.imagenet import synsets
from experiments.settings import Data, Settings
from experiments.training.networks import Normalized, build_model
from tests.experiments.trees import DATA, Reader, write


def _records(subject: Subject, on: str, parts: Path | None = None, **options: Any) -> list[dict[str, Any]]:
    return list(evaluate_on(subject, Evaluation(on=(on,), progress=False, **options), parts))


def _imagenet(root: Path) -> Subject:
    return Subject(Reader(), DATA, list(synsets()), root=root)


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_the_answer_is_among_the_200_classes(tmp_path: Path, name: str) -> None:
    """The model is right on 60 images of 200. On 50 of them its largest logit is of a class that the data set lacks."""
    own = synsets(name.replace("-", "_"))
    absent = synsets().index(next(each for each in synsets() if each not in own))
    for i, label in enumerate(own):
        right, wrong = synsets().index(label), synsets().index(own[(i + 1) % 200])
        first, second = (absent, right) if i < 50 else (right, 0) if i < 60 else (wrong, right)
        write(tmp_path / name / label / "x.png", first, second)
    record, *_ = _records(_imagenet(tmp_path), name)
    assert (record["on"], record["metric"], record["images"], record["value"]) == (name, "accuracy", 200, 60 / 200)
    shutil.rmtree(tmp_path / name / own[7])
    with pytest.raises(ValueError, match=f"has no class '{own[7]}'"):
        _records(_imagenet(tmp_path), name)
    with pytest.raises(ValueError, match="wants a model of ImageNet's 1000 classes"):
        _records(Subject(Reader(2), DATA, ["a", "b"], root=tmp_path), name)


def test_all_1000_classes_stand_to_choose_from(tmp_path: Path) -> None:
    """The model is right on 250 images of 1000. On the others its second guess is right, and does not count."""
    for i, label in enumerate(synsets()):
        write(tmp_path / "imagenet-sketch" / label / "x.png", i if i % 4 == 0 else (i + 1) % 1000, i)
    record, *_ = _records(_imagenet(tmp_path), "imagenet-sketch")
    assert (record["value"], record["images"]) == (0.25, 1000)
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet-sketch").rename(tmp_path / "imagenet" / "val")
    record, *_ = _records(_imagenet(tmp_path), "imagenet", batch_size=300, workers=2)
    assert (record["on"], record["value"]) == ("imagenet", 0.25)
    (tmp_path / "imagenet-stylized").mkdir()
    (tmp_path / "imagenet-stylized" / "val").symlink_to(tmp_path / "imagenet" / "val")
    record, *_ = _records(_imagenet(tmp_path), "imagenet-stylized")
    assert (record["on"], record["value"], record["images"]) == ("imagenet-stylized", 0.25, 1000)
    # ImageNet-V2 has the classes' numbers as the folders' names. As texts "10" comes before "2".
    (tmp_path / "imagenet-v2").mkdir()
    for i, label in enumerate(synsets()):
        (tmp_path / "imagenet-v2" / str(i)).symlink_to(tmp_path / "imagenet" / "val" / label)
    record, *_ = _records(_imagenet(tmp_path), "imagenet-v2")
    assert (record["on"], record["value"], record["images"]) == ("imagenet-v2", 0.25, 1000)
    broken = tmp_path / "imagenet" / "val" / synsets()[3] / "x.png"
    broken.write_bytes(broken.read_bytes()[:30])
    with pytest.raises(ValueError, match=f"{synsets()[3]}/x.png is no image"):
        _records(_imagenet(tmp_path), "imagenet")


def _corrupted(root: Path) -> Subject:
    """All answers on gaussian_noise are wrong, half of those on fog of severity 3, and no others."""
    for name in CORRUPTIONS:
        for severity in range(1, 6):
            for label in (0, 1):
                wrong = name == "gaussian_noise" or (name == "fog" and severity == 3 and label == 1)
                write(root / "imagenet-c" / name / str(severity) / "ab"[label] / "x.png", label ^ wrong)
    return Subject(Reader(2), Data(image_size=8, crop=0.5), ["a", "b"], root=root)


def test_mce_of_a_known_confusion(tmp_path: Path) -> None:
    """mCE is 100/15 (1/.886428 + .1/.819324), and the plain mean (1 + .1)/15. No crop resizes these images."""
    found = _records(_corrupted(tmp_path), "imagenet-c")
    figures = {record["metric"]: record["value"] for record in found if record["metric"] != "accuracy"}
    assert figures["mce_alexnet"] == pytest.approx(8.33450, abs=1e-5)
    assert figures["mean_corruption_error_unnormalised"] == pytest.approx(1.1 / 15)
    cells = {(record["corruption"], record["severity"]): record["value"] for record in found if "severity" in record}
    assert len(cells) == 75
    assert (cells["fog", 3], cells["fog", 2], cells["gaussian_noise", 5]) == (0.5, 1, 0)
    some = _records(_corrupted(tmp_path), "imagenet-c", corruptions=Corruptions(["fog"]))
    assert "mce_alexnet" not in {record["metric"] for record in some}
    shutil.rmtree(tmp_path / "imagenet-c" / "snow" / "2" / "b")
    with pytest.raises(ValueError, match="snow/2 has no class 'b'"):
        _records(_corrupted_as_is(tmp_path), "imagenet-c")


def test_3dcc_is_the_mean_over_its_twelve_corruptions(tmp_path: Path) -> None:
    """Both answers are wrong on flash, and one of the two on bit_error of severity 2."""
    for name in THREE_D:
        for severity in (1, 2):
            for label in (0, 1):
                wrong = name == "flash" or (name == "bit_error" and severity == 2 and label == 1)
                write(tmp_path / "imagenet-3dcc" / name / str(severity) / "ab"[label] / "x.png", label ^ wrong)
    found = _records(_corrupted_as_is(tmp_path), "imagenet-3dcc", corruptions=Corruptions(severities=[1, 2]))
    figures = {record["metric"]: record["value"] for record in found if record["metric"] != "accuracy"}
    assert figures["mean_corruption_error_unnormalised"] == pytest.approx((1 + 0.25) / 12)
    assert "mce_alexnet" not in figures
    assert len([record for record in found if record["metric"] == "accuracy"]) == 24


def _corrupted_as_is(root: Path) -> Subject:
    return Subject(Reader(2), DATA, ["a", "b"], root=root)


def test_an_interrupted_evaluation_goes_on(tmp_path: Path) -> None:
    subject, ledger = _corrupted(tmp_path), tmp_path / "parts"
    whole = _records(subject, "imagenet-c")

    class Interrupted(Reader):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.calls == 40:
                raise KeyboardInterrupt
            return super().forward(images)

        def _get_name(self) -> str:  # so that the class's name does not tell the two models apart
            return "Reader"

    with pytest.raises(KeyboardInterrupt):
        _records(Subject(Interrupted(2), subject.data, "ab", root=tmp_path), "imagenet-c", ledger)
    (file,) = ledger.glob("*.jsonl")
    file.write_text(file.read_text() + '{"part": "snow/')  # the process was killed while it wrote a line
    again = Reader(2)
    assert _records(Subject(again, subject.data, "ab", root=tmp_path), "imagenet-c", ledger) == whole
    assert again.calls == 75 - 40
    assert _records(Subject(again, subject.data, "ab", root=tmp_path), "imagenet-c", ledger) == whole
    assert again.calls == 75 - 40
    # The command measures another model, other options or other images anew.
    other = Reader(3)
    _records(Subject(other, subject.data, "ab", root=tmp_path), "imagenet-c", ledger)
    assert other.calls == 75
    _records(Subject(again, Data(image_size=16, crop=1), "ab", root=tmp_path), "imagenet-c", ledger)
    assert again.calls == 75 - 40 + 75
    write(tmp_path / "imagenet-c" / "fog" / "4" / "a" / "y.png", 0)
    found = _records(Subject(again, subject.data, "ab", root=tmp_path), "imagenet-c", ledger)
    assert again.calls == 75 - 40 + 75 + 1
    assert sum(record["images"] for record in found if record["metric"] == "accuracy") == 151


def test_images_in_memory_are_told_apart(tmp_path: Path) -> None:
    values = []
    for colour in (0, 1):
        pixels = np.full((8, 8, 3), [colour, 0, 0], dtype=np.uint8)
        images = Labelled([pixels], [0], ["a", "b"], Image.fromarray)
        values.append(_records(Subject(Reader(2), DATA, ["a", "b"], images), "clean", tmp_path)[0]["value"])
    assert values == [1, 0]


def _validated(count: int) -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).double()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = Labelled(list(pixels), [i % 4 for i in range(count)], list("abcd"), Image.fromarray)
    model.forward = lambda images, forward=model.forward: forward(images.double())  # type: ignore[method-assign]
    return Subject(model, DATA, list("abcd"), images)


def test_neither_batch_size_nor_workers_change_anything() -> None:
    subject = _validated(41)
    found = []
    for batch_size, workers in ((41, 0), (7, 3), (1, 0)):
        how = {"corruptions": Corruptions(["gaussian_noise"], [3]), "batch_size": batch_size, "workers": workers}
        found.append([_records(subject, kind, **how) for kind in BY_DEFAULT])
    assert found[0] == found[1] == found[2]
    attack = Pgd(subject, Evaluation(on=("pgd",), progress=False))
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    whole = attack.attacked(images, labels, 5)
    halves = [attack.attacked(images[:2], labels[:2], 5), attack.attacked(images[2:], labels[2:], 7)]
    assert torch.allclose(torch.cat(halves), whole, atol=1e-6)
    assert not torch.allclose(attack.attacked(images, labels, 6), whole, atol=1e-6)


@pytest.mark.gpu
def test_a_gpu_gives_the_same() -> None:
    found = []
    for device in ("cpu", "cuda"):
        how = {"corruptions": Corruptions(["fog"], [3]), "device": device}
        found.append([record["value"] for kind in BY_DEFAULT for record in _records(_validated(41), kind, **how)])
    assert np.allclose(found[0], found[1], atol=1.5 / 41)  # rounding may change the answer for one image


def test_memory_does_not_grow_with_the_images() -> None:
    """4000 images of 12 kB are 47 MB, and must not be in memory at once. Only the list of labels may grow."""
    peaks = []
    picture = Image.new("RGB", (64, 64))
    for count in (500, 4000):
        images = Labelled(range(count), [0] * count, ["a", "b"], lambda _: picture.copy())
        tracemalloc.start()
        how = Evaluation(on=("clean",), batch_size=50, progress=False)
        list(evaluate(Reader(2), images, Data(image_size=64, crop=1), how))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6


def _pacs(root: Path, lists: Path) -> dict[str, tuple[int, int]]:
    """Write domains of cats and dogs, and official lists that leave out one dog of each. Returns the counts."""
    counts = {"art_painting": (1, 4), "cartoon": (2, 3), "photo": (4, 3), "sketch": (4, 5)}
    lists.mkdir(parents=True)
    for domain, numbers in counts.items():
        stages: dict[str, list[str]] = {"train": [], "crossval": [], "test": []}
        for label, (name, count) in enumerate(zip(("cat", "dog"), numbers, strict=True)):
            for i in range(count):
                path = f"{domain}/{name}/{i}.png"
                write(root / "PACS" / path, label)
                if (name, i) == ("dog", 0):
                    continue
                for stage in ("test", "crossval" if i == count - 1 else "train"):
                    stages[stage].append(f"{path} {label + 1}")
        for stage, lines in stages.items():
            (lists / f"{domain}_{stage}_kfold.txt").write_text("\n".join(lines) + "\n")
    return counts


def test_pacs_by_both_splits(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model always says cat and hardly learns, so its accuracy is the share of cats in the whole target domain."""
    counts = _pacs(tmp_path, tmp_path / "PACS" / "splits")
    made = settings()
    network = build_model(made.model, 2, 16)
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([99.0, 0.0]))
    config = tmp_path / "pacs.yaml"
    config.write_text("epochs: 1\noptimization: {lr: 1.0e-12, min_lr: 0, batch_size: 4}\n")
    seen: dict[str, tuple[Labelled, Labelled]] = {}

    def train(settings: Settings, images: tuple[Labelled, Labelled]) -> Path:
        seen["/".join(Path(settings.out).parts[-2:])] = images
        return real(settings, images)

    real = pacs_suite.train
    monkeypatch.setattr(pacs_suite, "train", train)
    model = Normalized(network, made.data.mean, made.data.std)
    subject = Subject(model, made.data, ["cat", "dog"], settings=made, root=tmp_path, out=tmp_path / "out")
    options = {"pacs": Pacs(config=str(config)), "device": "cpu"}
    found = _records(subject, "pacs", tmp_path / "parts", **options)
    shares = {(r["split"], r["target"]): (r["value"], r["images"]) for r in found if r["metric"] == "accuracy"}
    for domain, (cats, dogs) in counts.items():
        assert shares["kfold", domain] == (cats / (cats + dogs - 1), cats + dogs - 1)
        assert shares["domainbed", domain] == (cats / (cats + dogs), cats + dogs)
    means = {record["split"]: record["value"] for record in found if record["metric"] == "mean_accuracy"}
    assert means["kfold"] == pytest.approx((1 / 4 + 2 / 4 + 4 / 6 + 4 / 8) / 4)
    assert means["domainbed"] == pytest.approx((1 / 5 + 2 / 5 + 4 / 7 + 4 / 9) / 4)
    for run, (own, held_out) in seen.items():
        split, target = run.split("/")
        domains = {path.parent.parent.name for path in own.entries + held_out.entries}
        assert domains == set(counts) - {target}
        assert not set(own.entries) & set(held_out.entries)
        total = sum(sum(counts[domain]) - (split == "kfold") for domain in domains)
        assert len(own) + len(held_out) == total
        assert len(held_out) == (6 if split == "kfold" else sum(round(0.2 * sum(counts[each])) for each in domains))
    assert len(seen) == 8
    assert _records(subject, "pacs", tmp_path / "parts", **options) == found
    assert len(seen) == 8  # no model is trained again
    SUITES["pacs"].report(found, tmp_path)
    assert "| kfold | 25.0 | 50.0 | 66.7 | 50.0 | 47.9 |" in (tmp_path / "pacs.md").read_text()


def test_pacs_lists_that_are_missing_or_wrong(tmp_path: Path) -> None:
    _pacs(tmp_path, tmp_path / "lists")
    root = tmp_path / "PACS"
    subject = Subject(Reader(2), DATA, ["cat", "dog"], root=tmp_path, out=tmp_path)
    with pytest.raises(ValueError, match=r"has no art_painting_test_kfold\.txt"):
        _records(subject, "pacs")
    for file in (tmp_path / "lists").iterdir():
        shutil.copy(file, root)
    (root / "photo_test_kfold.txt").write_text("photo/cat/0.png 2\n")  # cats have the label 1
    with pytest.raises(ValueError, match=r"photo_test_kfold\.txt, line 1, is 'photo/cat/0\.png 2'"):
        _records(subject, "pacs", pacs=Pacs(targets=["photo"]))
    with pytest.raises(ValueError, match=r"pacs\.splits has 'twofold'"):
        Evaluation(pacs=Pacs(splits=["twofold"]))


def test_missing_data_sets_are_bad_input(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.training.loop import train

    path = str(train(settings(epochs=1)))
    capsys.readouterr()
    for arguments, words in (
        (["--on", "imagenet-r"], "give --data ROOT"),
        (["--on", "imagenet-c", "--data", str(tmp_path)], "has no folder imagenet-c"),
        (["--on", "clean", "--validation", "{colour: red}"], "validation has the option 'colour'"),
        (["--on", "imagenet-r", "--workers", "-1"], "workers is -1"),
    ):
        assert command.main([path, *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_timm_model_and_another_attention_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every suite of maps and classes takes a timm model from a file, with its attention replaced."""
    import json

    import timm
    from safetensors.torch import save_file

    from tests.experiments.test_map_suites import write_mit1003

    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "weights.safetensors")
    for label in synsets("imagenet_a")[::-1]:
        write(tmp_path / "imagenet-a" / label / "x.png", 0)
    write_mit1003(tmp_path)
    arguments = [f"timm:test_vit={tmp_path / 'weights.safetensors'}", "--on", "imagenet-a,mit1003"]
    arguments += ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--progress", "false"]
    arguments += ["--gaze.pixels_per_degree", "2"]
    plain = Path(tmp_path / "out" / "records.jsonl")
    assert command.main(arguments) == 2  # mit1003 needs a map, and timm's own attention has none
    assert "--attention.kind softmax" in capsys.readouterr().err
    maps = []
    for options in (["softmax"], ["vars_d", "--attention.lam", "0.1"]):
        assert command.main([*arguments, "--attention.kind", *options]) == 0
        records = {r["metric"]: r for r in map(json.loads, plain.read_text().splitlines())}
        assert records["accuracy"]["value"] == 1 / 200  # all 200 files hold one image, so one of the classes is right
        assert records["nss"]["config"]["model"]["attention"]["kind"] == options[0]
        maps.append(records["nss"]["value"])
    assert maps[0] != maps[1]
    assert "| IN-A | NSS | AUC-Judd | CC |" in (tmp_path / "out" / "table.md").read_text()


def test_the_training_of_pacs_stands_where_it_is_looked_for() -> None:
    assert pacs_suite._training(Pacs().config).epochs > 0
