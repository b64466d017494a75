"""What is kept of each image: the stores, and the numbers that are computed from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torchmetrics.classification import MulticlassCalibrationError

from experiments.data.images import Labelled
from experiments.evaluation.measures.calibration import calibration_error
from experiments.evaluation.measures.intervals import mean_interval
from experiments.evaluation.run import Corruptions, Evaluation, evaluate_on
from experiments.evaluation.suites import Subject
from experiments.evaluation.suites import classification as classified
from tests.experiments.trees import DATA

CLASSES = list("abcd")


class Colours(nn.Module):
    """Logits from the mean colours of an image."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64) * 20)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.double().mean((2, 3)) @ self.weight


def _subject(count: int, model: nn.Module | None = None) -> Subject:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    images = Labelled(list(pixels), [i % 4 for i in range(count)], CLASSES, Image.fromarray)
    return Subject(Colours() if model is None else model, DATA, CLASSES, images)


def _run(subject: Subject, parts: Path, **options: Any) -> list[dict[str, Any]]:
    return list(evaluate_on(subject, Evaluation(progress=False, **options), parts))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classified, "chunks", lambda name, images: _chunks(name, images, 10))


_chunks = classified.chunks


@pytest.mark.usefixtures("small_parts")
def test_the_store_holds_every_prediction_with_its_labels(tmp_path: Path) -> None:
    subject = _subject(25)
    found = {r["metric"]: r for r in _run(subject, tmp_path / "parts", on=("clean",), predictions="logits")}
    (path,) = (tmp_path / "predictions").glob("clean-*.zarr")
    store = xr.open_zarr(path, chunks=None)
    assert store.logit.dims == ("image", "class")
    assert store["class"].values.tolist() == CLASSES
    assert store.image.values.tolist() == list(range(25))
    assert store.part.values.tolist() == [f"clean/{i // 10 * 10}" for i in range(25)]
    pixels = torch.tensor(np.stack(subject.images.entries)).permute(0, 3, 1, 2).float() / 255  # type: ignore[union-attr]
    logits = subject.model(pixels).detach()
    labels = torch.arange(25) % 4
    np.testing.assert_allclose(store.logit, logits, rtol=1e-6)
    np.testing.assert_array_equal(store.label, labels)
    np.testing.assert_array_equal(store.answer, logits.argmax(1))
    np.testing.assert_allclose(store.confidence, logits.softmax(1).amax(1), rtol=1e-6)
    nll = nn.functional.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(store.nll, nll, rtol=1e-5)
    assert found["nll"]["value"] == pytest.approx(float(nll.mean()), rel=1e-6)
    assert found["accuracy"]["value"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    oracle = MulticlassCalibrationError(4, n_bins=15)(logits.softmax(1).float(), labels)
    assert found["ece"]["value"] == pytest.approx(float(oracle), abs=1e-5)


@pytest.mark.usefixtures("small_parts")
def test_a_killed_evaluation_goes_on_with_what_it_found(tmp_path: Path) -> None:
    whole = _run(_subject(25), tmp_path / "whole" / "parts", on=("clean",), batch_size=5)

    class Killed(Colours):
        def forward(self, images: Tensor) -> Tensor:
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().forward(images)

        def _get_name(self) -> str:
            return "Colours"

    parts = tmp_path / "killed" / "parts"
    with pytest.raises(KeyboardInterrupt):
        _run(_subject(25, Killed()), parts, on=("clean",), batch_size=5)
    assert not (parts.parent / "predictions").exists()
    (kept,) = parts.glob("*/*.npz")
    again = Colours()
    assert _run(_subject(25, again), parts, on=("clean",), batch_size=5) == whole
    assert again.calls == 3  # 10 images of 25 were done, and 15 are measured in batches of 5
    stores = [next((tmp_path / name / "predictions").iterdir()) for name in ("whole", "killed")]
    xr.testing.assert_identical(*(xr.open_zarr(store, chunks=None).load() for store in stores))
    # A damaged file, or logits that are asked for later, are measured anew.
    kept.write_bytes(kept.read_bytes()[:-40])
    assert _run(_subject(25, again), parts, on=("clean",), batch_size=5) == whole
    assert again.calls == 5
    _run(_subject(25, again), parts, on=("clean",), batch_size=5, predictions="logits")
    assert again.calls == 10
    assert "logit" in xr.open_zarr(stores[1], chunks=None)


def test_corruptions_are_coordinates_and_images_are_drawn_with_all_of_them(tmp_path: Path) -> None:
    chosen = Corruptions(["fog", "contrast"], [1, 5])
    found = _run(_subject(30), tmp_path / "parts", on=("corruptions",), corruptions=chosen)
    (path,) = (tmp_path / "predictions").iterdir()
    store = xr.open_zarr(path, chunks=None)
    fog = store.isel(image=(store.corruption == "fog") & (store.severity == 5))
    (cell,) = [r for r in found if r.get("corruption") == "fog" and r["severity"] == 5]
    assert float((fog.answer == fog.label).mean()) == pytest.approx(cell["value"])
    (mean,) = [r for r in found if r["metric"] == "mean_corruption_error_unnormalised"]
    wrong = (store.answer != store.label).values.reshape(4, 30).mean(0)
    assert mean["value"] == pytest.approx(wrong.mean())
    assert mean["images"] == 30
    assert (mean["low"], mean["high"]) == pytest.approx(mean_interval(wrong, 0))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 20))
def test_torchmetrics_agrees_on_calibration(seed: int, count: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    confidence, right = generator.uniform(0.26, 1, count), generator.random(count) < 0.6
    # Two classes: class 1 has the confidence, or one less it, so that the answer has the larger one.
    confidence = np.maximum(confidence, 1 - confidence)
    probabilities = torch.tensor(np.stack([1 - confidence, confidence], axis=1))
    oracle = MulticlassCalibrationError(2, n_bins=bins)(probabilities, torch.tensor(right.astype(int)))
    assert calibration_error(confidence, right, bins) == pytest.approx(float(oracle), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**20), st.integers(20, 400), st.sampled_from(["shares", "reals"]))
def test_intervals_are_those_of_scipy(seed: int, count: int, kind: str) -> None:
    """For answers that are right or wrong the bootstrap is a binomial; for others SciPy's bootstrap is the oracle."""
    generator = np.random.default_rng(seed)
    if kind == "shares":
        values = (generator.random(count) < 0.7).astype(float)
        expected = np.array(stats.binom(count, values.mean()).interval(0.95)) / count
        slack = 1.01 / count
    else:
        values = generator.exponential(size=count)
        drawn = stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=seed)
        expected, slack = np.array(drawn.confidence_interval), 0.25 * values.std() / count**0.5
    low, high = mean_interval(values, seed)
    assert abs(low - expected[0]) <= slack + 1e-9
    assert abs(high - expected[1]) <= slack + 1e-9
    assert mean_interval(values, seed) == (low, high)
    assert mean_interval(values, seed, level=0.5)[0] >= low
