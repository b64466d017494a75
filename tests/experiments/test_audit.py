"""The audit of attacks on models whose answer is known: honest ones, and ones that hide their gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch import Tensor, nn

from experiments import evaluate as command
from experiments.data.images import Labelled
from experiments.evaluation.attacks import checks
from experiments.evaluation.attacks.ball import Ball
from experiments.evaluation.measures import masking
from experiments.evaluation.run import Attacks, Audit, Evaluation, evaluate_on
from experiments.evaluation.suites import Subject, audited
from experiments.evaluation.suites.attacked import generators
from experiments.settings import Settings
from experiments.training.loop import train
from tests.experiments.trees import DATA

CLASSES = list("abcd")
COUNT = 25
FEW = Attacks(radius=8.0, steps=10, step=2.0, apgd_steps=10, targets=2, queries=60)
SMALL = Audit(images=40, steps=[1, 5, 20], radii=[0.5, 2.0], climb=10)


class Honest(nn.Module):
    """A smooth network with one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(192, 32, generator=generator) / 4)
        self.second = nn.Parameter(torch.randn(32, 4, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh((images.flatten(1) - 0.5) @ self.first) @ self.second


class Rounded(Honest):
    """Rounds its input to 16 levels, so its gradient vanishes."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 15).round() / 15)


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.flip(-1).roll(1, -2)


class Wrong(Honest):
    """Has a gradient that is not its own."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(Backwards.apply(images))


class Random(Honest):
    """Adds noise to its input at each call."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 0.05 * torch.randn_like(images))


def _subject(model: nn.Module, count: int = COUNT) -> Subject:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = torch.tensor(pixels).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        labels = Honest()(images).argmax(1).tolist()
    return Subject(model, DATA, CLASSES, Labelled(list(pixels), labels, CLASSES, Image.fromarray))


def _audit(subject: Subject, parts: Path | None = None, attacks: Attacks = FEW, **more: Any) -> list[dict[str, Any]]:
    how = Evaluation(on=("attack-audit",), attacks=attacks, audit=SMALL, progress=False, **more)
    return list(evaluate_on(subject, how, parts))


def _signs(found: list[dict[str, Any]]) -> list[str]:
    return [record["sign"] for record in found if record["sign"]]


def _value(found: list[dict[str, Any]], metric: str, **where: Any) -> float:
    (value,) = [r["value"] for r in found if r["metric"] == metric and where.items() <= r.items()]
    return value


def test_an_honest_network_passes_and_the_worst_attack_counts_for_each_image() -> None:
    found = _audit(_subject(Honest()))
    assert _signs(found) == []
    assert found[-1]["verdict"].startswith("Nothing says that the gradients mislead attacks: of 25 images 100.0 % are")
    accuracies = {r["attack"]: r["value"] for r in found if r["metric"] == "accuracy"}
    assert list(accuracies) == ["none", "fgsm", "pgd", "pgd-margin", "apgd-ce", "apgd-dlr", "apgd-t", "noise", "square"]
    assert 0 < _value(found, "worst_case_accuracy") <= min(accuracies.values()) < 0.9
    assert _value(found, "accuracy_by_radius", radius=0.5) == 0
    assert _value(found, "difference_disagreement") == 0
    assert _value(found, "uphill") == 1


@pytest.mark.parametrize(
    ("model", "signs"),
    [
        (Rounded, ["square breaks", "every image can be broken", "the gradient vanishes on 100.0 %", "beats a random"]),
        (Wrong, ["square breaks", "the gradient is not that of the model on 100.0 %"]),
        (Random, ["the answers to 100.0 % of the images are random"]),
    ],
)
def test_models_that_hide_their_gradients_are_called_out(model: type[Honest], signs: list[str]) -> None:
    torch.manual_seed(0)
    found = _audit(_subject(model()))
    told = "; ".join(_signs(found))
    for sign in signs:
        assert sign in told, told
    assert found[-1]["verdict"].startswith("The gradients mislead attacks (")
    assert found[-1]["value"] == len(_signs(found))


def test_an_interrupted_audit_goes_on_and_leaves_a_labelled_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audited, "_IMAGES_OF_A_PART", 10)
    few = Attacks(radius=8.0, steps=2, apgd_steps=3, targets=1, queries=2)
    whole = _audit(_subject(Honest()), tmp_path / "whole" / "parts", few)

    class Killed(Honest):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            Killed.calls += 1
            if Killed.calls == 250:
                raise KeyboardInterrupt
            return super().forward(images)

        def _get_name(self) -> str:
            return "Honest"

    parts = tmp_path / "killed" / "parts"
    with pytest.raises(KeyboardInterrupt):
        _audit(_subject(Killed()), parts, few)
    assert len(list(parts.glob("*/*.npz"))) in (1, 2)
    Killed.calls = 10**6
    assert _audit(_subject(Killed()), parts, few) == whole
    assert Killed.calls - 10**6 < 500
    # Other attacks, another model to transfer from, and other checks are measured anew.
    before = len(list(parts.glob("*.jsonl")))
    _audit(_subject(Honest()), parts, replace(few, steps=3))
    assert len(list(parts.glob("*.jsonl"))) == before + 1
    (path,) = (tmp_path / "whole" / "predictions").iterdir()
    store = xr.open_zarr(path, chunks=None)
    assert store.right.dims == ("image", "attack")
    resist = store.right.all("attack")
    assert float(resist.mean()) == pytest.approx(_value(whole, "worst_case_accuracy"))
    assert float(store.right.sel(attack="square").mean()) == _value(whole, "accuracy", attack="square")
    assert store.steps.values.tolist() == [1, 5, 20]


def test_another_model_breaks_what_its_own_gradients_miss() -> None:
    """Rounding hides the gradient of a network, and the same network without it shows the way."""
    subject = _subject(Rounded())
    subject.other = _subject(Honest())
    few = Attacks(radius=16.0, steps=5, step=8.0, apgd_steps=5, targets=1, queries=2)
    found = _audit(subject, None, few)
    assert _value(found, "accuracy", attack="transfer") < 0.7 < _value(found, "accuracy", attack="apgd-ce")
    assert any(sign.startswith("transfer breaks") for sign in _signs(found))
    subject.other = Subject(Honest(), DATA, list("xyzw"))
    with pytest.raises(ValueError, match="transfer-from is a model of 4 classes"):
        _audit(subject, None, few)


def test_nothing_is_attacked_where_no_image_is_classified_right() -> None:
    class Never(Honest):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).neg()

    subject = _subject(Never())
    assert subject.images is not None
    with torch.no_grad():
        images = torch.tensor(np.stack(subject.images.entries)).permute(0, 3, 1, 2) / 255
        subject.images.labels[:] = Never()(images).argmin(1).tolist()
    found = _audit(subject)
    assert found[-1]["verdict"] == "None of 25 images is classified right, so there is nothing to attack."


def test_errors_of_gradients_in_float64_leave_the_model_as_it_was() -> None:
    images, labels, own = torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 2]), generators(0, range(3))
    for kind, error in ((Honest, 0.0), (Rounded, 0.0), (Wrong, 1.0)):
        model = kind()
        before = {name: each.clone() for name, each in model.state_dict().items()}
        found = checks.difference_errors(model, images, labels, own)
        assert ((found < 1e-6) if error == 0 else (found > 0.3)).all()
        assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
        assert all(each.dtype == torch.float32 for each in model.parameters())
    assert checks.zero_gradients(Rounded(), images, labels)["margin"].all()
    assert not checks.uphill(Rounded(), images, labels, Ball(0.1), own).any()
    # A logit that is ahead by far has a cross-entropy without a gradient, in float32, and the margin still has one.
    sure = Honest()
    sure.second.data *= 1e4
    answers = sure(images).argmax(1)
    zero = checks.zero_gradients(sure, images, answers)
    assert zero["cross_entropy"].all()
    assert not zero["margin"].any()


def test_signs_by_hand() -> None:
    right = np.zeros((100, 3), dtype=bool)
    right[:50, 0], right[:30, 1], right[:40, 2] = True, True, True
    signs = [sign for *_, sign in masking.falling("steps", [1, 5, 20], right)]
    assert signs == [None, None, "10 more images resist at steps 20 than at 5"]
    right[:, 2] = right[:, 1]
    assert [sign for *_, sign in masking.falling("steps", [1, 5, 20], right)] == [None] * 3
    clean = np.arange(100) < 60
    assert [sign for *_, sign in masking.falling("radius", [1, 5, 20], right, clean)][2] == (
        "30 of 60 images resist at radius 20, where every image can be broken"
    )
    broken = np.arange(100) < 3
    assert masking.missed("noise", broken, clean) == "noise breaks 3 images that no attack by gradients breaks"
    assert masking.missed("noise", np.arange(100) < 2, clean) is None


def test_the_command_audits_a_vars_model_with_the_gradient_of_its_equilibrium(
    settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = settings(epochs=1)
    train(made)
    other = settings(epochs=1, out=str(tmp_path / "other"), seed=1)
    train(other)
    out = Path(made.out) / "evaluation"
    arguments = [made.out, "--attack-audit", "--transfer-from", other.out, "--progress", "false"]
    arguments += ["--attacks.radius", "4", "--attacks.apgd_steps", "3", "--attacks.targets", "2"]
    arguments += ["--attacks.queries", "5", "--audit.steps", "[1,3]", "--audit.radii", "[1]", "--audit.climb", "2"]
    capsys.readouterr()
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    table = (out / "attack-audit.md").read_text()
    assert table in printed
    for name in ("square", "pgd-implicit", "transfer"):
        assert f"\n| accuracy after {name} | " in table
    assert "of 18 images" in table.splitlines()[-1]
    assert "| worst attack | signs of masking |" in printed
    for wrong, words in (
        ([made.out, "--on", "clean", "--transfer-from", other.out], "transfer-from does nothing"),
        ([made.out, "--on", "clean", "--audit.images", "3"], "--audit.images does nothing"),
        ([made.out, "--attack-audit", "--audit.steps", "[5,1]"], "rising numbers are wanted"),
        ([made.out, "--attack-audit", "--transfer-from", "/nowhere"], "/nowhere is no checkpoint"),
    ):
        assert command.main(wrong) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
